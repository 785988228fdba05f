"""Training: the loop, the trainer, and its parts (precision, gradients, statistics, averaged weights, state)."""
