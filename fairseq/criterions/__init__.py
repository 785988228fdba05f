"""Criterions and their registry."""

from fairseq import registry
from fairseq.criterions.fairseq_criterion import FairseqCriterion, LegacyFairseqCriterion

build_criterion, register_criterion, CRITERION_REGISTRY, CRITERION_DATACLASS_REGISTRY = registry.setup_registry(
    "--criterion", base_class=FairseqCriterion, default="wav2vec"
)

from fairseq.criterions import classification, ctc, wav2vec_criterion  # noqa: E402, F401 - fills the registry, so it must come after it

__all__ = [
    "CRITERION_DATACLASS_REGISTRY",
    "CRITERION_REGISTRY",
    "FairseqCriterion",
    "LegacyFairseqCriterion",
    "build_criterion",
    "register_criterion",
]
