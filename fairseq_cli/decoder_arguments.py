"""Arguments of the commands that decode, and the decoder that they select."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from dataclasses import fields

from fairseq.decoding.beam import BeamDecoder, BeamSettings, allowed_instead, read_beam
from fairseq.decoding.greedy import GreedyDecoder
from fairseq.decoding.hotwords import BOOST, read_hotwords
from fairseq.inference.model import SpeechModel
from fairseq_cli import command

logger = logging.getLogger(__name__)

_BEAM_OPTIONS = ("beam", "beam_size_token", "beam_threshold", "lm_weight", "word_score", "unk_weight", "sil_weight")


def add_decoder_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the model, the decoder and the windows."""
    command.add_dictionary(parser)
    command.add_adapter(parser)
    parser.add_argument("--lexicon", help="words with their spelling, one `WORD W O R D |` per line, or only the words")
    parser.add_argument("--lm", "--lm-model", dest="lm", help="n-gram language model in ARPA or KenLM binary format")
    parser.add_argument(
        "--hotwords",
        metavar="FILE or WORD:BOOST,...",
        help=f"words to prefer, such as names; a file has a `WORD BOOST` on each line (default boost: {BOOST:g})",
    )
    beam = BeamSettings()
    for option in _BEAM_OPTIONS:
        default = getattr(beam, option)
        kind = int if option in ("beam", "beam_size_token") else float
        shown = "all" if default is None else f"{default:g}"
        parser.add_argument(
            f"--{option.replace('_', '-')}", type=kind, default=default, help=f"beam search setting (default: {shown})"
        )
    parser.add_argument("--nbest", type=int, default=1, help="hypotheses per utterance of a beam search (default: 1)")
    command.add_device_and_precision(parser, "auto", "auto: bf16 if it is faster; int8: see docs/decoding.md")
    command.add_windows(parser)


def decoder_of(args: argparse.Namespace, model: SpeechModel) -> GreedyDecoder | BeamDecoder:
    """The decoder that the arguments select: greedy without a lexicon, a language model and hot words."""
    if not _has_beam(args):
        return GreedyDecoder(model.dictionary())
    settings = BeamSettings(**{f.name: getattr(args, f.name) for f in fields(BeamSettings) if hasattr(args, f.name)})
    hotwords = None if args.hotwords is None else read_hotwords(args.hotwords)
    return read_beam(model.dictionary(), args.lexicon, args.lm, settings, args.nbest, hotwords)


def _has_beam(args: argparse.Namespace) -> bool:
    return not (args.lexicon is None and args.lm is None and args.hotwords is None)


def check_arguments(args: argparse.Namespace) -> None:
    """Raise ValueError for numbers that decoding or evaluation cannot use; warn about those without effect."""
    for option in ("nbest", "bootstrap_draws", "max_tokens"):
        if vars(args).get(option, 1) < 1:
            raise ValueError(f"{_typed(option)} is {vars(args)[option]}; it must be at least 1")
    for option in _BEAM_OPTIONS:
        allowed = allowed_instead(option, getattr(args, option))
        if allowed is not None:
            raise ValueError(f"{_typed(option)} is {getattr(args, option)}; it must be {allowed}")
    has_beam = _has_beam(args)
    if args.hotwords is not None:
        read_hotwords(args.hotwords)
    if args.nbest > 1 and not has_beam:
        raise ValueError(
            f"--nbest {args.nbest} requires a beam search: give --lexicon, --lm or --hotwords. Without them, decoding "
            "is greedy and has one hypothesis"
        )
    settings = BeamSettings()
    needs_lm = () if args.lm is not None else ("lm_weight",)
    idle = [
        option
        for option in (needs_lm if has_beam else _BEAM_OPTIONS)
        if getattr(args, option) != getattr(settings, option)
    ]
    if idle:
        needed = "a language model (--lm)" if has_beam else "the beam search (--lexicon, --lm, --hotwords)"
        logger.warning("no effect without %s: %s", needed, ", ".join(map(_typed, idle)))


def _typed(option: str) -> str:
    return f"--{option.replace('_', '-')}"


def join_negative_values(argv: Sequence[str]) -> list[str]:
    """Rewrite `--unk-weight -inf` to `--unk-weight=-inf`: argparse mistakes -inf and -1e3 for options."""
    joined: list[str] = []
    for word in argv:
        if (
            joined
            and joined[-1].startswith("--")
            and "=" not in joined[-1]
            and word.startswith("-")
            and _is_number(word)
        ):
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    return joined


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
