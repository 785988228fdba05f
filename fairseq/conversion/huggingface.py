"""Read and write folders of transformers.

They have config.json, model.safetensors, preprocessor_config.json and, for a fine-tuned model, the tokenizer's files.
One with adapters can have several languages, each with a vocabulary and a file adapter.LANGUAGE.safetensors.
"""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fairseq.conversion import hf_config, hf_folder, hf_kinds, names, vocabulary
from fairseq.conversion.hf_folder import ReadPickle
from fairseq.conversion.hf_kinds import Kind
from fairseq.conversion.portable_model import OutputLayer, PortableModel, encoder_of
from fairseq.decoding.tokens import Tokens
from fairseq.installed import advice
from fairseq.models import kinds

logger = logging.getLogger(__name__)

_NEEDS = f"converting to transformers needs transformers and safetensors: {advice('convert')}"
_PROJECTION = "post_extract_proj."


def is_folder(path: str | os.PathLike[str]) -> bool:
    return os.path.isfile(os.path.join(path, "config.json"))


# -- reading -----------------------------------------------------------------------------------------------------------


def read(
    folder: str | os.PathLike[str], read_pickle: ReadPickle, language: str | None = None, with_head: bool = True
) -> PortableModel:
    """Read the model in a folder; this needs safetensors, but not transformers.

    Args:
        read_pickle: the restricted reader of checkpoints, for .bin files if there is no safetensors file.
        language: whose adapters and output layer to read; None: those among the model's weights.
        with_head: read the output layer and its vocabulary; else only the encoder.
    Raises:
        ValueError: files are missing, or fairseq cannot represent the model; the message names what.
    """
    folder = os.fspath(folder)
    config = hf_folder.read_json(folder, "config.json")
    architecture = (config.get("architectures") or [""])[0]
    own = config.get(hf_config.OWN) or {}
    kind, values = hf_config.from_huggingface(config, folder)
    weights = names.one_spelling(hf_folder.weights(folder, read_pickle))
    if language is not None:
        weights = hf_folder.with_language(weights, folder, language, read_pickle)
    fine_tuned = "lm_head.weight" in weights
    if not fine_tuned and architecture and not architecture.endswith(("Model", "ForPreTraining")):
        raise ValueError(
            f"{folder} has a model of class {architecture}: only pre-training and CTC models can be converted"
        )
    # tensor names of a bare encoder have no prefix
    if not fine_tuned and not any(name.startswith(kind.names.model) for name in weights):
        weights = {kind.names.model + name: tensor for name, tensor in weights.items()}
    encoder, new, left_over = encoder_of(values, fine_tuned, weights, kind.names.of, folder, kind.has_heads)
    _refuse_left_over(left_over, weights, kind, folder)
    if new:
        logger.info(f"{folder} lacks these tensors, which are newly initialized: {', '.join(sorted(new))}")
    task = hf_folder.preprocessing(folder)
    if not fine_tuned or not with_head:
        return PortableModel(values, task, encoder, has_new_parts="final_proj.weight" in new)
    if "lm_head.bias" not in weights:
        raise ValueError(f"{folder} lacks the tensor lm_head.bias")
    head = {"weight": weights["lm_head.weight"], "bias": weights["lm_head.bias"]}
    symbols, rows = vocabulary.to_symbols(hf_folder.vocabulary(folder, language), head["bias"].size(0))
    settings = own.get("fine_tuning") or {
        "final_dropout": config.get("final_dropout", 0.0),
        "apply_mask": config.get("apply_spec_augment", False),
    }
    settings = {**settings, "_name": kind.fine_tuned}
    output = OutputLayer(vocabulary.reordered(head, rows), symbols, settings, rows, language)
    return PortableModel(values, task, encoder, output)


def _refuse_left_over(left_over: set[str], weights: Mapping[str, Tensor], kind: Kind, folder: str) -> None:
    """Raise ValueError for unused tensors, so that no weight is lost silently."""
    left_over = left_over - {"lm_head.weight", "lm_head.bias"}
    projection = {name for name in left_over if name.startswith(f"{kind.names.projection}projection.")}
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


# -- writing -----------------------------------------------------------------------------------------------------------


def write(source: PortableModel, folder: str) -> None:
    """Write the files to `folder`, which must exist and be empty.

    Raises:
        ValueError: transformers is not installed, or cannot represent this model; the message names what.
    """
    kind = hf_config.kind_of(source)
    fields = hf_config.to_huggingface(source)
    transformers = _transformers()
    language = None if source.output is None else source.output.language
    if language is not None and "adapter_attn_dim" not in kind.marks:
        raise ValueError(
            f"--language is {language}, but the model has no adapters: leave it out, or convert a model with "
            "model.layer_type=trf_adp"
        )
    if source.output is not None:
        words = vocabulary.from_symbols(source.output.symbols)
        fields |= {
            "vocab_size": len(words.rows),
            "pad_token_id": words.rows[words.blank],
            "bos_token_id": words.row_of(words.bos),
            "eos_token_id": words.row_of(words.eos),
        }
        hf_folder.write_tokenizer(words, Tokens.from_symbols(source.output.symbols).kind, folder, language)
    config = getattr(transformers, f"{kind.class_name}Config")(**fields)
    with torch.device("meta"):
        model = getattr(transformers, f"{kind.class_name}{written_head(source)}")(config)
    weights = _their_weights(source, kind, model)
    model.load_state_dict(weights, strict=True, assign=True)
    model.save_pretrained(folder)
    if language is not None:
        from safetensors.torch import save_file

        own = {name: tensor for name, tensor in weights.items() if hf_folder.is_of_language(name)}
        save_file(own, os.path.join(folder, hf_folder.adapter_files(language)[0]), metadata={"format": "pt"})
    transformers.Wav2Vec2FeatureExtractor(
        feature_size=1,
        sampling_rate=source.task["sample_rate"],
        padding_value=0.0,
        do_normalize=source.task["normalize"],
        return_attention_mask=source.config["extractor_mode"] == "layer_norm",
    ).save_pretrained(folder)


def _their_weights(source: PortableModel, kind: Kind, model: nn.Module) -> dict[str, Tensor]:
    cls = kinds.encoder_of({"model": source.config})
    left = [name for name in source.encoder if not kind.has_heads and cls.is_pretraining_only(name)]
    if left:
        logger.info(f"tensors dropped, because transformers' model does not have them: {', '.join(left)}")
    translated = kind.names.of(name for name in source.encoder if name not in left)
    weights = {theirs: source.encoder[ours] for ours, theirs in translated.items()}
    if _PROJECTION + "weight" not in source.encoder:
        projection, width = f"{kind.names.projection}projection.", source.config["encoder_embed_dim"]
        weights |= {f"{projection}weight": torch.eye(width), f"{projection}bias": torch.zeros(width)}
    if source.output is not None:
        weights |= {kind.names.head + name: tensor for name, tensor in source.output.weights.items()}
    if written_head(source) == "Model":  # names of a bare encoder have no prefix
        weights = {name.removeprefix(kind.names.model): tensor for name, tensor in weights.items()}
    there = {names.one_spelling({name: like}).popitem()[0]: (name, like) for name, like in model.state_dict().items()}
    spelled = {}
    for name, tensor in weights.items():
        theirs, like = there.get(name, (name, tensor))
        fp32 = tensor.float().contiguous() if tensor.is_floating_point() else tensor
        spelled[theirs] = names.like(fp32, like.shape)
    return spelled


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
    return "Model" if source.has_new_parts else written_head(source)


def written_head(source: PortableModel) -> str:
    """Return the suffix of the class that `write` uses."""
    return "ForCTC" if source.is_fine_tuned else hf_config.kind_of(source).pretrained_class


def check_preprocessing(folder: str | os.PathLike[str]) -> None:
    """Raise ValueError if transformers preprocesses audio for this folder differently from `read`."""
    try:
        extractor = _transformers().Wav2Vec2FeatureExtractor.from_pretrained(folder, local_files_only=True)
    except OSError:  # the folder has no file that this version of transformers reads
        return
    theirs = {"normalize": extractor.do_normalize, "sample_rate": extractor.sampling_rate}
    ours = hf_folder.preprocessing(os.fspath(folder))
    if ours != theirs:
        raise ValueError(
            f"transformers preprocesses audio for {folder} with {theirs}, but {ours} was read. Nothing was written"
        )


@torch.no_grad()
def outputs(folder: str | os.PathLike[str], waveform: Tensor, head: str, language: str | None = None) -> list[Tensor]:
    """Run transformers' own model on audio B x S; the outputs have the order of `portable_model.outputs`.

    Args:
        head: ForCTC, ForPreTraining or Model.
        language: whose adapters and output layer to use; None: those among the model's weights.
    Raises:
        ValueError: transformers is not installed, or preprocesses audio differently.
    """
    check_preprocessing(folder)
    transformers = _transformers()
    kind = hf_kinds.of_theirs(hf_folder.read_json(os.fspath(folder), "config.json"))
    assert kind is not None, "`read` refuses other kinds"
    more = {} if language is None else {"target_lang": language, "ignore_mismatched_sizes": True}
    model = getattr(transformers, kind.class_name + head).from_pretrained(
        folder, local_files_only=True, dtype=torch.float32, attn_implementation="eager", **more
    )
    found = model.eval()(waveform)
    if head == "ForCTC":
        return [found.logits]
    return [found.last_hidden_state] if head == "Model" else [found.projected_states, found.projected_quantized_states]
