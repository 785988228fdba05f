"""Metrics, progress bars, and the destinations of metrics and log lines."""
