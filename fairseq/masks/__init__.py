"""Masks over frames and channels: their settings, spans, positions with weights, a batch of them, a forward pass's."""
