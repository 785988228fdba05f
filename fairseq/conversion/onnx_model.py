"""A fine-tuned model as ONNX: audio of any length in, logits out, run by onnxruntime without torch."""

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
_TRACED_SAMPLES = 16_000  # any length does: the graph keeps none


class _Logits(nn.Module):
    """source B x S -> logits B x T x V; no padding: rows are equally long."""

    model: Wav2VecCtc

    def __init__(self, model: Wav2VecCtc) -> None:
        super().__init__()
        self.model = model

    def forward(self, source: Tensor) -> Tensor:
        return self.model.w2v_encoder(source, None)["encoder_out"].transpose(0, 1)


def write(source: PortableModel, path: str) -> None:
    """Export; what the logits mean and what audio the model wants stands in the file's metadata: symbols, normalize,
    sample_rate.

    Raises:
        ValueError: a pre-trained model, a conformer, or onnx and onnxruntime are not there.
    """
    if source.output is None:
        raise ValueError("only fine-tuned models are exported to ONNX: a pre-trained one has nothing to say")
    if source.config["layer_type"] != "transformer" or source.config["crop_seq_to_multiple"] != 1:
        raise ValueError(
            f"model.layer_type={source.config['layer_type']!r}, "
            f"crop_seq_to_multiple={source.config['crop_seq_to_multiple']}: ONNX export is offered for transformers "
            "without cropping; the conformer's positions do not trace with a free length"
        )
    onnx, _ = _packages()
    model = cast(Wav2VecCtc, portable_model.build(source))
    # frames to fill up are masked, and would fix the length in the graph
    configure(model, RunMode(pads_to_multiple=False))
    # the forms that ONNX has operators for; all forms give the same
    with device.forced(conv_form="conv1d", pos_conv_form="conv1d", attention_form="matmul"), warnings.catch_warnings():
        # the other exporter needs minutes and a further package
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
    """Logits of onnxruntime for audio of several lengths, each B x S.

    Raises:
        ValueError: onnxruntime is not there.
    """
    _, onnxruntime = _packages()
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return [torch.from_numpy(session.run(None, {"source": source.numpy()})[0]) for source in sources]


def _packages() -> tuple[Any, Any]:
    try:
        import onnx
        import onnxruntime
    except ImportError as error:
        raise ValueError(f"exporting to ONNX and checking it needs onnx and onnxruntime: {advice('onnx')}") from error
    return onnx, onnxruntime
