"""Read and write folders of transformers.

They have config.json, model.safetensors, preprocessor_config.json and, for a fine-tuned model, the tokenizer's files.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fairseq.conversion import hf_config, names, vocabulary
from fairseq.conversion.portable_model import OutputLayer, PortableModel, encoder_of
from fairseq.conversion.vocabulary import Vocabulary
from fairseq.decoding.tokens import WORD_START, Tokens
from fairseq.installed import advice

logger = logging.getLogger(__name__)

_NEEDS = f"converting to transformers needs transformers and safetensors: {advice('convert')}"
_PROJECTION = "post_extract_proj."


def is_folder(path: str | os.PathLike) -> bool:
    return os.path.isfile(os.path.join(path, "config.json"))


# -- reading -----------------------------------------------------------------------------------------------------------


def read(folder: str | os.PathLike, read_pickle: Callable[[str], Any]) -> PortableModel:
    """Read the model in a folder; this needs safetensors, but not transformers.

    Args:
        read_pickle: the restricted reader of checkpoints, for pytorch_model.bin if there is no safetensors file.
    Raises:
        ValueError: files are missing, or fairseq cannot represent the model; the message names what.
    """
    folder = os.fspath(folder)
    config = _json(folder, "config.json")
    architecture = (config.get("architectures") or [""])[0]
    own = config.get(hf_config.OWN) or {}
    values = hf_config.from_huggingface(config, folder)
    weights = names.one_spelling(_weights(folder, read_pickle))
    fine_tuned = "lm_head.weight" in weights
    if not fine_tuned and architecture and not architecture.endswith(("Model", "ForPreTraining")):
        raise ValueError(
            f"{folder} has a model of class {architecture}: only pre-training and CTC models can be converted"
        )
    conformer = values["layer_type"] == "conformer"
    prefixes = names.huggingface(conformer)
    # tensor names of a bare encoder have no prefix
    if not fine_tuned and not any(name.startswith(prefixes.model) for name in weights):
        weights = {prefixes.model + name: tensor for name, tensor in weights.items()}
    name_there = partial(names.translate, prefixes=prefixes, conformer=conformer)
    encoder, new, left_over = encoder_of(values, fine_tuned, weights, name_there, folder)
    _refuse_left_over(left_over, weights, prefixes, folder)
    if new:
        logger.info(f"{folder} lacks these tensors, which are newly initialized: {', '.join(sorted(new))}")
    task = _preprocessing(folder)
    if not fine_tuned:
        return PortableModel(values, task, encoder, has_new_parts="final_proj.weight" in new)
    if "lm_head.bias" not in weights:
        raise ValueError(f"{folder} lacks the tensor lm_head.bias")
    head = {"weight": weights["lm_head.weight"], "bias": weights["lm_head.bias"]}
    symbols, rows = vocabulary.to_symbols(_vocabulary(folder), head["bias"].size(0))
    settings = own.get("fine_tuning") or {
        "final_dropout": config.get("final_dropout", 0.0),
        "apply_mask": config.get("apply_spec_augment", False),
    }
    return PortableModel(values, task, encoder, OutputLayer(vocabulary.reordered(head, rows), symbols, settings, rows))


def _preprocessing(folder: str) -> dict[str, Any]:
    """Read normalize and sample_rate, from transformers 5's processor_config.json, else preprocessor_config.json."""
    settings = _json(folder, "processor_config.json", needed=False).get("feature_extractor")
    if not isinstance(settings, dict):
        settings = _json(folder, "preprocessor_config.json", needed=False)
    found = {"normalize": settings.get("do_normalize"), "sample_rate": settings.get("sampling_rate", 16_000)}
    if not isinstance(found["normalize"], bool):
        logger.warning(
            f"{folder} does not set do_normalize in preprocessor_config.json or processor_config.json: assuming "
            "task.normalize=true, as transformers does"
        )
        found["normalize"] = True
    return found


def _json(folder: str, name: str, needed: bool = True) -> dict[str, Any]:
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


def _weights(folder: str, read_pickle: Callable[[str], Any]) -> dict[str, Tensor]:
    """Read all tensors of a folder, from one or several files."""
    for name, ending in (("model.safetensors", "safetensors"), ("pytorch_model.bin", "bin")):
        index = _json(folder, f"{name}.index.json", needed=False)
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
        weights: dict[str, Tensor] = {}
        for path in paths:
            weights.update(_safetensors(path) if ending == "safetensors" else read_pickle(path))
        return weights
    raise ValueError(f"{folder} must have model.safetensors or pytorch_model.bin")


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


def _refuse_left_over(
    left_over: set[str], weights: Mapping[str, Tensor], prefixes: names.Prefixes, folder: str
) -> None:
    """Raise ValueError for unused tensors, so that no weight is lost silently."""
    left_over = left_over - {"lm_head.weight", "lm_head.bias"}
    projection = {name for name in left_over if name.startswith(f"{prefixes.projection}projection.")}
    if projection and _is_identity({name.rpartition(".")[2]: weights[name] for name in projection}):
        left_over -= projection
    if left_over:
        raise ValueError(f"{folder} has tensors that fairseq does not have: {', '.join(sorted(left_over)[:5])}")


def _is_identity(projection: Mapping[str, Tensor]) -> bool:
    """Return whether a projection is the identity, which fairseq omits if extractor and encoder have equal widths."""
    weight = projection["weight"]
    return (
        weight.size(0) == weight.size(1)
        and torch.equal(weight, torch.eye(weight.size(0)))
        and not projection["bias"].any()
    )


def _vocabulary(folder: str) -> Vocabulary:
    """Read the tokenizer's tokens, from the files of old and new versions of transformers."""
    rows = _json(folder, "vocab.json")
    if any(not isinstance(row, int) for row in rows.values()):
        raise ValueError(
            f"{os.path.join(folder, 'vocab.json')} has several languages; it must have one. Save that one as vocab.json"
        )
    settings = {
        **_json(folder, "special_tokens_map.json", needed=False),
        **_json(folder, "tokenizer_config.json", needed=False),
    }
    rows |= _json(folder, "added_tokens.json", needed=False)
    for row, token in (settings.get("added_tokens_decoder") or {}).items():
        rows.setdefault(_text(token), int(row))
    named = {key: _text(settings.get(f"{key}_token", default)) for key, default in _TOKENS.items()}
    return Vocabulary(rows, named["pad"], named["bos"], named["eos"], named["unk"], named["word_delimiter"])


_TOKENS = {"pad": "<pad>", "bos": "<s>", "eos": "</s>", "unk": "<unk>", "word_delimiter": "|"}  # token -> default


def _text(token: Any) -> Any:
    return token["content"] if isinstance(token, dict) else token


# -- writing -----------------------------------------------------------------------------------------------------------


def write(source: PortableModel, folder: str) -> None:
    """Write the files to `folder`, which must exist and be empty.

    Raises:
        ValueError: transformers is not installed, or cannot represent this model; the message names what.
    """
    fields = hf_config.to_huggingface(source)
    transformers = _transformers()
    conformer = source.config["layer_type"] == "conformer"
    if source.output is not None:
        kind = Tokens.from_symbols(source.output.symbols).kind
        words = vocabulary.from_symbols(source.output.symbols)
        fields |= {
            "vocab_size": len(words.rows),
            "pad_token_id": words.rows[words.blank],
            "bos_token_id": words.row_of(words.bos),
            "eos_token_id": words.row_of(words.eos),
        }
        _write_tokenizer(words, kind, folder)
    name = "Wav2Vec2Conformer" if conformer else "Wav2Vec2"
    config = getattr(transformers, f"{name}Config")(**fields)
    with torch.device("meta"):
        model = getattr(transformers, f"{name}{'ForCTC' if source.is_fine_tuned else 'ForPreTraining'}")(config)
    model.load_state_dict(_their_weights(source, names.huggingface(conformer), model), strict=True, assign=True)
    model.save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor(
        feature_size=1,
        sampling_rate=source.task["sample_rate"],
        padding_value=0.0,
        do_normalize=source.task["normalize"],
        return_attention_mask=source.config["extractor_mode"] == "layer_norm",
    ).save_pretrained(folder)


def _their_weights(source: PortableModel, prefixes: names.Prefixes, model: nn.Module) -> dict[str, Tensor]:
    translated = names.translate(source.encoder, prefixes, source.config["layer_type"] == "conformer")
    weights = {translated[name]: tensor for name, tensor in source.encoder.items()}
    if _PROJECTION + "weight" not in source.encoder:
        projection, width = f"{prefixes.projection}projection.", source.config["encoder_embed_dim"]
        weights |= {f"{projection}weight": torch.eye(width), f"{projection}bias": torch.zeros(width)}
    if source.output is not None:
        weights |= {prefixes.head + name: tensor for name, tensor in source.output.weights.items()}
    spelled = {names.one_spelling({name: tensor}).popitem()[0]: name for name, tensor in model.state_dict().items()}
    fp32 = {
        name: tensor.float().contiguous() if tensor.is_floating_point() else tensor for name, tensor in weights.items()
    }
    return {spelled.get(name, name): tensor for name, tensor in fp32.items()}


def _write_tokenizer(words: Vocabulary, kind: str, folder: str) -> None:
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
    rows = (
        {token.replace(WORD_START, " "): row for token, row in words.rows.items()}
        if kind == "sentencepiece"
        else words.rows
    )
    contents = {"vocab.json": rows, "special_tokens_map.json": special, "tokenizer_config.json": settings}
    for name, content in contents.items():
        Path(folder, name).write_text(json.dumps(content, ensure_ascii=False, indent=2), encoding="utf-8")


def _transformers() -> Any:
    try:
        transformers: Any = importlib.import_module("transformers")
    except ImportError as error:
        raise ValueError(_NEEDS) from error
    if not transformers.utils.is_torch_available():  # it can then be imported, but has no models
        installed = f"transformers {transformers.__version__} does not support torch {torch.__version__}"
        raise ValueError(f"{installed}: install an older transformers or a newer torch")
    return transformers


def head_of(source: PortableModel) -> str:
    """Return the suffix of transformers' class name for a model from `read`."""
    return "ForCTC" if source.is_fine_tuned else "Model" if source.has_new_parts else "ForPreTraining"


def check_preprocessing(folder: str | os.PathLike) -> None:
    """Raise ValueError if transformers preprocesses audio for this folder differently from `read`."""
    try:
        extractor = _transformers().Wav2Vec2FeatureExtractor.from_pretrained(folder, local_files_only=True)
    except OSError:  # the folder has no file that this version of transformers reads
        return
    theirs = {"normalize": extractor.do_normalize, "sample_rate": extractor.sampling_rate}
    ours = _preprocessing(os.fspath(folder))
    if ours != theirs:
        raise ValueError(
            f"transformers preprocesses audio for {folder} with {theirs}, but {ours} was read. Nothing was written"
        )


@torch.no_grad()
def outputs(folder: str | os.PathLike, waveform: Tensor, head: str) -> list[Tensor]:
    """Run transformers' own model on audio B x S; the outputs have the order of `portable_model.outputs`.

    Args:
        head: ForCTC, ForPreTraining or Model.
    Raises:
        ValueError: transformers is not installed, or preprocesses audio differently.
    """
    check_preprocessing(folder)
    transformers = _transformers()
    config = _json(os.fspath(folder), "config.json")
    kind = "Wav2Vec2Conformer" if config["model_type"] == "wav2vec2-conformer" else "Wav2Vec2"
    model_class = getattr(transformers, kind + head)
    model = model_class.from_pretrained(
        folder, local_files_only=True, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    found = model(waveform)
    if head == "ForCTC":
        return [found.logits]
    return [found.last_hidden_state] if head == "Model" else [found.projected_states, found.projected_quantized_states]
