"""Fine-tuning runs in this process: the stock configs at the width of a tiny pre-trained checkpoint, and what a run leaves behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from fairseq import checkpoint_utils
from fairseq.dataclass.base import ConfigError
from fairseq.dataclass.initialize import resolve_config
from fairseq.models.wav2vec import Wav2Vec2Model
from fairseq_cli import train
from tests.integration.conftest import REPOSITORY, write_audio, write_manifest

STOCK = sorted((REPOSITORY / "examples/wav2vec/config/finetuning").glob("*.yaml"))
LETTERS = "ABCDEFGH"
WIDTH = 32
CONV = "[(16,10,5)] + [(16,3,2)]*4 + [(16,2,2)]*2"
TINY = {
    "_name": "wav2vec2", "quantize_targets": True, "final_dim": 16, "encoder_embed_dim": WIDTH, "encoder_layers": 2,
    "encoder_ffn_embed_dim": 64, "encoder_attention_heads": 2, "latent_vars": 8, "conv_feature_layers": CONV, "conv_pos": 16,
    "conv_pos_groups": 4,
}  # fmt: skip


def write_labels(path: Path, count: int, seed: int) -> None:
    """Two words of letters a line."""
    generator = torch.Generator().manual_seed(seed)
    lines = []
    for _ in range(count):
        words = ["".join(LETTERS[i] for i in torch.randint(len(LETTERS), (3,), generator=generator).tolist()) for _ in range(2)]
        lines.append(" ".join([*words[0], "|", *words[1], "|"]))
    path.write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with train.tsv (8 files of about a second) and dev_other.tsv (3 files), their .ltr, and the dictionary."""
    root = tmp_path_factory.mktemp("labelled")
    files = [root / "audio" / f"{i:02d}.flac" for i in range(11)]
    for i, file in enumerate(files):
        write_audio(file, 0.8 + 0.05 * i, seed=i)
    for name, part in (("train", files[:8]), ("dev_other", files[8:])):
        write_manifest(root / f"{name}.tsv", root, part)
        write_labels(root / f"{name}.ltr", len(part), seed=len(part))
    (root / "dict.ltr.txt").write_text("".join(f"{letter} 1\n" for letter in "|" + LETTERS))
    return root


@pytest.fixture(scope="module")
def pretrained_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Checkpoints of tiny models with random weights: `base`, and `vox` (layer-norm extractor, pre-norm, normalised audio)."""
    folder = tmp_path_factory.mktemp("pretrained")
    changes = {"base": {}, "vox": {"extractor_mode": "layer_norm", "layer_norm_first": True, "conv_bias": True}}
    paths = {}
    for name, change in changes.items():
        torch.manual_seed(1)
        model = {**TINY, **change}
        cfg = {"model": model, "task": {"_name": "audio_pretraining", "data": "gone", "normalize": name == "vox"}, "common": {}}
        paths[name] = folder / f"{name}.pt"
        torch.save({"cfg": cfg, "model": Wav2Vec2Model(model).state_dict(), "args": None}, paths[name])
    return paths


def config(stock: Path | str, data: Path, w2v_path: Path, folder: Path, **changes: Any) -> DictConfig:
    """A stock config with overrides of data, paths, device and length of the run, and further dotted keys."""
    path = stock if isinstance(stock, Path) else next(path for path in STOCK if path.stem == stock)
    cfg = OmegaConf.load(path)
    overrides = {
        "task.data": str(data), "model.w2v_path": str(w2v_path), "checkpoint.save_dir": str(folder / "run"), "common.cpu": True,
        "distributed_training.distributed_world_size": 1, "optimization.max_update": 2, "dataset.num_workers": 0, **changes,
    }  # fmt: skip
    for key, value in overrides.items():
        OmegaConf.update(cfg, key, value, force_add=True, merge=False)
    return resolve_config(cfg)


def rows(folder: Path, split: str) -> list[dict[str, Any]]:
    lines = (folder / "run" / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["split"] == split]


def load(folder: Path) -> dict[str, Any]:
    return torch.load(folder / "run" / "checkpoint_last.pt", weights_only=True)


@pytest.mark.parametrize("trained", ["as it is", "whole"])
@pytest.mark.parametrize("stock", [path for path in STOCK if not path.stem.endswith("_hpu")], ids=lambda path: path.stem)
def test_stock_configs_run(stock: Path, trained: str, labelled: Path, pretrained_files: dict[str, Path], tmp_path: Path) -> None:
    """Two updates of each; once more with nothing frozen and a channel mask that fits the width."""
    changes = {} if trained == "as it is" else {"model.freeze_finetune_updates": 0, "model.mask_channel_length": 4}
    source = pretrained_files[stock.stem.split("_")[0]]
    cfg = config(stock, labelled, source, tmp_path, **changes)
    train.main(cfg)
    state = load(tmp_path)
    assert state["optimizer_history"][-1]["num_updates"] == 2
    validation = rows(tmp_path, "dev_other")[-1]
    assert validation["wer"] >= 0 and validation["uer"] >= 0 and 0 <= validation["blanks"] <= 100
    before = torch.load(source, weights_only=True)["model"]["encoder.layers.0.fc1.weight"]
    after = state["model"]["w2v_encoder.w2v_model.encoder.layers.0.fc1.weight"]
    assert torch.equal(before, after) == (cfg.model.freeze_finetune_updates > 0)


def test_a_checkpoint_needs_nothing_beside_it(labelled: Path, pretrained_files: dict[str, Path], tmp_path: Path) -> None:
    """Moved to another place, after data and pre-trained checkpoint are gone: model, dictionary and pre-training config are inside."""
    data, source = tmp_path / "data", tmp_path / "w2v.pt"
    data.mkdir()
    for name in ("train.tsv", "train.ltr", "dev_other.tsv", "dev_other.ltr", "dict.ltr.txt"):
        (data / name).write_bytes((labelled / name).read_bytes())
    source.write_bytes(pretrained_files["vox"].read_bytes())
    train.main(config("vox_100h", data, source, tmp_path))
    moved = tmp_path / "elsewhere" / "model.pt"
    moved.parent.mkdir()
    (tmp_path / "run" / "checkpoint_best.pt").rename(moved)
    for path in (*data.iterdir(), source):
        path.unlink()
    data.rmdir()
    (model,), cfg, task = checkpoint_utils.load_model_ensemble_and_task([str(moved)])
    assert task.target_dictionary.symbols[4:] == list("|" + LETTERS) and cfg.model.w2v_args.model.extractor_mode == "layer_norm"
    assert model.eval()(source=torch.randn(1, 8000))["encoder_out"].shape == (24, 1, 13)
    weights = torch.load(moved, weights_only=True)["model"]
    assert all(torch.equal(weights[name], tensor) for name, tensor in model.state_dict().items())


def test_a_continued_run_equals_an_unbroken_one(labelled: Path, pretrained_files: dict[str, Path], tmp_path: Path) -> None:
    """Also with the pre-trained checkpoint at another place; masks, dropout and layerdrop on, frozen for the first two updates."""
    changes = {"model.freeze_finetune_updates": 2, "model.mask_channel_length": 4}
    changes["lr_scheduler"] = {"_name": "tri_stage", "warmup_steps": 2, "hold_steps": 2, "decay_steps": 2}
    changes |= {"dataset.max_tokens": 40000, "dataset.disable_validation": True, "optimization.update_freq": [1], "common.fp16": False}
    moved = tmp_path / "moved.pt"
    moved.write_bytes(pretrained_files["base"].read_bytes())
    train.main(config("base_10h", labelled, pretrained_files["base"], tmp_path / "a", **changes, **{"optimization.max_update": 6}))
    train.main(config("base_10h", labelled, pretrained_files["base"], tmp_path / "b", **changes, **{"optimization.max_update": 3}))
    assert load(tmp_path / "b")["optimizer_history"][-1]["num_updates"] == 3
    train.main(config("base_10h", labelled, moved, tmp_path / "b", **changes, **{"optimization.max_update": 6}))
    one, other = load(tmp_path / "a"), load(tmp_path / "b")
    assert other["optimizer_history"][-1]["num_updates"] == 6
    for name, tensor in one["model"].items():
        assert torch.equal(tensor, other["model"][name]), name


def test_another_dictionary_gives_a_new_head(
    labelled: Path, pretrained_files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By model.w2v_path and by checkpoint.finetune_from_model; the same dictionary keeps the head."""
    changes = {"optimization.lr": [0.1], "dataset.disable_validation": True}
    train.main(config("base_100h", labelled, pretrained_files["base"], tmp_path / "first", **changes))
    tuned = tmp_path / "first" / "run" / "checkpoint_last.pt"
    before = load(tmp_path / "first")["model"]
    other = tmp_path / "other"
    other.mkdir()
    for path in labelled.glob("*.*"):
        (other / path.name).write_bytes(path.read_bytes())
    (other / "dict.ltr.txt").write_text("".join(f"{letter} 1\n" for letter in LETTERS + "|"))  # as many symbols, in another order
    changes = {"optimization.lr": [1e-9], "dataset.disable_validation": True}

    train.main(config("base_100h", labelled, tuned, tmp_path / "same", **changes))
    assert "its output layer is kept" in capsys.readouterr().out
    assert torch.allclose(load(tmp_path / "same")["model"]["w2v_encoder.proj.weight"], before["w2v_encoder.proj.weight"], atol=1e-6)

    for name, override in (("by path", {}), ("by finetune", {"checkpoint.finetune_from_model": str(tuned)})):
        source = tuned if not override else pretrained_files["base"]
        train.main(config("base_100h", other, source, tmp_path / name, **changes, **override))
        printed = capsys.readouterr().out
        assert "another dictionary" in printed and ("is new" in printed or "is left out" in printed), name
        after = load(tmp_path / name)["model"]
        assert not torch.allclose(after["w2v_encoder.proj.weight"], before["w2v_encoder.proj.weight"], atol=1e-3), name
        inner = "w2v_encoder.w2v_model.encoder.layers.0.fc1.weight"
        assert torch.allclose(after[inner], before[inner], atol=1e-6), name

    with pytest.raises(ConfigError, match="another dictionary"):
        train.main(config("base_100h", other, pretrained_files["base"], tmp_path / "x", **{"checkpoint.restore_file": str(tuned)}))


@pytest.mark.parametrize(
    "change, told",
    [
        ({"task.normalize": True}, "pre-trained with normalize: false"),
        ({"checkpoint.best_checkpoint_metric": "wre"}, "Did you mean 'wer'"),
        ({"criterion": {"_name": "wav2vec"}, "checkpoint.best_checkpoint_metric": "loss"}, "do not belong together"),
        ({"model.w2v_path": "gone.pt"}, "model.w2v_path is 'gone.pt'"),
        ({"task.labels": "wrd"}, "train.wrd does not exist"),
        ({"task.target_dictionary": "gone.txt"}, "gone.txt, which does not exist"),
        ({"criterion.wer_args": "('lm.bin', 'lexicon.txt', 2, -1)"}, "decodes greedily"),
        ({"criterion.wer_args": "__import__('os')"}, "must be a tuple"),
        ({"criterion.post_process": "lettre"}, "post_process is 'lettre'"),
        ({"model.no_such": 1}, "model.no_such is not a known key"),
        ({"model.drop_path": 0.1}, "model.drop_path is 0.1, which is not offered"),
    ],
)
def test_configs_that_cannot_be_meant(
    change: dict[str, Any], told: str, labelled: Path, pretrained_files: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as error:
        train.main(config("base_100h", labelled, pretrained_files["base"], tmp_path, **change))
    assert told in str(error.value)
    assert not (tmp_path / "run" / "checkpoint_last.pt").exists()


@pytest.mark.parametrize(
    "line, told",
    [
        ("", "train.ltr, line 3: the label is empty"),
        ("A A A A B B B B " * 8, "train.ltr, line 3: 64 units need 112 frames"),
        ("A ? |", "line 3: '?'"),
        ("a b |", "The dictionary is in upper case"),
        (None, "train.ltr has 7 lines, but"),
    ],
)
def test_labels_that_cannot_be_learned(
    line: str | None, told: str, labelled: Path, pretrained_files: dict[str, Path], tmp_path: Path
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for path in labelled.glob("*.*"):
        (data / path.name).write_bytes(path.read_bytes())
    lines = (labelled / "train.ltr").read_text().splitlines()
    lines[2:3] = [] if line is None else [line]
    (data / "train.ltr").write_text("\n".join(lines) + "\n")
    with pytest.raises(ConfigError) as error:
        train.main(config("base_100h", data, pretrained_files["base"], tmp_path))
    assert told in str(error.value)
    if told.endswith("empty") or "frames" in told:
        train.main(config("base_100h", data, pretrained_files["base"], tmp_path, **{"task.skip_unusable_labels": True}))
        assert rows(tmp_path, "train")[-1]["nsentences"] == 7


def test_validation_shows_what_was_heard(
    labelled: Path, pretrained_files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train.main(config("base_100h", labelled, pretrained_files["base"], tmp_path))
    printed = capsys.readouterr().out
    references = [line.split("REF: ")[1] for line in printed.splitlines() if "REF: " in line]
    said = {line.replace(" ", "").replace("|", " ").strip() for line in (labelled / "dev_other.ltr").read_text().splitlines()}
    assert len(references) == 6 and set(references) == said and printed.count("HYP: ") == 6  # two validations
    assert rows(tmp_path, "dev_other")[-1].keys() >= {"loss", "nll_loss", "wer", "uer", "blanks", "symbols_used"}
    assert "blanks" in rows(tmp_path, "train")[-1]


def test_two_processes_train_what_one_does(labelled: Path, pretrained_files: dict[str, Path], tmp_path: Path) -> None:
    """Frozen for two updates, then not, with a frozen feature extractor: parameters without a gradient hold nobody up, and error
    rates are those of all processes."""
    command = [
        sys.executable, "-m", "fairseq_cli.hydra_train", "--config-dir", str(STOCK[0].parent), "--config-name", "base_10h",
        f"task.data={labelled}", f"model.w2v_path={pretrained_files['base']}", "common.cpu=true", "common.fp16=false",
        "optimization.max_update=4", "dataset.max_tokens=40000", "dataset.required_batch_size_multiple=1", "dataset.num_workers=0",
        "model.freeze_finetune_updates=2", "model.mask_channel_length=4", "checkpoint.save_interval_updates=0",
        "dataset.validate_interval_updates=4", "dataset.validate_after_updates=0", "optimization.lr=[0.001]",
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    for processes, frequency in ((1, 2), (2, 1)):
        folder = tmp_path / str(processes)
        folder.mkdir()
        shape = [f"distributed_training.distributed_world_size={processes}", f"optimization.update_freq=[{frequency}]"]
        done = subprocess.run(
            [*command, *shape, f"checkpoint.save_dir={folder / 'run'}"], cwd=folder, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
    one, two = load(tmp_path / "1")["model"], load(tmp_path / "2")["model"]
    for name, tensor in one.items():
        assert torch.allclose(tensor, two[name], atol=2e-5), name
    before = torch.load(pretrained_files["base"], weights_only=True)["model"]
    assert not torch.equal(one["w2v_encoder.w2v_model.encoder.layers.0.fc1.weight"], before["encoder.layers.0.fc1.weight"])
    kernel = "feature_extractor.conv_layers.0.0.weight"
    assert torch.equal(two[f"w2v_encoder.w2v_model.{kernel}"], before[kernel])
    validations = [rows(tmp_path / number, "dev_other")[-1] for number in "12"]
    for key in ("wer", "uer", "blanks", "symbols_used", "nsentences"):
        assert validations[0][key] == validations[1][key], key
