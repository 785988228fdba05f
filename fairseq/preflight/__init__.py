"""What `fairseq-preflight` looks at before a run starts: each module answers one question, `checks` puts the answers
together.

`corpus` and `host` ask about the data and the machine, `shapes` and `memory` about the batches, `operators` and
`graphs` about what an update runs, `report` tells it. Nothing here needs a vendor's package or a card.
"""
