"""Masks over frames and channels: settings, spans, positions and weights, and the masks of batches and models."""
