"""The commands of Gaudi's recipe as they are typed there, with the stand-in for the vendor's package in a card's place.

Eight cards are two processes here, the two servers are two launchers on this machine with two processes each, and the
model is small; everything else is the recipe's. `distributed_world_size x update_freq x nodes` is 4 in all of them, so
all of them train the same. torchrun, which the recipe's launcher is too in today's torch, has one server. In eager mode
the run is started by each program, the command itself and a launcher; two servers have been seen in lazy mode.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import soundfile

from tests.conftest import FAKES, REPOSITORY, SHARED
from tests.fakes.habana_frameworks.recorder import records
from tests.integration.conftest import write_audio, write_manifest

FLAGS = "PT_HPU_ENABLE_SYNAPSE_OUTPUT_PERMUTE=0 PT_HPU_ENABLE_WEIGHT_CPU_PERMUTE=0"
CONFIG = "--config-dir examples/wav2vec/config/pretraining --config-name wav2vec2_base_librispeech_hpu"
DATA = "/software/data/pytorch/wav2vec/data/LibriSpeech/train-960/manifest/"
ONE_NODE = f"{FLAGS} fairseq-hydra-train task.data={DATA} {CONFIG}"
SERVERS = '--nproc_per_node=8 --nnodes=2 --node_rank={rank} --master_addr="10.3.124.151" --master_port=12345'
ON_SERVERS = (
    f"{FLAGS} python -m torch.distributed.launch {SERVERS} $(which fairseq-hydra-train) task.data={DATA} {CONFIG}"
)
# release 1.8.0, for Gaudi 2
ON_GAUDI_2 = (
    f'{FLAGS} PT_RECIPE_CACHE_PATH="./cache_dir/" fairseq-hydra-train common.log_interval=111 task.data={DATA} {CONFIG}'
)
ONE_SERVER = SERVERS.replace("nnodes=2", "nnodes=1").format(rank=0)
TORCHRUN = f"{FLAGS} torchrun {ONE_SERVER} $(which fairseq-hydra-train) task.data={DATA} {CONFIG}"

UPDATES = 2
# sizes and updates; what the recipe's text says to edit in the YAML is with each command below
SMALL = (
    "task.max_sample_size=64000 task.num_batch_buckets=2 dataset.max_tokens=128000 dataset.batch_size=2 "
    "common.log_interval=1 "
    f"optimization.max_update={UPDATES} lr_scheduler.warmup_updates={UPDATES} "
    "model.conv_feature_layers='[(16,10,5)]+[(16,3,2)]*4+[(16,2,2)]*2' model.encoder_layers=1 "
    "model.encoder_embed_dim=32 model.encoder_ffn_embed_dim=64 model.encoder_attention_heads=2 model.final_dim=16 "
    "model.latent_vars=8 model.conv_pos=16 model.conv_pos_groups=4"
)


class Node(NamedTuple):
    """What a server showed."""

    status: int
    stdout: str
    stderr: str


class Style(NamedTuple):
    """One way to start the run, and what came of it."""

    nodes: list[Node]
    losses: list[dict[str, Any]]  # a row of metrics.jsonl an update
    validation: list[dict[str, Any]]
    imports: list[dict[str, Any]]  # of the vendor's package, by rank


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest of 16 utterances of 2 to 5 seconds, and of 2 to validate on: real ones where there are any."""
    folder = tmp_path_factory.mktemp("manifest")
    root = SHARED / "data/librispeech-mini"
    if root.is_dir():
        found = sorted((soundfile.info(path).frames, path) for path in root.rglob("*.flac"))
        files = [path for frames, path in found if frames >= 32000][:36:2]
    else:
        root = folder / "audio"
        files = [root / f"{i:02d}.flac" for i in range(18)]
        for i, path in enumerate(files):
            write_audio(path, 2.1 + i / 6, seed=i)
    write_manifest(folder / "train.tsv", root, files[:16])
    write_manifest(folder / "valid.tsv", root, files[16:])
    return folder


class Server:
    """The shell in which the recipe's commands are typed: in the repository, the installed command and Python on
    the path.
    """

    def __init__(self, folder: Path, speech: Path) -> None:
        self.folder, self.speech = folder, speech
        script = folder / "bin/fairseq-hydra-train"  # as pip writes it
        script.parent.mkdir(parents=True)
        script.write_text(
            f"#!{sys.executable}\nimport sys\nfrom fairseq_cli.hydra_train import cli_main\n"
            "if __name__ == '__main__':\n    sys.exit(cli_main())\n"
        )
        script.chmod(0o755)

    def environment(self, style: str) -> dict[str, str]:
        """The shell's variables: no launcher's, none of Gaudi's; imports of the vendor's package are noted in the
        style's folder.
        """
        path = os.pathsep.join([str(self.folder / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]])
        unset = (
            "PT_",
            "HABANA_",
            "HLS_",
            "TORCH_DEVICE",
            "RANK",
            "WORLD_SIZE",
            "LOCAL_",
            "MASTER_",
            "OMPI_",
            "SLURM_",
            "PYTHON",
        )
        kept = {name: value for name, value in os.environ.items() if not name.startswith(unset)}
        ours = {"PATH": path, "PYTHONPATH": os.pathsep.join([str(REPOSITORY), str(FAKES)]), "OMP_NUM_THREADS": "1"}
        return {**kept, **ours, "FAKE_HABANA_RECORD": str(self.folder / style / "imports")}

    def type(self, command: str, style: str, *overrides: str, ranks: int = 1) -> Style:
        """Run a command, on as many servers as there are ranks, side by side; the model's sizes and where things
        lie are appended.
        """
        folder = self.folder / style
        (folder / "imports").mkdir(parents=True)
        command = command.replace(DATA, f"{self.speech}/").replace("=8", "=2").replace("10.3.124.151", "127.0.0.1")
        command = command.replace("=12345", f"={free_port()}")
        command = " ".join([command, *overrides, SMALL, f"checkpoint.save_dir={folder}/run"])
        started = [
            subprocess.Popen(
                ["bash", "-c", command.replace("{rank}", str(rank))],
                cwd=REPOSITORY,
                env=self.environment(style),
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            for rank in range(ranks)
        ]
        ended = [process.communicate(timeout=300) for process in started]
        nodes = [Node(process.returncode, *output) for process, output in zip(started, ended, strict=True)]
        for node in nodes:
            if node.status != 0:  # not an assert: with -v, pytest would add its own copy of the output
                raise AssertionError(node.stdout + node.stderr)
        rows = [json.loads(line) for line in (folder / "run/metrics.jsonl").read_text().splitlines()]
        of_split = {split: [row for row in rows if row["split"] == split] for split in ("train_inner", "valid")}
        return Style(nodes, of_split["train_inner"], of_split["valid"], records(folder / "imports"))


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture(scope="module", params=["lazy", pytest.param("eager", marks=pytest.mark.slow)])
def mode(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def server(mode: str, speech: Path, tmp_path_factory: pytest.TempPathFactory) -> Server:
    return Server(tmp_path_factory.mktemp(mode), speech)


@pytest.fixture(scope="module")
def styles(mode: str, server: Server) -> dict[str, Style]:
    """The run, started in every way of the recipe's."""
    lazy = f"common.hpu_lazy_mode={str(mode == 'lazy').lower()}"
    quick = ("distributed_training.distributed_world_size=2", "dataset.disable_validation=true", lazy)
    one_server, alone = "optimization.update_freq=[2]", "dataset.num_workers=0"
    # data-loading workers in one of the runs
    workers = f"dataset.num_workers={int(mode == 'lazy')}"
    runs = {
        "single": server.type(ONE_NODE, "single", "optimization.update_freq=[4]", alone, lazy),
        "spawn": server.type(ON_GAUDI_2, "spawn", one_server, workers, *quick),
        "torchrun": server.type(TORCHRUN, "torchrun", one_server, alone, *quick),
    }
    if mode == "lazy":
        two_servers = "optimization.update_freq=[1]"
        runs["launch"] = server.type(ON_SERVERS, "launch", two_servers, alone, *quick, ranks=2)
    return runs


def test_losses_are_equal_however_the_run_is_started(styles: dict[str, Style], mode: str) -> None:
    """In eager mode a card is seeded once an update, so only runs of equally many processes draw the same numbers."""
    single = styles["single"].losses
    assert [row["num_updates"] for row in single] == list(range(1, UPDATES + 1))
    assert single[0]["loss"] != single[1]["loss"]
    likes: dict[int, list[dict[str, Any]]] = {}  # the first run of each number of processes
    for name, style in styles.items():
        like = likes.setdefault(len(style.imports), style.losses) if mode == "eager" else single
        for row, alone, expected in zip(style.losses, single, like, strict=True):
            assert (row["bsz"], row["audio_s_per_update"]) == (alone["bsz"], alone["audio_s_per_update"]), name
            # the order of sums in float32 may move the last of three printed decimals
            for metric in ("loss", "loss_0", "gnorm"):
                assert row[metric] == pytest.approx(expected[metric], abs=1.1e-3), (name, metric)


def test_only_the_master_prints(styles: dict[str, Style]) -> None:
    for name, style in styles.items():
        told = [re.sub(r"^[\d: -]+\| ", "", line) for line in style.nodes[0].stdout.splitlines()]
        assert sum("done training" in line for line in told) == 1, name
        assert [line for line, times in Counter(told).items() if times > 1] == [], name
        assert all(node.stdout == "" for node in style.nodes[1:]), name
        for node in style.nodes:  # what is left there is torch's own: its launcher is deprecated
            assert "fairseq" not in re.sub(r"\S*fairseq-hydra-train", "", node.stderr) and " | " not in node.stderr, (
                name
            )
        assert "= 4 batches" in style.nodes[0].stdout, name


def test_the_environment_is_whole_before_the_vendors_package_is_imported(styles: dict[str, Style], mode: str) -> None:
    for name, style in styles.items():
        assert len(style.imports) == {"single": 1, "launch": 4}.get(name, 2), name
        for found in (record["environment"] for record in style.imports):
            assert found["TORCH_DEVICE_BACKEND_AUTOLOAD"] == "0"
            assert found["PT_HPU_LAZY_MODE"] == ("1" if mode == "lazy" else "0")
            assert found["PT_HPU_ENABLE_SYNAPSE_OUTPUT_PERMUTE"] == found["PT_HPU_ENABLE_WEIGHT_CPU_PERMUTE"] == "0"
            assert {"PT_HPU_RECIPE_CACHE_CONFIG", "PT_HPU_ENABLE_REFINE_DYNAMIC_SHAPES", "HABANA_PGM_LRU_MAX"} <= set(
                found
            )
            assert found["PT_HPU_RECIPE_CACHE_CONFIG"].startswith(f"{REPOSITORY}/cache_dir,") == (name == "spawn"), (
                "said by the command"
            )
            assert found["PT_HPU_AUTOCAST_LOWER_PRECISION_OPS_LIST"].endswith("ops_bf16.txt")
            assert found["PT_HPU_AUTOCAST_FP32_OPS_LIST"].endswith("ops_fp32.txt")


def test_every_process_has_a_card_and_no_other_process_has_one(styles: dict[str, Style]) -> None:
    """The parent of spawned processes and the data-loading workers never import the vendor's package."""
    for name, style in styles.items():
        assert not any(record["is_worker"] for record in style.imports), name
        assert all(record["is_spawned"] == (name == "spawn") for record in style.imports), name
        if name == "single":
            continue
        ranks = [record["environment"] for record in style.imports]
        world = len(ranks)
        assert [int(found["RANK"]) for found in ranks] == list(range(world)), name
        for rank, found in enumerate(ranks):
            assert (found["WORLD_SIZE"], found["LOCAL_WORLD_SIZE"]) == (str(world), "2"), name
            assert found["ID"] == str(rank) and found["HLS_MODULE_ID"] == found["LOCAL_RANK"] == str(rank % 2), name
    assert len({record["parent_pid"] for record in styles["spawn"].imports}) == 1


def test_an_update_waits_for_no_barrier(styles: dict[str, Style]) -> None:
    for name, style in styles.items():
        for record in style.imports:
            assert "barrier" not in record["calls"], name
            assert name == "single" or record["calls"]["allreduce"] > 0, name
            assert record["calls"].get("mark_step", 0) > 0 if record["environment"]["PT_HPU_LAZY_MODE"] == "1" else True


def test_the_checkpoint_validates_on_a_card(styles: dict[str, Style], server: Server, mode: str) -> None:
    """`fairseq_cli.validate --device hpu` gives the run's own figures."""
    command = (
        f"python -m fairseq_cli.validate --path {server.folder}/single/run/checkpoint_last.pt --device hpu "
        "--bf16 --log-format none"
    )
    env = {**server.environment("validate"), "PT_HPU_LAZY_MODE": "1" if mode == "lazy" else "0"}
    (server.folder / "validate/imports").mkdir(parents=True)
    done = subprocess.run(["bash", "-c", command], cwd=REPOSITORY, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    figures, expected = json.loads(done.stdout.splitlines()[-1])["valid"], styles["single"].validation[-1]
    for name in ("loss", "loss_0", "accuracy", "nsentences"):
        assert figures[name] == pytest.approx(expected[name], rel=1e-4), name
    (record,) = records(server.folder / "validate/imports")
    assert not record["is_worker"] and record["environment"]["TORCH_DEVICE_BACKEND_AUTOLOAD"] == "0"


def test_these_are_the_recipes_commands() -> None:
    """Word for word, those of one card, of eight, and of two servers."""
    recipe = SHARED / "reference/habana_wav2vec2_readme.md"
    if not recipe.is_file():
        pytest.skip("no ../shared beside this checkout")
    lines = [line.strip() for line in recipe.read_text(encoding="utf-8").splitlines() if line.startswith(FLAGS)]
    assert lines.count(ONE_NODE) == 2
    assert [ON_SERVERS.replace("{rank}", str(rank)) in lines for rank in (0, 1)] == [True, True]
    assert shlex.split(ONE_NODE)[:2] == FLAGS.split()


def test_another_number_of_cards_than_the_launchers_is_one_clear_error(speech: Path, tmp_path: Path) -> None:
    """The first process of the node tells it, without a traceback of this project's."""
    server = Server(tmp_path, speech)
    with pytest.raises(AssertionError) as failed:
        server.type(TORCHRUN, "wrong", "distributed_training.distributed_world_size=4")
    told = str(failed.value)
    assert told.count("distributed_training.distributed_world_size=4, but the launcher started 2 processes") == 1
    assert "hydra_train.py" not in told
