"""The checkpoints of ../shared/reference/checkpoints, which another program wrote, as its users load them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fairseq import checkpoint_utils
from fairseq.checkpoint import io
from fairseq.conversion import convert, portable_model
from fairseq.models.wav2vec import pretrained
from fairseq_cli import validate
from tests.integration.conftest import write_audio, write_manifest

NAMES = ["pretrained_tiny", "pretrained_tiny_omegaconf", "pretrained_tiny_args_namespace", "finetuned_tiny"]


@pytest.fixture(params=NAMES)
def path(request: pytest.FixtureRequest, shared_dir: Path) -> str:
    return str(shared_dir / "reference" / "checkpoints" / f"fairseq_{request.param}.pt")


def rewritten(path: str, folder: Path, half: bool) -> str:
    """The same as torch before 1.6 wrote files, perhaps in fp16."""
    state = io.load(path)
    state["model"] = {name: tensor.half() if half else tensor for name, tensor in state["model"].items()}
    torch.save(state, folder / "stream.pt", _use_new_zipfile_serialization=False)
    return str(folder / "stream.pt")


@pytest.mark.parametrize("form", ["as it is", "stream", "fp16 stream"])
def test_model_and_task(path: str, form: str, tmp_path: Path) -> None:
    opened = path if form == "as it is" else rewritten(path, tmp_path, form == "fp16 stream")
    (model,), cfg, task = checkpoint_utils.load_model_ensemble_and_task([opened])
    original = io.load(path)["model"]
    assert list(model.state_dict()) == list(original)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, original[name].half().float() if form == "fp16 stream" else original[name]), name
    assert task.cfg.normalize and cfg.task.sample_rate == 16000
    outputs = portable_model.outputs(portable_model.build(convert.load(opened).model), convert.waveform(16000))
    assert all(torch.isfinite(output).all() for output in outputs)
    if "finetuned" in path:
        assert len(task.target_dictionary) == 31 and outputs[0].shape == (1, 99, 31)


def test_as_w2v_path(path: str) -> None:
    source = pretrained.load(path)
    assert source.w2v_args["model"]["encoder_embed_dim"] == 48 and pretrained.normalizes(source.w2v_args)
    assert (source.head is not None) == ("finetuned" in path)


def test_the_three_pretrained_forms_are_one_model(shared_dir: Path) -> None:
    folder = shared_dir / "reference" / "checkpoints"
    first, *others = [checkpoint_utils.load_checkpoint_to_cpu(str(folder / f"fairseq_{name}.pt")) for name in NAMES[:3]]
    for other in others:
        assert all(torch.equal(tensor, other["model"][name]) for name, tensor in first["model"].items())
        assert (
            first["cfg"].model.items() <= other["cfg"].model.items()
            and other["optimizer_history"] == first["optimizer_history"]
        )


@pytest.mark.parametrize("name", NAMES[:3])
def test_validate(name: str, shared_dir: Path, tmp_path: Path) -> None:
    files = [tmp_path / f"{i}.wav" for i in range(3)]
    for i, file in enumerate(files):
        write_audio(file, 1.0 + 0.2 * i, seed=i)
    write_manifest(tmp_path / "valid.tsv", tmp_path, files)
    path = str(shared_dir / "reference" / "checkpoints" / f"fairseq_{name}.pt")
    arguments = [
        str(tmp_path),
        "--path",
        path,
        "--cpu",
        "--num-workers",
        "0",
        "--log-format",
        "none",
        "--max-tokens",
        "320000",
    ]
    results = validate.main(validate.get_parser().parse_args(arguments))
    assert results["valid"]["loss"] > 1 and results["valid"]["nsentences"] == 3
    if "args" not in name:  # that file's arguments do not say infonce
        assert results["valid"]["loss_0"] == pytest.approx(6.5, abs=1.0)  # log2(101) is chance
