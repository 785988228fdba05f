"""Processes: `launch` starts or joins them, `utils` holds the collectives."""
