"""Fine-tuning runs in this process: the stock configs at the width of a tiny pre-trained checkpoint, and what a run
leaves behind.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from fairseq import checkpoint_utils
from fairseq.dataclass.base import ConfigError
from fairseq.logging.metrics_file import read_rows
from fairseq_cli import train, validate
from tests.integration.finetuning_runs import LETTERS, STOCK, config, load, rows
from tests.warm import Warm

FAIRSEQS = [path for path in STOCK if path.stem.startswith(("base_", "vox_")) and not path.stem.endswith("_hpu")]
# one of each size that is frozen at first, and the two with the most and the fewest masked channels that are not
WHOLE = ("base_10h", "vox_10h", "base_100h", "base_960h")


@pytest.mark.parametrize(
    "stock, trained",
    [(path, "as it is") for path in FAIRSEQS] + [(path, "whole") for path in FAIRSEQS if path.stem in WHOLE],
    ids=lambda value: value if isinstance(value, str) else value.stem,
)
def test_stock_configs_run(
    stock: Path, trained: str, labelled: Path, pretrained_files: dict[str, Path], tmp_path: Path
) -> None:
    """Two updates of each; once more of some with nothing frozen and a channel mask that fits the width."""
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


@pytest.mark.parametrize("name", ["demo_20m", "small_from_scratch"])
def test_small_configs_run(name: str, labelled: Path, pretrained_files: dict[str, Path], tmp_path: Path) -> None:
    """Two updates; the one starts from a checkpoint, the other is the encoder that its YAML describes."""
    cfg = config(name, labelled, pretrained_files["vox"], tmp_path, **{"dataset.valid_subset": "dev_other"})
    train.main(cfg)
    state = load(tmp_path)
    assert state["optimizer_history"][-1]["num_updates"] == 2
    assert 0 <= rows(tmp_path, "dev_other")[-1]["blanks"] <= 100
    before = torch.load(pretrained_files["vox"], weights_only=True)["model"]["encoder.layers.0.fc1.weight"]
    after = state["model"]["w2v_encoder.w2v_model.encoder.layers.0.fc1.weight"]
    assert (before.shape == after.shape) == (name == "demo_20m")


def test_a_checkpoint_needs_nothing_beside_it(
    labelled: Path, pretrained_files: dict[str, Path], tmp_path: Path
) -> None:
    """Moved to another place, after data and pre-trained checkpoint are gone: model, dictionary and pre-training
    config are inside.
    """
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
    assert (
        task.target_dictionary.symbols[4:] == list("|" + LETTERS)
        and cfg.model.w2v_args.model.extractor_mode == "layer_norm"
    )
    assert model.eval()(source=torch.randn(1, 8000))["encoder_out"].shape == (24, 1, 13)
    weights = torch.load(moved, weights_only=True)["model"]
    assert all(torch.equal(weights[name], tensor) for name, tensor in model.state_dict().items())
    # validated on labels of another folder, by the dictionary inside
    (labelled / "dict.ltr.txt").rename(labelled / "dict.gone")
    try:
        arguments = [
            str(labelled),
            "--path",
            str(moved),
            "--valid-subset",
            "dev_other",
            "--cpu",
            "--bf16",
            "--num-workers",
            "0",
        ]
        results = validate.main(validate.get_parser().parse_args(arguments))
    finally:
        (labelled / "dict.gone").rename(labelled / "dict.ltr.txt")
    best = min(row["wer"] for row in rows(tmp_path, "dev_other"))
    assert results["dev_other"]["wer"] == best and results["dev_other"]["nsentences"] == 3


def test_a_continued_run_equals_an_unbroken_one(
    labelled: Path, pretrained_files: dict[str, Path], tmp_path: Path
) -> None:
    """Also with the pre-trained checkpoint at another place; masks, dropout, layerdrop and weight decay on, frozen for
    the first two updates and killed before and after that. Frozen parameters stay as they are, and Adam begins with
    them where they begin to learn.
    """
    changes = {"model.freeze_finetune_updates": 2, "model.mask_channel_length": 4}
    changes["lr_scheduler"] = {"_name": "tri_stage", "warmup_steps": 2, "hold_steps": 2, "decay_steps": 2}
    changes |= {
        "dataset.max_tokens": 40000,
        "dataset.disable_validation": True,
        "optimization.update_freq": [2],
        "common.fp16": False,
    }
    changes["optimizer.weight_decay"] = 0.01
    moved = tmp_path / "moved.pt"
    moved.write_bytes(pretrained_files["base"].read_bytes())
    train.main(
        config(
            "base_10h", labelled, pretrained_files["base"], tmp_path / "a", **changes, **{"optimization.max_update": 6}
        )
    )
    train.main(
        config(
            "base_10h", labelled, pretrained_files["base"], tmp_path / "b", **changes, **{"optimization.max_update": 1}
        )
    )
    frozen = load(tmp_path / "b")
    assert_as_before(frozen["model"], pretrained_files["base"])
    assert len(frozen["last_optimizer_state"]["state"]) == 2  # the output layer's
    for updates in (4, 6):
        train.main(
            config("base_10h", labelled, moved, tmp_path / "b", **changes, **{"optimization.max_update": updates})
        )
        assert load(tmp_path / "b")["optimizer_history"][-1]["num_updates"] == updates
    one, other = load(tmp_path / "a"), load(tmp_path / "b")
    for name, tensor in one["model"].items():
        assert torch.equal(tensor, other["model"][name]), name
    states = one["last_optimizer_state"]["state"], other["last_optimizer_state"]["state"]
    assert states[0].keys() == states[1].keys()
    for index, entry in states[0].items():
        assert entry["step"] == states[1][index]["step"]
        assert all(torch.equal(entry[key], states[1][index][key]) for key in ("exp_avg", "exp_avg_sq")), index
    assert_as_before(one["model"], pretrained_files["base"], "feature_extractor.")  # model.feature_grad_mult is 0
    trained = [name for name in one["model"] if "feature_extractor" not in name]
    steps = [entry["step"] for entry in states[0].values()]
    assert len(steps) == len(trained) and sorted(set(steps)) == [4, 6] and steps.count(6) == 2


@pytest.mark.parametrize(
    "tuning",
    [
        {"model.tuning": "lora", "model.lora_dropout": 0.1},
        {"model.tuning": "adapters", "model.layer_type": "trf_adp", "model.adp_num": 1, "model.adp_dim": 4},
    ],
    ids=["lora", "adapters"],
)
def test_a_continued_run_that_trains_a_part_equals_an_unbroken_one(
    tuning: dict[str, object], labelled: Path, pretrained_files: dict[str, Path], tmp_path: Path
) -> None:
    """All else stays as it was pre-trained, bit for bit, and has no optimizer state."""
    changes = {**tuning, "model.freeze_finetune_updates": 0, "model.mask_channel_length": 4, "common.fp16": False}
    changes |= {"dataset.max_tokens": 40000, "dataset.disable_validation": True, "optimizer.weight_decay": 0.01}
    changes["lr_scheduler"] = {"_name": "tri_stage", "warmup_steps": 1, "hold_steps": 2, "decay_steps": 1}
    for folder, updates in (("a", 4), ("b", 2), ("b", 4)):
        settings = {**changes, "optimization.max_update": updates}
        train.main(config("base_10h", labelled, pretrained_files["base"], tmp_path / folder, **settings))
    one, other = load(tmp_path / "a"), load(tmp_path / "b")
    for name, tensor in one["model"].items():
        assert torch.equal(tensor, other["model"][name]), name
    before = torch.load(pretrained_files["base"], weights_only=True)["model"]
    encoder = {name.removeprefix("w2v_encoder.w2v_model."): tensor for name, tensor in one["model"].items()}
    shared = encoder.keys() & before.keys()
    assert len(shared) > 20 and all(torch.equal(encoder[name], before[name]) for name in shared)
    assert len(one["last_optimizer_state"]["state"]) == len(encoder) - len(shared)


def test_a_continued_run_with_rates_by_depth_equals_an_unbroken_one(
    labelled: Path, pretrained_files: dict[str, Path], tmp_path: Path
) -> None:
    """The output layer is a group by its name; each block has a rate of its own, of one schedule."""
    adam = {"_name": "adam", "adam_betas": [0.9, 0.98], "weight_decay": 0.01}
    groups = {"head": {"pattern": r"\.proj\.", "lr_scale": 10, "optimizer": adam}, "default": {"optimizer": adam}}
    changes = {"model.freeze_finetune_updates": 0, "model.mask_channel_length": 4, "common.fp16": False}
    changes |= {"dataset.max_tokens": 40000, "dataset.disable_validation": True, "optimization.lr": [0.01]}
    changes["lr_scheduler"] = {"_name": "tri_stage", "warmup_steps": 1, "hold_steps": 2, "decay_steps": 1}
    changes["optimizer"] = {"_name": "composite", "layer_decay": 0.5, "groups": groups}
    for folder, updates in (("a", 3), ("b", 2), ("b", 3)):
        settings = {**changes, "optimization.max_update": updates}
        train.main(config("base_10h", labelled, pretrained_files["base"], tmp_path / folder, **settings))
    one, other = load(tmp_path / "a"), load(tmp_path / "b")
    for name, tensor in one["model"].items():
        assert torch.equal(tensor, other["model"][name]), name
    state = one["last_optimizer_state"]
    rates = {name: group["param_groups"][0]["lr"] for name, group in state.items()}
    top = rates["default"]
    by_depth = [f'default:{{"optimizer": {{"lr_scale": {scale}}}}}' for scale in (0.5, 0.25)]
    assert rates == {"head": 10 * top, "default": top, by_depth[0]: 0.5 * top, by_depth[1]: 0.25 * top}


def assert_as_before(weights: dict[str, torch.Tensor], source: Path, prefix: str = "") -> None:
    """The encoder's weights whose names begin so are the pre-trained ones, bit for bit."""
    before = torch.load(source, weights_only=True)["model"]
    names = [name for name in before if name.startswith(prefix) and f"w2v_encoder.w2v_model.{name}" in weights]
    assert names
    for name in names:
        assert torch.equal(weights[f"w2v_encoder.w2v_model.{name}"], before[name]), name


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
    # as many symbols, in another order
    (other / "dict.ltr.txt").write_text("".join(f"{letter} 1\n" for letter in LETTERS + "|"))
    changes = {"optimization.lr": [1e-9], "dataset.disable_validation": True}

    train.main(config("base_100h", labelled, tuned, tmp_path / "same", **changes))
    assert "output layer: from " in capsys.readouterr().out
    assert torch.allclose(
        load(tmp_path / "same")["model"]["w2v_encoder.proj.weight"], before["w2v_encoder.proj.weight"], atol=1e-6
    )

    for name, override in (("by path", {}), ("by finetune", {"checkpoint.finetune_from_model": str(tuned)})):
        source = tuned if not override else pretrained_files["base"]
        train.main(config("base_100h", other, source, tmp_path / name, **changes, **override))
        printed = capsys.readouterr().out
        assert "another dictionary" in printed and "random weights" in printed, name
        after = load(tmp_path / name)["model"]
        assert not torch.allclose(after["w2v_encoder.proj.weight"], before["w2v_encoder.proj.weight"], atol=1e-3), name
        inner = "w2v_encoder.w2v_model.encoder.layers.0.fc1.weight"
        assert torch.allclose(after[inner], before[inner], atol=1e-6), name

    with pytest.raises(ConfigError, match="another dictionary"):
        train.main(
            config(
                "base_100h", other, pretrained_files["base"], tmp_path / "x", **{"checkpoint.restore_file": str(tuned)}
            )
        )


@pytest.mark.parametrize(
    "change, told",
    [
        ({"task.normalize": True}, "pre-trained with normalize: false"),
        ({"checkpoint.best_checkpoint_metric": "wre"}, "Did you mean 'wer'"),
        ({"criterion": {"_name": "wav2vec"}, "checkpoint.best_checkpoint_metric": "loss"}, "do not go together"),
        ({"model.w2v_path": "gone.pt"}, "model.w2v_path is 'gone.pt'"),
        ({"task.labels": "wrd"}, "train.wrd does not exist"),
        ({"task.target_dictionary": "gone.txt"}, "gone.txt, which does not exist"),
        ({"criterion.wer_args": "('lm.bin', 'lexicon.txt', 2, -1)"}, "decodes greedily"),
        ({"criterion.wer_args": "__import__('os')"}, "must be a list"),
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
    said = {
        line.replace(" ", "").replace("|", " ").strip()
        for line in (labelled / "dev_other.ltr").read_text().splitlines()
    }
    assert len(references) == 6 and set(references) == said and printed.count("HYP: ") == 6  # two validations
    assert rows(tmp_path, "dev_other")[-1].keys() >= {"loss", "nll_loss", "wer", "uer", "blanks", "symbols_used"}
    for split in ("train", "dev_other"):
        row = rows(tmp_path, split)[-1]
        assert row["blank_share"] == row["blanks"]
    assert "blank_share" not in printed
    lines = read_rows(tmp_path / "run" / "hypotheses.jsonl")
    assert [line["id"] for line in lines] == 2 * [line["id"] for line in lines[:3]]  # three utterances, two validations
    assert len({line["id"] for line in lines}) == 3 and {line["reference"] for line in lines} == said
    updates = [row["num_updates"] for row in rows(tmp_path, "dev_other")]
    assert [line["num_updates"] for line in lines] == [updates[0]] * 3 + [updates[1]] * 3
    assert all(isinstance(line["hypothesis"], str) and line["split"] == "dev_other" for line in lines)


def test_two_processes_train_what_one_does(
    labelled: Path, pretrained_files: dict[str, Path], tmp_path: Path, warm: Warm
) -> None:
    """Frozen for three updates, then not, with a frozen feature extractor: parameters without a gradient hold nobody up
    and stay as they are, and error rates are those of all processes."""
    arguments = [
        "--config-dir",
        str(STOCK[0].parent),
        "--config-name",
        "base_10h",
        f"task.data={labelled}",
        f"model.w2v_path={pretrained_files['base']}",
        "common.cpu=true",
        "common.fp16=false",
        "optimization.max_update=5",
        "dataset.max_tokens=40000",
        "dataset.required_batch_size_multiple=1",
        "dataset.num_workers=0",
        "model.freeze_finetune_updates=3",
        "model.mask_channel_length=4",
        "checkpoint.save_interval_updates=3",
        "dataset.validate_interval_updates=5",
        "dataset.validate_after_updates=0",
        "optimizer.weight_decay=0.01",
        # with a large eps Adam's steps are proportional to the gradient; else it would turn the rounding of next to
        # nothing into full steps
        "optimizer.adam_eps=0.1",
        "optimization.lr=[0.1]",
    ]
    for processes, frequency in ((1, 2), (2, 1)):
        folder = tmp_path / str(processes)
        folder.mkdir()
        shape = [f"distributed_training.distributed_world_size={processes}", f"optimization.update_freq=[{frequency}]"]
        saved = f"checkpoint.save_dir={folder / 'run'}"
        done = warm.module("fairseq_cli.hydra_train", [*arguments, *shape, saved], folder, forks=True)
        assert done.code == 0, done.output
    one, two = load(tmp_path / "1")["model"], load(tmp_path / "2")["model"]
    for name, tensor in one.items():
        assert torch.allclose(tensor, two[name], atol=2e-5), name
    before = torch.load(pretrained_files["base"], weights_only=True)["model"]
    assert not torch.equal(
        one["w2v_encoder.w2v_model.encoder.layers.0.fc1.weight"], before["encoder.layers.0.fc1.weight"]
    )
    for processes in "12":
        frozen = torch.load(tmp_path / processes / "run" / "checkpoint_2_3.pt", weights_only=True)["model"]
        assert_as_before(frozen, pretrained_files["base"])
    assert_as_before(two, pretrained_files["base"], "feature_extractor.")
    validations = [rows(tmp_path / number, "dev_other")[-1] for number in "12"]
    lines = [read_rows(tmp_path / number / "run" / "hypotheses.jsonl") for number in "12"]
    assert len(lines[0]) >= 3 and [[line["id"] for line in each] for each in lines] == 2 * [
        [line["id"] for line in lines[0]]
    ]  # also of utterances that the other process validates
    for key in ("wer", "uer", "blanks", "symbols_used", "nsentences"):
        assert validations[0][key] == validations[1][key], key
