"""Convert command lines of fairseq's two `infer.py` scripts to `fairseq-infer`."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

# old argument -> its name here; None: fairseq-infer does not need it
_WITH_VALUE: dict[str, str | None] = {
    "--task": None,
    "--criterion": None,
    "--w2l-decoder": None,
    "--post-process": None,
    "--remove-bpe": None,
    "--batch-size": None,
    "--max-sentences": None,
    "--num-workers": None,
    "--user-dir": None,
    "--model-overrides": None,
    "--log-format": None,
    "--log-interval": None,
    "--rnnt_decoding_type": None,
    "--rnnt_len_penalty": None,
    "--rnnt-decoding-type": None,
    "--rnnt-len-penalty": None,
    "--kenlm-model": "--lm",
    "--lm_weight": "--lm-weight",
    "--results_path": "--results-path",
}
_FLAGS = ("--quiet", "--fp16", "--memory-efficient-fp16", "--cpu", "--normalize", "--unit-lm", "--no-progress-bar")
_NOT_OFFERED = {
    "--wfstlm": "decoding with a WFST",
    "--kspmodel": "a separate sentencepiece model (the checkpoint's dictionary has the pieces)",
    "--dump-emissions": "writing log-probabilities",
    "--load-emissions": "reading log-probabilities",
    "--dump-features": "features here (fairseq-extract writes them)",
}
_OPTIONAL_VALUE = ("--remove-bpe", "--post-process")
# keys of the newer script, examples/speech_recognition/new/infer.py; others are dropped
_KEYS = {
    "common_eval.path": "--path",
    "common_eval.results_path": "--results-path",
    "decoding.results_path": "--results-path",
    "dataset.gen_subset": "--gen-subset",
    "dataset.max_tokens": "--max-tokens",
    "task.labels": "--labels",
    "decoding.lexicon": "--lexicon",
    "decoding.lmpath": "--lm",
    "decoding.lmweight": "--lm-weight",
    "decoding.wordscore": "--word-score",
    "decoding.unkweight": "--unk-weight",
    "decoding.silweight": "--sil-weight",
    "decoding.beam": "--beam",
    "decoding.beamthreshold": "--beam-threshold",
    "decoding.beamsizetoken": "--beam-size-token",
    "decoding.nbest": "--nbest",
    "decoding.type": "--w2l-decoder",
}
_GROUPS = (
    "task",
    "decoding",
    "common_eval",
    "common",
    "dataset",
    "distributed_training",
    "model",
    "criterion",
    "hydra",
)
_LANGUAGE_MODEL = ("--lm", "--lm-model", "--lexicon")


def new_command(argv: Sequence[str]) -> str | None:
    """A message with the old arguments and the command to use instead; None if there are no old arguments."""
    words = [part for word in argv for part in (word.split("=", 1) if word.startswith("--") else [word])]
    old = [word for word in words if word in _WITH_VALUE or word in _FLAGS or word in _NOT_OFFERED]
    by_key = [word for word in words if _is_override(word)]
    if not old and not by_key:
        return None
    kept, options, dropped = _sorted(words)
    decoder = options.pop("--w2l-decoder", None)
    if decoder == "viterbi":  # it uses neither a lexicon nor a language model
        options = {name: value for name, value in options.items() if name not in _LANGUAGE_MODEL}
    command = ["fairseq-infer", *kept, *(part for item in options.items() for part in _typed(*item))]
    names = ", ".join(dict.fromkeys([*old, *(word.partition("=")[0] for word in by_key)]))
    text = (
        f"these are arguments of fairseq's infer.py: {names}. fairseq-infer takes task, units and normalisation "
        "from the checkpoint. "
    )
    refused = [_NOT_OFFERED[name] for name in dropped]
    refused += ["a neural language model (fairseqlm)"] if decoder == "fairseqlm" else []
    if refused:
        text += f"Not offered: {'; '.join(refused)}. "
    return f"{text}The same command is now:\n  {shlex.join(command)}"


def _is_override(word: str) -> bool:
    key, equals, _ = word.lstrip("+").partition("=")
    return bool(equals) and not word.startswith("-") and key.split(".")[0] in _GROUPS


def _sorted(words: list[str]) -> tuple[list[str], dict[str, str | None], list[str]]:
    """(unchanged words, options by their names here, arguments that are not offered)."""
    kept: list[str] = []
    options: dict[str, str | None] = {}
    dropped: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        key, _, value = word.lstrip("+").partition("=")
        has_value = bool(rest) and not (rest[0].startswith("--") or _is_override(rest[0]))
        if _is_override(word):
            if key == "task.data":
                kept.insert(0, value)
            elif key in _KEYS:
                options[_KEYS[key]] = value
        elif word in _NOT_OFFERED:
            dropped.append(word)
            rest = rest[has_value:]
        elif word in _WITH_VALUE:
            taken = rest.pop(0) if has_value and (word not in _OPTIONAL_VALUE or _is_unit(rest[0])) else None
            name = "--w2l-decoder" if word == "--w2l-decoder" else _WITH_VALUE[word]
            if name is not None:
                options[name] = taken
        elif word in ("--config-dir", "--config-name", "--config-path"):
            rest = rest[has_value:]
        elif word.startswith("--") and word not in _FLAGS:
            options[word] = rest.pop(0) if has_value else None
        elif word not in _FLAGS and word not in ("--multirun", "-m"):
            kept.append(word)
    return kept, options, dropped


def _is_unit(word: str) -> bool:
    """Whether this is a value of --post-process, which can be given without one."""
    return word in ("letter", "sentencepiece", "wordpiece", "subword_nmt", "@@ ", "_EOW", "none", "silence")


def _typed(name: str, value: str | None) -> list[str]:
    if value is None:
        return [name]
    return [f"{name}={value}"] if value.startswith("-") else [name, value]
