"""Checkpoints that fairseq wrote go on here for three updates, each by one command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from fairseq.checkpoint import io
from tests.integration.conftest import REPOSITORY, Workplace, make_trainer

PRETRAINED = ("fairseq_pretrained_tiny", "fairseq_pretrained_tiny_omegaconf", "fairseq_pretrained_tiny_args_namespace")


@pytest.fixture()
def checkpoints(shared_dir: Path) -> Path:
    return shared_dir / "reference" / "checkpoints"


def model_overrides(path: Path) -> list[str]:
    """The file's model as a user would type it."""
    model = io.load(path)["cfg"]["model"]
    shape = (
        "encoder_layers",
        "encoder_embed_dim",
        "encoder_ffn_embed_dim",
        "encoder_attention_heads",
        "final_dim",
        "latent_vars",
    )
    layers = model["conv_feature_layers"]
    return [f"model.{key}={model[key]}" for key in (*shape, "conv_pos", "conv_pos_groups")] + [
        f"model.conv_feature_layers='{layers}'"
    ]


@pytest.mark.parametrize("name", PRETRAINED)
def test_pretraining_goes_on(name: str, workplace: Workplace, checkpoints: Path) -> None:
    path = checkpoints / f"{name}.pt"
    output = workplace.run(f"checkpoint.restore_file={path}", "optimization.max_update=6", *model_overrides(path))
    assert f"loaded checkpoint {path} (epoch" in output and "3 updates)" in output
    before, after = io.load(path), io.load(workplace.folder / "run" / "checkpoint_last.pt")
    assert after["optimizer_history"][-1]["num_updates"] == 6
    assert {entry["step"] for entry in after["last_optimizer_state"]["state"].values()} == {6}
    weight = "encoder.layers.0.fc1.weight"
    assert 0 < (after["model"][weight] - before["model"][weight]).abs().max() < 0.01


def label(corpus: Path, symbols: list[str], split: str) -> None:
    """Two words of letters for every line of a manifest, and the dictionary."""
    words = [" ".join([*symbols[5 + i % 20 : 8 + i % 20], symbols[4], symbols[9], symbols[4]]) for i in range(100)]
    count = len((corpus / f"{split}.tsv").read_text().splitlines()) - 1
    (corpus / f"{split}.ltr").write_text("\n".join(words[:count]) + "\n")
    (corpus / "dict.ltr.txt").write_text("".join(f"{symbol} 1\n" for symbol in symbols[4:]))


def test_fine_tuning_goes_on(workplace: Workplace, checkpoints: Path, tmp_path: Path) -> None:
    """The file is the checkpoint to go on from, and what describes the model."""
    path = checkpoints / "fairseq_finetuned_tiny.pt"
    before = io.load(path)
    data = tmp_path / "labelled"
    data.mkdir()
    for split, name in (("train", "train"), ("valid", "dev_other")):
        (data / f"{name}.tsv").write_text((workplace.corpus / f"{split}.tsv").read_text())
        label(data, before["task_state"]["target_dictionary"]["symbols"], name)
    overrides = [
        f"task.data={data}",
        "task.normalize=true",
        f"model.w2v_path={path}",
        f"checkpoint.restore_file={path}",
        "checkpoint.save_dir=run",
        "optimization.max_update=7",
        "dataset.num_workers=0",
        "common.cpu=true",
        "common.fp16=false",
        "distributed_training.distributed_world_size=1",
        "optimization.update_freq=[1]",
        "model.mask_channel_length=4",
    ]
    folder = REPOSITORY / "examples" / "wav2vec" / "config" / "finetuning"
    workplace.arguments = lambda *more: ["--config-dir", str(folder), "--config-name", "base_100h", *more]
    output = workplace.run(*overrides)
    assert f"loaded checkpoint {path} (epoch" in output and "4 updates)" in output
    after = io.load(workplace.folder / "run" / "checkpoint_last.pt")
    assert after["optimizer_history"][-1]["num_updates"] == 7
    assert after["task_state"]["target_symbols"]["symbols"] == before["task_state"]["target_dictionary"]["symbols"]
    last = max(before["last_optimizer_state"]["state"])  # the output layer's bias
    assert [state["last_optimizer_state"]["state"][last]["step"] for state in (before, after)] == [4, 7]
    moved = after["model"]["w2v_encoder.proj.weight"] - before["model"]["w2v_encoder.proj.weight"]
    assert 0 < moved.abs().max() < 0.01


def older_forms(state: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The same run as other versions would have written it: fp16 with one flat optimizer state, and the Gaudi
    fork's 4-D convolutions.
    """
    entries = state["last_optimizer_state"]["state"]
    group = {**state["last_optimizer_state"]["param_groups"][0], "params": [0]}
    names = ("exp_avg", "exp_avg_sq")
    flat = {name: torch.cat([entry[name].flatten() for entry in entries.values()]) for name in names}
    flat_state = {"state": {0: {"step": 3, **flat}}, "param_groups": [group], "loss_scale": 64.0}
    half = {name: value.half() for name, value in state["model"].items()}

    def tall(name: str, value: Any) -> Any:
        return value.unsqueeze(2) if "conv_layers" in name and value.dim() == 3 else value

    parameters = [name for name in state["model"] if name != "quantizer.temp"]
    assert len(parameters) == len(entries)
    tall_entries = {
        number: {key: tall(parameters[number], value) if key in names else value for key, value in entry.items()}
        for number, entry in entries.items()
    }
    return {
        "flat_fp16": {**state, "model": half, "last_optimizer_state": flat_state},
        "four_dimensions": {
            **state,
            "model": {name: tall(name, value) for name, value in state["model"].items()},
            "last_optimizer_state": {**state["last_optimizer_state"], "state": tall_entries},
        },
    }


@pytest.mark.parametrize("form", ["flat_fp16", "four_dimensions"])
@pytest.mark.parametrize("as_zip", [True, False], ids=["zip", "stream"])
def test_older_forms_give_the_same_run(
    form: str, as_zip: bool, corpus: Path, checkpoints: Path, tmp_path: Path
) -> None:
    original = io.load(checkpoints / "fairseq_pretrained_tiny.pt")
    path = tmp_path / "older.pt"
    torch.save(older_forms(original)[form], path, _use_new_zipfile_serialization=as_zip)
    state = io.load(path)
    model = {
        key: value
        for key, value in original["cfg"]["model"].items()
        if key in ("conv_feature_layers", "final_dim", "latent_vars")
    }
    shape = {key: value for key, value in original["cfg"]["model"].items() if key.startswith(("encoder_", "conv_pos"))}
    trainer, _ = make_trainer(corpus, tmp_path, **model, **shape)
    trainer.load_state_dict(state)
    resumed = trainer.state_dict()
    assert resumed["optimizer_history"][-1]["num_updates"] == 3
    for number, entry in original["last_optimizer_state"]["state"].items():
        ours = resumed["last_optimizer_state"]["state"][number]
        assert (
            ours["step"] == 3
            and torch.equal(ours["exp_avg"], entry["exp_avg"])
            and torch.equal(ours["exp_avg_sq"], entry["exp_avg_sq"])
        )
    for name, value in original["model"].items():
        expected = value.half().float() if form == "flat_fp16" else value
        assert torch.equal(resumed["model"][name], expected), name
    if form == "flat_fp16":
        assert state["extra_state"]["precision"]["scale"] == 64.0
