"""Checks that `fairseq-preflight` makes before a run starts.

Each module answers one question, and `checks` combines them. `corpus` and `host` check the data and the machine;
`plan`, `batches`, `memory` and `card` the shapes of batches and the memory that they need; `steps`, `operators`,
`kernels`, `graph_keys` and `device` what an update runs, on a small twin of the run (`tiny`). `report` formats the
findings. Nothing here needs a vendor's package or a card.
"""
