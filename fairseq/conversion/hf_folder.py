"""Read and write the files of a transformers folder: JSON, weights, a tokenizer's vocabulary, languages' adapters."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from fairseq.conversion.vocabulary import Vocabulary
from fairseq.decoding.tokens import WORD_START
from fairseq.installed import advice

logger = logging.getLogger(__name__)

ReadPickle = Callable[[str], Any]  # the restricted reader of checkpoints
_LANGUAGE = r"[\w-][\w.-]*"
_LISTED = 20  # languages in a message
_TOKENS = {"pad": "<pad>", "bos": "<s>", "eos": "</s>", "unk": "<unk>", "word_delimiter": "|"}  # token -> default


def read_json(folder: str, name: str, needed: bool = True) -> dict[str, Any]:
    """Read an object of a JSON file; {} for a missing file that is not needed.

    Raises:
        ValueError: it cannot be read, or is not an object.
    """
    path = os.path.join(folder, name)
    if not needed and not os.path.exists(path):
        return {}
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read {path}: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must be a JSON object")
    return content


def preprocessing(folder: str) -> dict[str, Any]:
    """Read normalize and sample_rate, from transformers 5's processor_config.json, else preprocessor_config.json."""
    settings = read_json(folder, "processor_config.json", needed=False).get("feature_extractor")
    if not isinstance(settings, dict):
        settings = read_json(folder, "preprocessor_config.json", needed=False)
    found = {"normalize": settings.get("do_normalize"), "sample_rate": settings.get("sampling_rate", 16_000)}
    if not isinstance(found["normalize"], bool):
        logger.warning(
            f"{folder} does not set do_normalize in preprocessor_config.json or processor_config.json: assuming "
            "task.normalize=true, as transformers does"
        )
        found["normalize"] = True
    return found


# -- weights -----------------------------------------------------------------------------------------------------------


def weights(folder: str, read_pickle: ReadPickle) -> dict[str, Tensor]:
    """Read all tensors of a folder, from one or several files.

    Raises:
        ValueError: files are missing or damaged.
    """
    for name in ("model.safetensors", "pytorch_model.bin"):
        index = read_json(folder, f"{name}.index.json", needed=False)
        if index and not isinstance(index.get("weight_map"), dict):
            raise ValueError(f"{os.path.join(folder, name)}.index.json must have an object `weight_map`")
        files = sorted(set(index["weight_map"].values())) if index else [name]
        paths = [os.path.join(folder, os.path.basename(file)) for file in files]
        missing = [os.path.basename(path) for path in paths if not os.path.exists(path)]
        if missing and index:
            raise ValueError(
                f"{folder} lacks {', '.join(missing)} of the {len(paths)} files in {name}.index.json: download them too"
            )
        if missing:
            continue
        found: dict[str, Tensor] = {}
        for path in paths:
            found.update(tensors(path, read_pickle))
        return found
    raise ValueError(f"{folder} must have model.safetensors or pytorch_model.bin")


def tensors(path: str, read_pickle: ReadPickle) -> dict[str, Tensor]:
    """Read the tensors of one file, .bin or .safetensors.

    Raises:
        ValueError: it is damaged, or holds something else.
    """
    found = read_pickle(path) if path.endswith(".bin") else _safetensors(path)
    if not isinstance(found, dict) or not all(isinstance(tensor, Tensor) for tensor in found.values()):
        raise ValueError(f"{path} must hold tensors by name, and nothing else")
    return found


def _safetensors(path: str) -> dict[str, Tensor]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise ValueError(f"reading {path} needs safetensors: {advice('convert')}") from error
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is damaged or truncated ({error}): copy or download it again") from error


# -- languages ---------------------------------------------------------------------------------------------------------


def adapter_files(language: str) -> tuple[str, str]:
    """Names of the file with a language's adapters and output layer, in order of preference.

    Raises:
        ValueError: no file name can have this language.
    """
    if not re.fullmatch(_LANGUAGE, language):
        raise ValueError(
            f"the language is {language!r}. It must be the name of a language as in adapter.LANGUAGE.safetensors: "
            "letters, digits, dots, - and _."
        )
    return f"adapter.{language}.safetensors", f"adapter.{language}.bin"


def language_of(file: str | os.PathLike[str]) -> str | None:
    """Return the language of a file adapter.LANGUAGE.safetensors or .bin; None: the file has another name."""
    match = re.fullmatch(rf"adapter\.({_LANGUAGE})\.(?:safetensors|bin)", os.path.basename(file))
    return None if match is None else match[1]


def languages_in(folder: str | os.PathLike[str]) -> list[str]:
    """List the languages that a folder has adapters of."""
    found = {language_of(name) for name in os.listdir(folder)}
    return sorted(language for language in found if language is not None)


def listed(languages: Iterable[str], wanted: object = None) -> str:
    """List some languages as text; those that begin like the wanted one come first."""
    start = str(wanted)[:2]
    ordered = sorted(languages, key=lambda language: (not language.startswith(start), language))
    more = len(ordered) - _LISTED
    return ", ".join(ordered[:_LISTED]) + (f" and {more} more" if more > 0 else "")


def is_of_language(name: str) -> bool:
    """Whether each language has its own tensor of this name: adapters and output layer."""
    return ".adapter_layer." in name or name.startswith("lm_head.")


def with_language(base: Mapping[str, Tensor], folder: str, language: str, read_pickle: ReadPickle) -> dict[str, Tensor]:
    """Replace the tensors of adapters and output layer by those of a language.

    Raises:
        ValueError: the folder has no file for it, or that has other tensors.
    """
    paths = [os.path.join(folder, name) for name in adapter_files(language)]
    path = next((path for path in paths if os.path.exists(path)), None)
    if path is None:
        known = listed(languages_in(folder), language)
        raise ValueError(
            f"{folder} has no {os.path.basename(paths[0])} for --language {language}: download that file into it, or "
            f"choose another language. {'It has: ' + known if known else ''}".rstrip()
        )
    own = tensors(path, read_pickle)
    wanted = {name for name in base if is_of_language(name)}
    if set(own) != wanted:
        wrong = sorted(set(own) ^ wanted)
        raise ValueError(
            f"{path} must have the tensors of adapters and output layer of the model next to it; they differ in "
            f"{', '.join(wrong[:3])}"
        )
    return {**base, **own}


def vocabulary(folder: str, language: str | None = None) -> Vocabulary:
    """Read the tokenizer's tokens, from the files of old and new versions of transformers.

    Args:
        language: one of several; None: the tokenizer's target_lang.
    Raises:
        ValueError: a file is damaged, or the language is not in vocab.json.
    """
    rows = read_json(folder, "vocab.json")
    settings = {
        **read_json(folder, "special_tokens_map.json", needed=False),
        **read_json(folder, "tokenizer_config.json", needed=False),
    }
    if any(isinstance(row, dict) for row in rows.values()):
        language = settings.get("target_lang") if language is None else language
        if not isinstance(language, str) or not isinstance(rows.get(language), dict):
            raise ValueError(
                f"{os.path.join(folder, 'vocab.json')} has one vocabulary per language, and the language is "
                f"{language!r}. It must be one of: {listed(rows, language)}"
            )
        rows = rows[language]
    if any(not isinstance(row, int) for row in rows.values()):
        raise ValueError(f"{os.path.join(folder, 'vocab.json')} must give an integer for each token")
    rows = {**rows, **read_json(folder, "added_tokens.json", needed=False)}
    for row, token in (settings.get("added_tokens_decoder") or {}).items():
        rows.setdefault(_text(token), int(row))
    named = {key: _text(settings.get(f"{key}_token", default)) for key, default in _TOKENS.items()}
    return Vocabulary(rows, named["pad"], named["bos"], named["eos"], named["unk"], named["word_delimiter"])


def _text(token: Any) -> Any:
    return token["content"] if isinstance(token, dict) else token


def write_tokenizer(words: Vocabulary, kind: str, folder: str, language: str | None = None) -> None:
    """Write a tokenizer that joins units of this kind (see `Tokens.kind`) to words as fairseq does.

    Letters: the word delimiter becomes a space. Sentencepieces: a piece that starts a word starts with a space. Phones
    and words: the phoneme tokenizer puts a space between units.
    """
    special = {"pad_token": words.blank, "bos_token": words.bos, "eos_token": words.eos, "unk_token": words.unk}
    special = {key: token for key, token in special.items() if token is not None}
    settings = {"tokenizer_class": "Wav2Vec2CTCTokenizer", "do_lower_case": False, **special}
    if kind == "letter":
        settings |= {"word_delimiter_token": words.word_end}
    elif kind == "none":
        settings |= {
            "tokenizer_class": "Wav2Vec2PhonemeCTCTokenizer",
            "do_phonemize": False,
            "word_delimiter_token": None,
        }
    rows: Mapping[str, Any] = (
        {token.replace(WORD_START, " "): row for token, row in words.rows.items()}
        if kind == "sentencepiece"
        else words.rows
    )
    if language is not None:
        rows, settings = {language: rows}, {**settings, "target_lang": language}
    contents = {"vocab.json": rows, "special_tokens_map.json": special, "tokenizer_config.json": settings}
    for name, content in contents.items():
        Path(folder, name).write_text(json.dumps(content, ensure_ascii=False, indent=2), encoding="utf-8")
