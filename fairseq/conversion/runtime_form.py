"""A fine-tuned model as other runtimes call it: a waveform in, logits out. Shared by ONNX and torch.export."""

from __future__ import annotations

from typing import TypeVar, cast

import torch
from torch import Tensor, nn

from fairseq.conversion import portable_model
from fairseq.conversion.portable_model import PortableModel
from fairseq.models.wav2vec.wav2vec2_asr import Wav2VecCtc
from fairseq.modules.run_mode import RunMode, configure


class Padded(nn.Module):
    """source B x S and lengths B (samples) -> logits B x T x V and frames B; padding does not change a row's logits.

    Attributes:
        inputs, outputs: names, each with the names of its sizes that are free.
    """

    inputs = {"source": {0: "batch", 1: "samples"}, "lengths": {0: "batch"}}
    outputs = {"logits": {0: "batch", 1: "frames"}, "frames": {0: "batch"}}

    def __init__(self, model: Wav2VecCtc) -> None:
        super().__init__()
        self.model = model

    def forward(self, source: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        padding_mask = torch.arange(source.size(1), device=source.device) >= lengths.unsqueeze(1)
        found = self.model.w2v_encoder(source, padding_mask)
        return found["encoder_out"].transpose(0, 1), (~found["padding_mask"]).sum(1)


class Waveform(Padded):
    """source B x S -> logits B x T x V; rows have equal lengths, without padding."""

    inputs = {"source": {0: "batch", 1: "samples"}}
    outputs = {"logits": {0: "batch", 1: "frames"}}

    def forward(self, source: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride] - one input fewer
        return self.model.w2v_encoder(source, None)["encoder_out"].transpose(0, 1)


Form = TypeVar("Form", bound=Padded)


def check(source: PortableModel, format_name: str) -> None:
    """Refuse models without an output layer, that crop their frames, or with adapters of several languages.

    Args:
        format_name: what it is exported to, for the message.
    Raises:
        ValueError: it cannot be exported.
    """
    if source.output is None:
        raise ValueError(
            f"only fine-tuned models can be exported to {format_name}: a pre-trained model has no output layer"
        )
    if source.config["crop_seq_to_multiple"] != 1:
        raise ValueError(
            f"model.crop_seq_to_multiple={source.config['crop_seq_to_multiple']}: export to {format_name} supports "
            "only 1"
        )
    if source.config.get("layer_type") == "trf_adp" and source.config["adp_num"] > 1:
        raise ValueError(
            f"the model has adapters of {source.config['adp_num']} languages: export to {format_name} supports one"
        )


def prepared(source: PortableModel, form: type[Form]) -> Form:
    """Build the model in eval mode, with operations that do not depend on sizes or values of the input.

    Raises:
        ValueError: see `portable_model.build`.
    """
    model = cast(Wav2VecCtc, portable_model.build(source))
    # padding to a multiple, and looking for padding, would fix sizes in the graph
    configure(model, RunMode(length_aware=True, looks_for_padding=False, pads_to_multiple=False))
    return form(model).eval()


def about(source: PortableModel) -> dict[str, object]:
    """Return what the outputs mean (`symbols`, the blank first) and what audio is expected."""
    assert source.output is not None  # checked
    return {"symbols": source.output.symbols, **source.task}
