"""The Trainer's hands: precision, gradients, statistics, averaged weights and what a checkpoint holds."""
