"""What the README and the pages it leads to tell people to type, as far as it can be checked without running for
hours.
"""

from __future__ import annotations

import itertools
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from fairseq.dataclass import configs
from fairseq.installed import EXTRAS
from fairseq_cli import command_line
from fairseq_cli.preflight import take_own
from tests.warm import Warm

ROOT = Path(__file__).parents[2]
DOCS = (ROOT / "docs").rglob("*.md")
PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", *sorted(str(path.relative_to(ROOT)) for path in DOCS))
LAUNCHERS = {"torchrun", "mpirun", "srun"}
SYSTEM = {"sudo"}  # network links
FILE_ENDINGS = {"safetensors", "onnx", "pt"}  # `model.safetensors` is a file
_FENCE = re.compile(r"^([ ]*)```bash\n(.*?)^[ ]*```", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\((?!https?://)([^)#]+)\)")
_KEY = re.compile(r"`([a-z_]+\.[a-z_]+)(?:=[^`]*)?`")


def commands(repository: Path, page: str) -> list[list[str]]:
    """The commands of a page's bash blocks as words, continuation lines joined, variables set before a command left
    out.
    """
    found = []
    for _, block in _FENCE.findall((repository / page).read_text(encoding="utf-8")):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line.replace("$(which fairseq-hydra-train)", "fairseq-hydra-train"), comments=True)
            words = list(itertools.dropwhile(re.compile(r"[A-Z_]+=").match, words))
            if words:
                found.append(words)
    return found


def all_commands(repository: Path, program: str) -> list[list[str]]:
    return [words for page in PAGES for words in commands(repository, page) if words[0] == program]


def test_programs_of_the_pages_are_known_ones(repository: Path) -> None:
    programs = {words[0] for page in PAGES for words in commands(repository, page)}
    project = (repository / "pyproject.toml").read_text(encoding="utf-8")
    ours = set(re.findall(r"^(fairseq-[a-z-]+) = ", project, re.MULTILINE))
    assert programs <= {"make", "pip", "python", *ours, *LAUNCHERS, *SYSTEM}, programs


def test_make_targets_exist(repository: Path) -> None:
    makefile = (repository / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    asked = {word for words in all_commands(repository, "make") for word in words[1:] if "=" not in word}
    assert asked and asked <= targets
    mentioned = {
        name
        for page in PAGES
        for name in re.findall(r"`make ([a-z]+)", (repository / page).read_text(encoding="utf-8"))
    }
    assert mentioned <= targets


def test_files_and_links_exist(repository: Path) -> None:
    for page in PAGES:
        text = (repository / page).read_text(encoding="utf-8")
        for link in _LINK.findall(text):
            assert ((repository / page).parent / link).exists(), f"{page}: {link}"
    folders = {
        folder
        for page in PAGES
        if page != "CHANGELOG.md"
        for folder in re.findall(
            r"`((?:fairseq|fairseq_cli|examples|benchmarks|tests|docs)/[\w./-]*)`", (repository / page).read_text()
        )
    }
    assert len(folders) > 30
    assert {folder for folder in folders if not (repository / folder).exists()} == set()


def test_readme_is_short_and_pages_are_wrapped(repository: Path) -> None:
    """At most 140 lines of README; at most 100 columns, but for rows of tables."""
    assert len((repository / "README.md").read_text(encoding="utf-8").splitlines()) <= 140
    wide = [
        f"{page}:{number}"
        for page in PAGES
        if page != "CHANGELOG.md"
        for number, line in enumerate((repository / page).read_text(encoding="utf-8").splitlines(), 1)
        if len(line) > 100 and not line.startswith("|")
    ]
    assert wide == []


def test_scripts_take_the_options(repository: Path) -> None:
    calls = [words for words in all_commands(repository, "python") if words[1] != "-m"]
    assert calls
    for words in calls:
        script = repository / words[1]
        assert script.is_file(), words[1]
        shown = subprocess.run(
            [sys.executable, str(script), "--help"], capture_output=True, text=True, check=True
        ).stdout
        for option in (word for word in words if word.startswith("--")):
            assert re.search(rf"{re.escape(option)}\b", shown), f"{words[1]} has no {option}"


def test_pip_installs_extras_that_exist(repository: Path) -> None:
    extras = set(EXTRAS)
    text = "".join((repository / page).read_text(encoding="utf-8") for page in PAGES)
    asked = {extra for group in re.findall(r"\.\[([a-z,]+)\]", text) for extra in group.split(",")}
    assert asked and asked <= extras


def test_training_commands_compose(repository: Path, tmp_path: Path) -> None:
    """Each `fairseq-hydra-train` line of the pages, with --cfg job in place of the run, prints a config that has its
    overrides.

    `tests/integration/test_documented_commands.py` runs those that can run on one machine.
    """
    lines = [words for page in PAGES for words in commands(repository, page) if "--help" not in words]
    calls = {  # after a launcher, too; without preflight's own options
        tuple(take_own(words[words.index(program) + 1 :])[1])
        for program in ("fairseq-hydra-train", "fairseq-preflight")
        for words in lines
        if program in words and not (program == "fairseq-preflight" and "fairseq-hydra-train" in words)
    }
    assert calls
    (tmp_path / "examples").symlink_to(repository / "examples")
    with Warm() as warm:
        for words in calls:
            alone = [word for word in words if word != "-m"]  # hydra shows a config, or runs several
            arguments = [*alone, *([] if "--cfg" in words else ["--cfg", "job"])]
            result = warm.module("fairseq_cli.hydra_train", arguments, tmp_path)
            assert result.code == 0, result.output
            for override in command_line.read_command_line(words).overrides:
                key, _, value = override.lstrip("+").partition("=")
                if key.startswith("hydra"):  # not a part of the job
                    continue
                assert re.search(rf"^\s*{key.split('.')[-1]}:", result.output, re.MULTILINE), override
                if "[" not in value:
                    assert value.strip("'") in result.output, override


def test_launchers_of_torch_take_the_options(repository: Path) -> None:
    """`torchrun` and `python -m torch.distributed.launch`: everything before the command is theirs, the rest is not."""
    from torch.distributed.launch import parse_args

    calls = [words[1:] for words in all_commands(repository, "torchrun")]
    calls += [
        words[3:] for words in all_commands(repository, "python") if words[1:3] == ["-m", "torch.distributed.launch"]
    ]
    assert len(calls) >= 2
    for words in calls:
        args = parse_args(words)
        assert args.training_script == "fairseq-hydra-train" and args.training_script_args[0].startswith("task.data=")
        assert int(args.nproc_per_node) == 8 and int(args.nnodes) in (2, 4)


@pytest.mark.parametrize("page", PAGES)
def test_keys_of_the_pages_exist(repository: Path, page: str) -> None:
    """`group.key` in a page is a key of that group's dataclasses."""
    from fairseq.dataclass.groups import CONFIG_GROUPS

    plain = {
        "common": configs.CommonConfig,
        "dataset": configs.DatasetConfig,
        "distributed_training": configs.DistributedTrainingConfig,
        "optimization": configs.OptimizationConfig,
        "checkpoint": configs.CheckpointConfig,
        "ema": configs.EMAConfig,
    }
    known = {group: set(config.__dataclass_fields__) for group, config in plain.items()}
    for group, members in CONFIG_GROUPS.items():
        known.setdefault(group, set()).update(*(config.__dataclass_fields__ for config in members.values()))
    for group, key in (name.split(".") for name in _KEY.findall((repository / page).read_text(encoding="utf-8"))):
        if group in known and key not in FILE_ENDINGS:
            assert key in known[group], f"{page}: {group}.{key}"


def test_config_map_names_keys_that_exist(repository: Path) -> None:
    """The table of groups and keys."""
    from fairseq.dataclass.groups import CONFIG_GROUPS

    table = re.search(
        r"\| group \| sets \|.*?\n\n", (repository / "docs/configs.md").read_text(encoding="utf-8"), re.DOTALL
    )
    assert table
    every = {
        field
        for members in CONFIG_GROUPS.values()
        for config in members.values()
        for field in config.__dataclass_fields__
    }
    for config in (
        configs.CommonConfig,
        configs.DatasetConfig,
        configs.DistributedTrainingConfig,
        configs.OptimizationConfig,
    ):
        every.update(config.__dataclass_fields__)
    every.update(configs.CheckpointConfig.__dataclass_fields__, configs.EMAConfig.__dataclass_fields__)
    rows = [row.split("|") for row in table.group(0).splitlines()[2:]]
    keys = {key for row in rows if len(row) > 3 for key in re.findall(r"`(\w+)`", row[3])}
    assert len(keys) > 30 and keys <= every, keys - every
