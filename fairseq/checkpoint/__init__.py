"""Checkpoints.

`io` writes and reads files, `retention` names and prunes them, `record` holds a run's record of its own, `source`
finds the one to start from, `compare` lists differences between configs, and `update_size` keeps the size of updates.
"""
