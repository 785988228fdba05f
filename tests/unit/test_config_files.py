"""Which YAML files a command line means."""

from __future__ import annotations

from pathlib import Path

import pytest

from fairseq_cli.config_files import list_stock, locate, own_groups


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    names = "package/config stock/pretraining/base stock/finetuning/base_10h mine/own mine/g/small other/another"
    for name in (name + ".yaml" for name in names.split()):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("# @package _group_\n# What it is.\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def found(folders: Path, *overrides: str, **options: str) -> tuple[str | None, str | None, list[str], str]:
    """(name, folder, further overrides for hydra, file) of options typed with underscores, paths relative to
    `folders`.
    """
    typed = {f"--{name.replace('_', '-')}": value for name, value in options.items()}
    source = locate(typed, overrides, folders / "package", folders / "stock")
    assert "--config-path" not in source.options
    folder = source.options.get("--config-dir")
    folder = None if folder is None else str(Path(folder).resolve().relative_to(folders))
    return (
        source.options.get("--config-name"),
        folder,
        source.overrides,
        str(source.file.resolve().relative_to(folders)),
    )


def test_names_and_paths(folders: Path) -> None:
    assert found(folders) == (None, None, [], "package/config.yaml")
    assert found(folders, config_name="config") == ("config", None, [], "package/config.yaml")
    assert found(folders, config_name="base") == ("base", "stock/pretraining", [], "stock/pretraining/base.yaml")
    assert found(folders, config_name="base_10h.yaml") == (
        "base_10h",
        "stock/finetuning",
        [],
        "stock/finetuning/base_10h.yaml",
    )
    assert found(folders, config_name="pretraining/base")[1:] == (
        "stock/pretraining",
        [],
        "stock/pretraining/base.yaml",
    )
    assert found(folders, config_name="own", config_dir="mine") == ("own", "mine", [], "mine/own.yaml")
    assert found(folders, config_name="own", config_path="mine") == ("own", "mine", [], "mine/own.yaml")
    assert found(folders, config_name=str(folders / "mine/own.yaml")) == ("own", "mine", [], "mine/own.yaml")
    assert found(folders, config_name="mine/own.yaml") == ("own", "mine", [], "mine/own.yaml")
    assert found(folders, config_name="own", config_dir=".", config_path="mine")[1:3] == (
        "mine",
        [f"hydra.searchpath=['file://{folders}']"],
    )
    assert found(folders, config_name="base", config_dir="mine")[1:3] == (
        "stock/pretraining",
        [f"hydra.searchpath=['file://{folders}/mine']"],
    )
    other = [f"hydra.searchpath=['file://{folders / 'other'}']"]
    assert found(folders, config_name="mine/own", config_dir="other") == ("own", "mine", other, "mine/own.yaml")


def test_folders_in_which_hydra_looks(folders: Path) -> None:
    source = locate(
        {"--config-name": "base"}, [f"hydra.searchpath=[file://{folders}/mine]"], folders / "package", folders / "stock"
    )
    assert (folders / "mine") in source.folders
    assert list(own_groups(source.folders)) == ["g"]


def test_an_address_that_is_not_a_folder_is_hydras_affair(folders: Path) -> None:
    source = locate({"--config-path": "pkg://x", "--config-name": "y"}, [], folders / "package", folders / "stock")
    assert source.file is None and source.content() == {} and source.options["--config-path"] == "pkg://x"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"--config-name": "bsae"}, "there is no bsae.yaml among the stock configs .* Did you mean 'base'"),
        (
            {"--config-name": "owm", "--config-dir": "mine"},
            "there is no owm.yaml in mine or among the stock configs .* Did you mean 'own'",
        ),
        ({"--config-name": "zzzzz", "--config-dir": "mine"}, "Available: g/small, own"),
        ({"--config-name": "/abs/x.yaml"}, "--config-name is /abs/x.yaml: there is no such file"),
        ({"--config-dir": "nowhere"}, r"--config-dir is nowhere: there is no such folder \(relative to /"),
    ],
)
def test_what_is_not_there(folders: Path, options: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        locate(options, [], folders / "package", folders / "stock")


def test_the_list_of_stock_configs(folders: Path) -> None:
    assert list_stock(folders / "stock") == "finetuning:\n  base_10h  What it is.\npretraining:\n  base  What it is."
