"""Export a fine-tuned model to ONNX: audio of any length in, logits out; onnxruntime runs it without torch."""

from __future__ import annotations

import json
import logging
import os
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.jit._trace import TracerWarning

from fairseq import device
from fairseq.conversion.portable_model import PortableModel
from fairseq.conversion.runtime_form import Padded, Waveform, about, check, prepared
from fairseq.installed import advice

OPSET = 17
SHERPA_FILES = ("model.onnx", "model.int8.onnx", "tokens.txt")
_TRACED_SAMPLES = 16_000  # arbitrary: the graph does not depend on it


def write(source: PortableModel, path: str) -> None:
    """Export a model; symbols, normalize and sample_rate are stored in the file's metadata.

    Raises:
        ValueError: the model cannot be exported, or onnx and onnxruntime are not installed.
    """
    _export(source, path, Padded)


def write_int8(source: PortableModel, path: str) -> None:
    """Export a model with the weights of its matrix products in 8-bit integers, by onnxruntime's quantizer.

    Raises:
        ValueError: see `write`.
    """
    whole = f"{path}.fp32"
    try:
        write(source, whole)
        _quantize(source, whole, path)
    finally:
        if os.path.exists(whole):
            os.remove(whole)


def write_sherpa(source: PortableModel, folder: str) -> None:
    """Write a folder for sherpa-onnx's model type `omnilingual_asr_ctc`, which takes a waveform: SHERPA_FILES.

    Raises:
        ValueError: see `write`; or the model expects audio that is not normalised or not at 16 kHz, since sherpa-onnx
            normalises it, or has symbols with spaces.
    """
    check(source, "ONNX")
    assert source.output is not None
    if not source.task["normalize"] or source.task["sample_rate"] != 16_000:
        raise ValueError(
            f"task.normalize={source.task['normalize']}, task.sample_rate={source.task['sample_rate']}: sherpa-onnx "
            "gives its models normalised audio of 16,000 Hz. Use --to onnx"
        )
    os.mkdir(folder)
    model, int8, tokens = (os.path.join(folder, name) for name in SHERPA_FILES)
    _export(source, model, Waveform)
    _quantize(source, model, int8)
    names = {0: "<blk>"}
    symbols = [
        names.get(row, "\u2581" if symbol == "|" else symbol) for row, symbol in enumerate(source.output.symbols)
    ]
    lines = [f"{symbol} {row}\n" for row, symbol in enumerate(symbols)]
    Path(tokens).write_text("".join(lines), encoding="utf-8")


def _export(source: PortableModel, path: str, form: type[Padded]) -> None:
    check(source, "ONNX")
    _packages()
    model = prepared(source, form)
    audio = torch.randn(2, _TRACED_SAMPLES)
    lengths = torch.tensor([_TRACED_SAMPLES, _TRACED_SAMPLES // 2])
    # forms with ONNX operators; all forms compute the same
    with device.forced(conv_form="conv1d", pos_conv_form="conv1d", attention_form="matmul"), warnings.catch_warnings():
        # the newer exporter takes minutes and needs another package
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", category=TracerWarning)
        torch.onnx.export(
            model,
            (audio, lengths)[: len(form.inputs)],
            path,
            input_names=list(form.inputs),
            output_names=list(form.outputs),
            dynamic_axes={**form.inputs, **form.outputs},
            opset_version=OPSET,
            dynamo=False,
        )
    _describe(source, path)


def _quantize(source: PortableModel, path: str, target: str) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    onnx, _ = _packages()
    products = [node.name for node in onnx.load(path).graph.node if node.op_type == "MatMul"]
    # convolutions stay fp32: onnxruntime has no fast kernel for them with dynamic scales
    logging.disable(logging.WARNING)  # a line for each tensor that stays fp32
    try:
        quantize_dynamic(
            path,
            target,
            op_types_to_quantize=["MatMul"],
            per_channel=True,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=products[-1:],  # the output layer: small, and its errors change symbols
        )
    finally:
        logging.disable(logging.NOTSET)
    _describe(source, target)


def _describe(source: PortableModel, path: str) -> None:
    """Store what the outputs mean and what audio is expected."""
    onnx, _ = _packages()
    written = onnx.load(path)
    del written.metadata_props[:]
    for key, value in about(source).items():
        entry = written.metadata_props.add()
        entry.key, entry.value = key, json.dumps(value, ensure_ascii=False)
    onnx.save(written, path)


def outputs(path: str, sources: list[Tensor], lengths: list[Tensor] | None = None) -> list[Tensor]:
    """Compute logits with onnxruntime for audio of several lengths, each B x S.

    Args:
        lengths: samples of each row, B; None: the graph has no such input.
    Raises:
        ValueError: onnxruntime is not installed.
    """
    _, onnxruntime = _packages()
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    feeds = [{"source": source.numpy()} for source in sources]
    for feed, sizes in zip(feeds, lengths or [], strict=lengths is not None):
        feed["lengths"] = sizes.numpy()
    return [torch.from_numpy(session.run(None, feed)[0]) for feed in feeds]


def _packages() -> tuple[Any, Any]:
    try:
        import onnx
        import onnxruntime
    except ImportError as error:
        raise ValueError(f"exporting to ONNX needs onnx and onnxruntime: {advice('onnx')}") from error
    return onnx, onnxruntime
