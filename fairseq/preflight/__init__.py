"""What `fairseq-preflight` looks at before a run starts: each module answers one question, `checks` puts the answers
together.

`corpus` and `host` look at the data and the machine, `plan`, `batches`, `memory` and `card` at the shapes of batches
and what they need, `steps`, `operators`, `kernels`, `graph_keys` and `device` at what an update runs on a small twin
of the run (`tiny`); `report` prints it. Nothing here needs a vendor's package or a card.
"""
