"""Pack a corpus of any form into tar shards with a manifest: the work of `fairseq-pack`."""
