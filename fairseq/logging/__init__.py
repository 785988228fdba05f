"""Metrics (what is counted), progress bars (how it is shown) and the run's metrics file (how it is kept)."""
