"""The kinds of sources that `fairseq-pack` reads, one in each file."""

from fairseq.corpora.pack.source import kinds, open_source
from fairseq.corpora.pack.sources import folder, huggingface, kaldi, lhotse, manifest, nemo, parquet

__all__ = ["folder", "huggingface", "kaldi", "kinds", "lhotse", "manifest", "nemo", "open_source", "parquet"]
