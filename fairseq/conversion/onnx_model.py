"""Export a fine-tuned model to ONNX: audio of any length in, logits out; onnxruntime runs it without torch."""

from __future__ import annotations

import json
import warnings
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.jit._trace import TracerWarning

from fairseq import device
from fairseq.conversion import portable_model
from fairseq.conversion.portable_model import PortableModel
from fairseq.installed import advice
from fairseq.models.wav2vec.wav2vec2_asr import Wav2VecCtc
from fairseq.modules.run_mode import RunMode, configure

OPSET = 17
_TRACED_SAMPLES = 16_000  # arbitrary: the graph does not depend on it


class _Logits(nn.Module):
    """source B x S -> logits B x T x V; rows have equal lengths, without padding."""

    model: Wav2VecCtc

    def __init__(self, model: Wav2VecCtc) -> None:
        super().__init__()
        self.model = model

    def forward(self, source: Tensor) -> Tensor:
        return self.model.w2v_encoder(source, None)["encoder_out"].transpose(0, 1)


def write(source: PortableModel, path: str) -> None:
    """Export a model; symbols, normalize and sample_rate are stored in the file's metadata.

    Raises:
        ValueError: the model is pre-trained only or a conformer, or onnx and onnxruntime are not installed.
    """
    if source.output is None:
        raise ValueError("only fine-tuned models can be exported to ONNX: a pre-trained model has no output layer")
    if source.config["layer_type"] != "transformer" or source.config["crop_seq_to_multiple"] != 1:
        raise ValueError(
            f"model.layer_type={source.config['layer_type']!r}, "
            f"crop_seq_to_multiple={source.config['crop_seq_to_multiple']}: ONNX export supports only "
            "layer_type='transformer' with crop_seq_to_multiple=1"
        )
    onnx, _ = _packages()
    model = cast(Wav2VecCtc, portable_model.build(source))
    # padding frames are masked, which would fix the length in the graph
    configure(model, RunMode(pads_to_multiple=False))
    # forms with ONNX operators; all forms compute the same
    with device.forced(conv_form="conv1d", pos_conv_form="conv1d", attention_form="matmul"), warnings.catch_warnings():
        # the newer exporter takes minutes and needs another package
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", category=TracerWarning)
        torch.onnx.export(
            _Logits(model).eval(),
            (torch.randn(2, _TRACED_SAMPLES),),
            path,
            input_names=["source"],
            output_names=["logits"],
            dynamic_axes={"source": {0: "batch", 1: "samples"}, "logits": {0: "batch", 1: "frames"}},
            opset_version=OPSET,
            dynamo=False,
        )
    written = onnx.load(path)
    for key, value in {"symbols": source.output.symbols, **source.task}.items():
        entry = written.metadata_props.add()
        entry.key, entry.value = key, json.dumps(value, ensure_ascii=False)
    onnx.save(written, path)


def outputs(path: str, sources: list[Tensor]) -> list[Tensor]:
    """Compute logits with onnxruntime for audio of several lengths, each B x S.

    Raises:
        ValueError: onnxruntime is not installed.
    """
    _, onnxruntime = _packages()
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return [torch.from_numpy(session.run(None, {"source": source.numpy()})[0]) for source in sources]


def _packages() -> tuple[Any, Any]:
    try:
        import onnx
        import onnxruntime
    except ImportError as error:
        raise ValueError(f"exporting to ONNX needs onnx and onnxruntime: {advice('onnx')}") from error
    return onnx, onnxruntime
