"""Groups `generation`, `eval_lm` and `interactive`: decoding of text, which this package does not do.

The groups exist because fairseq's checkpoints carry them and because audio_finetuning's config holds a
GenerationConfig.
"""

import sys

# ChoiceEnum makes the types of choices at run time
# pyright: reportInvalidTypeForm=false
from dataclasses import dataclass
from typing import Any, Optional

from fairseq.dataclass.base import FairseqDataclass
from fairseq.dataclass.constants import (
    GENERATION_CONSTRAINTS_CHOICES,
    GENERATION_DECODING_FORMAT_CHOICES,
    PRINT_ALIGNMENT_CHOICES,
)


@dataclass
class GenerationConfig(FairseqDataclass):
    """Beam search of fairseq's sequence generator."""

    beam: int = 5
    beam_mt: int = 0
    nbest: int = 1
    max_len_a: float = 0
    max_len_b: int = 200
    max_len_a_mt: float = 0
    max_len_b_mt: int = 200
    min_len: int = 1
    match_source_len: bool = False
    unnormalized: bool = False
    no_early_stop: bool = False
    no_beamable_mm: bool = False
    lenpen: float = 1
    lenpen_mt: float = 1
    unkpen: float = 0
    replace_unk: Optional[str] = None
    sacrebleu: bool = False
    score_reference: bool = False
    prefix_size: int = 0
    no_repeat_ngram_size: int = 0
    sampling: bool = False
    sampling_topk: int = -1
    sampling_topp: float = -1.0
    constraints: Optional[GENERATION_CONSTRAINTS_CHOICES] = None
    temperature: float = 1.0
    diverse_beam_groups: int = -1
    diverse_beam_strength: float = 0.5
    diversity_rate: float = -1.0
    print_alignment: Optional[PRINT_ALIGNMENT_CHOICES] = None
    print_step: bool = False
    lm_path: Optional[str] = None
    lm_weight: float = 0.0
    iter_decode_eos_penalty: float = 0.0
    iter_decode_max_iter: int = 10
    iter_decode_force_max_iter: bool = False
    iter_decode_with_beam: int = 1
    iter_decode_with_external_reranker: bool = False
    retain_iter_history: bool = False
    retain_dropout: bool = False
    retain_dropout_modules: Any = None
    decoding_format: Optional[GENERATION_DECODING_FORMAT_CHOICES] = None
    no_seed_provided: bool = False
    eos_token: Optional[str] = None


@dataclass
class EvalLMConfig(FairseqDataclass):
    """Scoring of text by a language model."""

    output_word_probs: bool = False
    output_word_stats: bool = False
    context_window: int = 0
    softmax_batch: int = sys.maxsize


@dataclass
class InteractiveConfig(FairseqDataclass):
    """Decoding of typed lines."""

    buffer_size: int = 0
    input: str = "-"
