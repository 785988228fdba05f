"""Launchers' lines, as the recipe has them, read and not run."""

from __future__ import annotations

import shlex

import pytest

from fairseq.preflight.checks import Options
from fairseq_cli import launcher_line
from fairseq_cli.launcher_line import LauncherLine
from fairseq_cli.preflight import options_of, take_own

RECIPE = (
    "PT_HPU_ENABLE_SYNAPSE_OUTPUT_PERMUTE=0 PT_HPU_ENABLE_WEIGHT_CPU_PERMUTE=0 python -m torch.distributed.launch "
    "--nproc_per_node=8 "
    '--nnodes=2 --node_rank=0 --master_addr="10.3.124.151" --master_port=12345 /usr/local/bin/fairseq-hydra-train task.data=/data '
    "--config-dir examples/wav2vec/config/pretraining --config-name wav2vec2_base_librispeech_hpu"
)
ARGUMENTS = [
    "task.data=/data",
    "--config-dir",
    "examples/wav2vec/config/pretraining",
    "--config-name",
    "wav2vec2_base_librispeech_hpu",
]
VARIABLES = {"PT_HPU_ENABLE_SYNAPSE_OUTPUT_PERMUTE": "0", "PT_HPU_ENABLE_WEIGHT_CPU_PERMUTE": "0"}


def test_the_recipes_line_for_two_nodes() -> None:
    assert launcher_line.read(shlex.split(RECIPE)) == LauncherLine(VARIABLES, 2, 8, ARGUMENTS)


@pytest.mark.parametrize(
    ("line", "nodes", "processes"),
    [
        ("torchrun --nnodes 4 --nproc-per-node 8 fairseq-hydra-train a=1", 4, 8),
        ("/venv/bin/torchrun --nnodes=2:4 --nproc_per_node=2 -m fairseq_cli.hydra_train a=1", 2, 2),
        ("python3.11 -m torch.distributed.run --nproc_per_node=4 fairseq_cli/hydra_train.py a=1", 1, 4),
        ("python -m fairseq_cli.hydra_train a=1", None, None),
        ("fairseq-hydra-train a=1", None, None),
        ("PT_HPU_LAZY_MODE=1 a=1", None, None),
        ("a=1", None, None),
    ],
)
def test_other_lines(line: str, nodes: int | None, processes: int | None) -> None:
    found = launcher_line.read(line.split())
    assert (found.nodes, found.processes, found.arguments) == (nodes, processes, ["a=1"])


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("mpirun -n 8 fairseq-hydra-train a=1", "'mpirun' is not a launcher"),
        ("torchrun --nproc_per_node=gpu fairseq-hydra-train a=1", "--nproc_per_node is 'gpu'"),
        ("torchrun --nproc_per_node=2 --nnodes=0 fairseq-hydra-train a=1", "--nnodes is '0'"),
    ],
)
def test_lines_that_cannot_be_counted(line: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        launcher_line.read(line.split())


def test_own_options_may_stand_anywhere() -> None:
    own, others = take_own(["--json", "x.json", "a=1", "--config-name", "y", "--nodes=2", "b=2"])
    assert own == {"--json": "x.json", "--nodes": "2"}
    assert others == ["a=1", "--config-name", "y", "b=2"]
    with pytest.raises(ValueError, match="--steps needs a value"):
        take_own(["a=1", "--steps"])


def test_options() -> None:
    assert options_of({"--nodes": "2", "--audio-seconds-per-second": "1e3"}, None, None) == Options(
        nodes=2, speed=1000.0
    )
    assert options_of({}, 2, 8) == Options(nodes=2, processes=8)
    cards = {"--cards": "8, 1,32", "--card-memory": "80,24,24"}
    assert options_of(cards, None, None) == Options(cards=(1, 8, 32), card_memory=(24, 80))
    for words, told in (
        ({"--nodes": "two"}, "--nodes is 'two'"),
        ({"--nodes": "3"}, "--nnodes is 2"),
        ({"--steps": "some"}, "it must be one of: tiny, full, none"),
        ({"--card": "gaudi4"}, "it must be one of: gaudi, gaudi2, gaudi3"),
        ({"--cards": "8,"}, "--cards is '8,': it must be whole numbers above 0"),
        ({"--card-memory": "0"}, "--card-memory is '0'"),
        ({"--audio-seconds-per-second": "fast"}, "must be a number above 0"),
    ):
        with pytest.raises(ValueError, match=told):
            options_of(words, 2, 8)
