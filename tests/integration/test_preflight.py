"""fairseq-preflight on the recipe's command, which has nothing to be told, and on runs with planted faults, each
told by its name.
"""

from __future__ import annotations

import json
import re
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from omegaconf import OmegaConf

from fairseq import utils
from fairseq.dataclass.initialize import resolve_config
from fairseq.preflight import checks, corpus
from fairseq.preflight.checks import Options
from fairseq.preflight.report import Report
from tests.warm import Done, Warm

REPOSITORY = Path(__file__).resolve().parents[2]
CONFIGS = REPOSITORY / "examples/wav2vec/config/pretraining"
HPU = "wav2vec2_base_librispeech_hpu"
TRAIN, VALID = 281_241, 2_703  # utterances of LibriSpeech's 960 hours, and of a validation set of 1 %

SMALL_CONV = "[(16,10,5)] + [(16,3,2)]*4 + [(16,2,2)]*2"
PLANTED = """\
from dataclasses import dataclass

import torch

from fairseq.models import register_model
from fairseq.models.wav2vec.wav2vec2 import Wav2Vec2Config, Wav2Vec2Model


@dataclass
class PlantedConfig(Wav2Vec2Config):
    pass


@register_model("planted", dataclass=PlantedConfig)
class Planted(Wav2Vec2Model):
    def set_num_updates(self, num_updates):
        super().set_num_updates(num_updates)
        self.seen = num_updates

    def forward(self, *args, **kwargs):
        out = super().forward(*args, **kwargs)
        penalty = out["features_pen"]
        if penalty.item() > 1e9:  # READ
            raise RuntimeError("diverged")
        smooth = torch.special.i0e(penalty)  # KERNEL
        recent = out["x"][:, :, : 3 + self.seen % 5]  # SHAPE
        out["features_pen"] = penalty + 0 * smooth + 0 * recent.mean()
        return out
"""


def write_manifest(path: Path, root: Path, number: int) -> None:
    """Lengths distributed about as LibriSpeech's: most of them 12 to 17 seconds, the others shorter. The files that
    preflight looks at are headers with those lengths; one file stands for all others."""
    rng = np.random.default_rng(number)
    seconds = np.where(rng.random(number) < 0.62, rng.normal(14.8, 1.1, number), rng.uniform(1.4, 14.5, number))
    lengths = (seconds.clip(1.4, 24.5) * 16000).astype(int)
    root.mkdir(exist_ok=True)
    (root / "a.flac").touch()
    looked_at = set(np.linspace(0, number - 1, 25).astype(int).tolist())
    names = [f"{length}.flac" if index in looked_at else "a.flac" for index, length in enumerate(lengths.tolist())]
    for index in looked_at:
        write_header(root / names[index], int(lengths[index]))
    path.write_text(
        "\n".join([str(root), *(f"{name}\t{length}" for name, length in zip(names, lengths, strict=True))]) + "\n"
    )


def write_header(path: Path, length: int, rate: int = 16000) -> None:
    """A FLAC file that says it has `length` samples; its audio is noise of a few."""
    soundfile.write(path, np.random.default_rng(0).standard_normal(100) * 0.1, rate)
    content = bytearray(path.read_bytes())
    content[21:26] = (int.from_bytes(content[21:26], "big") >> 36 << 36 | length).to_bytes(5, "big")
    path.write_bytes(content)


@pytest.fixture(scope="module")
def librispeech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("librispeech")
    write_manifest(folder / "train.tsv", folder / "audio", TRAIN)
    write_manifest(folder / "valid.tsv", folder / "audio", VALID)
    return folder


@pytest.fixture(scope="module")
def few_utterances(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("few")
    write_manifest(folder / "train.tsv", folder / "audio", 2000)
    write_manifest(folder / "valid.tsv", folder / "audio", 100)
    return folder


Preflight = Callable[..., Done]


@pytest.fixture()
def preflight(warm: Warm, tmp_path: Path) -> Preflight:
    """The command, typed in an empty folder."""
    folder = tmp_path / "typed_in"
    folder.mkdir()
    return lambda *words: warm.module("fairseq_cli.preflight", words, folder)


def check(data: Path, options: Options | None = None, **changes: Any) -> Report:
    """The recipe's config with short audio, few buckets and small batches, checked in this process."""
    cfg = OmegaConf.load(CONFIGS / f"{HPU}.yaml")
    short = {
        "task": {"data": str(data), "max_sample_size": 24000, "min_sample_size": 8000, "num_batch_buckets": 2},
        "dataset": {"max_tokens": 96000, "required_batch_size_multiple": 1, "num_workers": 1},
        "common": {"hmp_bf16": "", "hmp_fp32": ""},
        "model": {"encoder_layers": 2},
    }
    cfg = OmegaConf.merge(cfg, short, changes)
    utils.import_user_module(OmegaConf.create({"user_dir": cfg.common.get("user_dir")}))
    return checks.check(resolve_config(cfg), [], options or Options(steps="none"))


def names(report: Report) -> list[str]:
    return [problem.name for problem in report.problems]


# -- the recipe --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_nothing_is_found_in_the_recipes_own_command(preflight: Preflight, librispeech: Path, tmp_path: Path) -> None:
    """As typed in the recipe, on a machine without the vendor's package; measured: 25 s of one core."""
    status, told = preflight(
        f"task.data={librispeech}",
        "--config-dir",
        str(CONFIGS),
        "--config-name",
        HPU,
        "--json",
        str(tmp_path / "found.json"),
        "--audio-seconds-per-second",
        "2000",
    )
    assert status == 0, told
    assert told.rstrip().endswith("Nothing found that would stop or slow this run.")
    assert not any((tmp_path / "typed_in").iterdir())  # nothing trained, nothing written
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["problems"] == [] and found["status"] == 0
    assert 0.7 < found["data"]["updates"]["share_of_paper"] < 1
    assert found["data"]["run"]["days"] == pytest.approx(
        400_000 * found["data"]["updates"]["seconds_per_update"] / 2000 / 86400
    )
    shapes = found["shapes"]["shapes"]
    assert len([shape for shape in shapes if shape["training"]]) <= 7
    assert all(shape["rows"] * shape["samples"] <= 1_400_000 and shape["masked"] < shape["frames"] for shape in shapes)
    assert found["shapes"]["padding"] < 0.15
    memory = found["memory"]
    assert memory["bytes"] < memory["bytes_fp32"] < 32 * 2**30 and memory["bytes_other_way"] < memory["bytes"]
    device = found["device"]
    assert device["graphs"]["compiled_again"] == {} and device["host_reads_per_update"] == 0
    assert device["no_gaudi_kernel"] == [] and device["only_here"] == []
    assert device["operators"]["_softmax"] > 0 and device["operators"]["convolution"] > 0
    assert device["bytes_to_device_per_update"] > 64 * 4 * 1_300_000


def test_a_launchers_line_gives_nodes_and_cards(preflight: Preflight, few_utterances: Path, tmp_path: Path) -> None:
    """The recipe's line for two nodes; the data are too few for such updates, which is told, and nothing else is."""
    status, told = preflight(
        "--steps",
        "none",
        "--json",
        str(tmp_path / "found.json"),
        "PT_HPU_ENABLE_SYNAPSE_OUTPUT_PERMUTE=0",
        "python",
        "-m",
        "torch.distributed.launch",
        "--nproc_per_node=8",
        "--nnodes=2",
        "--node_rank=0",
        "--master_addr=10.3.124.151",
        "--master_port=12345",
        "/usr/local/bin/fairseq-hydra-train",
        f"task.data={few_utterances}",
        "--config-dir",
        str(CONFIGS),
        "--config-name",
        HPU,
        "distributed_training.distributed_world_size=8",
        "optimization.update_freq=[4]",
    )
    assert "2 nodes x 8 cards, update_freq [4]" in told
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["data"]["updates"]["updates_per_epoch"] == -(-found["data"]["updates"]["batches_per_epoch"] // 64)
    assert status == (1 if found["problems"] else 0)
    assert {problem["name"] for problem in found["problems"]} <= {"padding-waste", "little-audio"}


def test_arguments_that_cannot_be_used(preflight: Preflight) -> None:
    for words, told in (
        (["--steps", "some", "task.data=x"], "--steps is 'some'"),
        (["--config-dir", str(CONFIGS), "--config-name", "no_such_config"], "no_such_config"),
        (["mpirun", "-n", "8", "fairseq-hydra-train", "task.data=x"], "is not a launcher"),
    ):
        status, output = preflight(*words)
        assert status == 2 and told in output, output


# -- planted faults ----------------------------------------------------------------------------------------------------


def test_a_user_modules_faults_are_told_by_file_and_line(
    few_utterances: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A read on the host, an operator without a kernel, and a slice whose bound moves with the updates."""
    monkeypatch.chdir(tmp_path)
    module = tmp_path / "planted_faults"
    module.mkdir()
    (module / "__init__.py").write_text(PLANTED)
    lines = {
        mark: number
        for number, line in enumerate(PLANTED.split("\n"), 1)
        for mark in ("READ", "KERNEL", "SHAPE")
        if f"# {mark}" in line
    }
    report = check(
        few_utterances,
        Options(),
        common={"user_dir": str(module)},
        model={"_name": "planted"},
        optimization={"update_freq": [1]},
    )
    by_name: dict[str, list[str]] = {}
    for problem in report.problems:
        by_name.setdefault(problem.name, []).append(problem.what)
    assert set(by_name) == {"host-read", "no-kernel", "recompiles", "little-audio"}
    file = "planted_faults/__init__.py"
    assert [what for what in by_name["host-read"] if what.startswith(f"item at {file}:{lines['READ']},")] == by_name[
        "host-read"
    ]
    assert (
        "special_i0e has no Gaudi kernel" in by_name["no-kernel"][0]
        and f"{file}:{lines['KERNEL']}." in by_name["no-kernel"][0]
    )
    assert f"slice.Tensor at {file}:{lines['SHAPE']}." in by_name["recompiles"][0]
    assert report.values("only_here") == []


@pytest.mark.parametrize("steps", ["tiny", "full"])
def test_the_same_without_the_faults(few_utterances: Path, steps: str) -> None:
    small = {
        "encoder_embed_dim": 32,
        "encoder_ffn_embed_dim": 64,
        "encoder_attention_heads": 2,
        "conv_feature_layers": SMALL_CONV,
    }
    micro_batches = 1 if steps == "full" else 2
    report = check(few_utterances, Options(steps=steps), optimization={"update_freq": [micro_batches]}, model=small)
    assert names(report) == ["little-audio"]
    assert report.values("host_reads") == {} and report.values("graphs")["compiled_again"] == {}
    assert 2 <= report.values("graphs")["compiled"]["training"] <= 8


def test_shapes_that_change_from_epoch_to_epoch(few_utterances: Path) -> None:
    changes = {
        "task": {"num_batch_buckets": 0, "enable_padding": False, "max_sample_size": 240000},
        "common": {"hmp": False},  # one precision to measure
    }
    report = check(few_utterances, **changes)
    report_with_batches = check(few_utterances, **changes, dataset={"max_tokens": 960000})
    assert names(report) == ["batches"]  # no batch could hold such an utterance: the config's own check
    assert "changing-shapes" in names(report_with_batches)
    assert "recompiles" not in names(report_with_batches)


def test_buckets_without_padding(few_utterances: Path) -> None:
    report = check(few_utterances, task={"enable_padding": False})
    assert names(report) == ["buckets-without-padding"]
    assert "requires task.enable_padding=true" in report.text()


def test_a_manifest_whose_root_does_not_exist(few_utterances: Path, tmp_path: Path) -> None:
    for name in ("train", "valid"):
        lines = (few_utterances / f"{name}.tsv").read_text().split("\n")
        (tmp_path / f"{name}.tsv").write_text("\n".join(["/no/such/folder", *lines[1:]]))
    report = check(tmp_path)
    assert names(report).count("manifest-root") == 2
    assert "'/no/such/folder'" in report.problems[0].what


def test_a_run_on_another_device_is_not_asked_about_kernels(few_utterances: Path) -> None:
    report = check(few_utterances, Options(), common={"hpu": False, "hmp": False, "bf16": True, "cpu": True})
    assert names(report) == ["little-audio"]
    assert report.values("operators") is None and any("not on HPU" in note for note in report.notes)


def test_names_of_problems_are_documented() -> None:
    source = "".join(path.read_text() for path in (REPOSITORY / "fairseq/preflight").glob("*.py"))
    used = set(re.findall(r'\.problem\(\s*"([a-z-]+)"', source)) | {"buckets-without-padding", *corpus._KINDS}
    documented = set(re.findall(r"^\| `([a-z-]+)` \|", (REPOSITORY / "docs/preflight.md").read_text(), re.MULTILINE))
    assert len(used) > 15 and used <= documented, used - documented


def test_files_that_are_not_there(few_utterances: Path, tmp_path: Path) -> None:
    text = (few_utterances / "train.tsv").read_text()
    (tmp_path / "train.tsv").write_text(text.replace(".flac", ".wav"))
    (tmp_path / "valid.tsv").write_text((few_utterances / "valid.tsv").read_text())
    assert "files-missing" in names(check(tmp_path))


def test_files_that_are_not_as_the_manifest_says(few_utterances: Path, tmp_path: Path) -> None:
    root, *lines = (few_utterances / "train.tsv").read_text().splitlines()
    pairs = [line.split("\t") for line in lines]
    halved = [f"{root}/{name}\t{int(length) // 2}" for name, length in pairs]
    (tmp_path / "train.tsv").write_text("\n".join(["/", *halved]) + "\n")
    write_header(tmp_path / "8k.flac", 40_000, rate=8000)
    (tmp_path / "broken.flac").write_bytes(b"<html>404</html>")
    (tmp_path / "valid.tsv").write_text(f"{tmp_path}\n8k.flac\t40000\nbroken.flac\t40000\n")
    found = {problem.name: problem.what for problem in check(tmp_path).problems}
    assert re.search(
        r"train\.tsv: \d+ of \d+ checked files have another length.*samples, [\d,]+ in the", found["manifest-lengths"]
    )
    assert "8k.flac (8000 Hz)" in found["sample-rate"] and "broken.flac (it is a web page" in found["files-unreadable"]


def test_a_manifest_without_files_is_named(few_utterances: Path, tmp_path: Path) -> None:
    (tmp_path / "train.tsv").write_text((few_utterances / "train.tsv").read_text())
    (tmp_path / "valid.tsv").write_text("/\n")
    (problem,) = check(tmp_path).problems
    assert f"{tmp_path}/valid.tsv, line 2: the manifest lists no files after the root" in problem.what


def test_too_little_audio_an_update(librispeech: Path) -> None:
    """The recipe's single-card config without its gradient accumulation."""
    changes = {
        "task": {"max_sample_size": 250000, "min_sample_size": 32000, "num_batch_buckets": 7},
        "dataset": {"max_tokens": 1400000},
    }
    little = check(librispeech, **changes, optimization={"update_freq": [1]})
    assert names(little) == ["little-audio"] and "optimization.update_freq=[64]" in little.problems[0].change


def test_what_does_not_fit_into_the_card(librispeech: Path) -> None:
    """Recomputation is offered where it helps, with its own estimate."""
    changes = {
        "task": {"max_sample_size": 250000, "min_sample_size": 32000, "num_batch_buckets": 2},
        "dataset": {"max_tokens": 4_000_000, "batch_size": 16},
        "common": {"hmp": False},
        "optimization": {"update_freq": [23]},
        "model": {"encoder_layers": 12},
    }
    report = check(librispeech, Options(steps="none", card="gaudi"), **changes)
    assert "out-of-memory" in names(report)
    change = next(problem.change for problem in report.problems if problem.name == "out-of-memory")
    assert change.startswith("model.checkpoint_activations=true needs ")
    # at most 358 of the 781 frames of 250,000 samples are masked
    assert report.values("bytes_of_negatives") == 101 * 16 * 358 * 256 * 4
    changes["model"]["checkpoint_activations"] = True
    recomputing = check(librispeech, Options(steps="none", card="gaudi"), **changes)
    assert "out-of-memory" not in names(recomputing)
    assert recomputing.values("bytes_fp32") == report.values("bytes_fp32_other_way")


@pytest.mark.slow
def test_two_billion_parameters_and_what_fits_them(few_utterances: Path) -> None:
    """Nothing has their size: neither the model, which would take 8.7 GB, nor a step."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    cfg = OmegaConf.load(CONFIGS / "xlsr_2b_hpu.yaml")
    small = {"task": {"data": str(few_utterances), "num_batch_buckets": 1}, "dataset": {"num_workers": 1}}
    small["common"] = {"hmp_bf16": "", "hmp_fp32": ""}
    found = checks.check(
        resolve_config(OmegaConf.merge(cfg, small)), [], Options(steps="none", card="gaudi", cards=(1, 8))
    )
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < 2**30
    assert "out-of-memory" in names(found)
    change = next(problem.change for problem in found.problems if problem.name == "out-of-memory")
    assert re.match(r"distributed_training.ddp_backend=fully_sharded needs \d cards, and then ", change)
    assert [row["cards"] for row in found.values("rows")] == [1, 8] * 3
    fitting = {(row["strategy"], row["cards"]): row["fits"] for row in found.values("rows")}
    assert fitting["pytorch_ddp", 8] == [96, 128] and fitting["fully_sharded", 8] == [32, 96, 128]
