"""Export a fine-tuned model with torch.export: a program (`.pt2`) that torch alone opens and runs."""

from __future__ import annotations

import json

import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.fx import GraphModule
from torch.fx.experimental import _config as sizes

from fairseq import device
from fairseq.conversion.portable_model import PortableModel
from fairseq.conversion.runtime_form import Padded, about, check, prepared
from fairseq.frames import receptive_field
from fairseq.models.wav2vec.audio_model import AudioModel

ABOUT = "about.json"  # the extra file in the program: symbols, normalize, sample_rate, shortest
_RECORDED_SAMPLES = 16_000  # arbitrary: the graph does not depend on it


def write(source: PortableModel, path: str) -> None:
    """Export a model; `ABOUT` in the file has what its outputs mean and what audio it takes.

    The program takes source B x S and lengths B, as `Padded`. S must be at least the samples of two frames
    (`shortest`); shorter audio is padded.

    Raises:
        ValueError: the model cannot be exported, or this torch cannot.
    """
    check(source, "torch.export")
    if not hasattr(sizes, "backed_size_oblivious"):
        raise ValueError(f"--to pt2 needs torch 2.7 or later; this is torch {torch.__version__}")
    form = prepared(source, Padded)
    encoder = form.model.w2v_encoder.w2v_model
    assert isinstance(encoder, AudioModel)
    field, stride = receptive_field(encoder.conv_layers)
    shortest = field + stride  # torch.export takes a size that can be 1 for another kind of size
    for module in form.modules():
        if isinstance(module, nn.Linear):
            module.register_forward_pre_hook(_with_plain_strides)
    free = {"batch": Dim("batch", min=1), "samples": Dim("samples", min=shortest)}
    shapes = {name: {axis: free[size] for axis, size in axes.items()} for name, axes in Padded.inputs.items()}
    audio, lengths = torch.zeros(2, _RECORDED_SAMPLES), torch.tensor([_RECORDED_SAMPLES, _RECORDED_SAMPLES // 2])
    # forms that work for all sizes; all forms compute the same
    forms = device.forced(conv_form="conv1d", pos_conv_form="conv1d", attention_form="sdpa")
    # without it, a batch of one would be a case of its own
    one_is_a_size = sizes.patch(backed_size_oblivious=True)  # pyright: ignore[reportAttributeAccessIssue]
    try:
        with forms, one_is_a_size, torch.no_grad():
            program = torch.export.export(form, (audio, lengths), dynamic_shapes=shapes, strict=False)
    except RuntimeError as error:
        raise ValueError(
            f"torch.export of torch {torch.__version__} cannot export this model. Use --to onnx. Its reason: {error}"
        ) from error
    for part in program.graph_module.modules():
        for node in part.graph.nodes if isinstance(part, GraphModule) else ():
            node.meta.pop("stack_trace", None)  # paths of this machine
    description = json.dumps({**about(source), "shortest": shortest}, ensure_ascii=False)
    with open(path, "wb") as file:
        torch.export.save(program, file, extra_files={ABOUT: description})


def _with_plain_strides(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Copy a linear layer's input: for a transposed one, torch.export cannot prove that any size works."""
    return (inputs[0].clone(memory_format=torch.contiguous_format), *inputs[1:])


def outputs(path: str, sources: list[Tensor], lengths: list[Tensor]) -> list[Tensor]:
    """Compute logits with the program in a file, for audio of several lengths, each B x S.

    Args:
        lengths: samples of each row, B.
    """
    with open(path, "rb") as file:
        module = torch.export.load(file).module()
    with torch.no_grad():
        return [module(source, rows)[0] for source, rows in zip(sources, lengths, strict=True)]
