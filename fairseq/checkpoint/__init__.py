"""Checkpoints: `io` writes and reads files, `retention` names and prunes them, `record` is what a run remembers about
its own, `source` finds the one to start from, `compare` tells how its config differs."""
