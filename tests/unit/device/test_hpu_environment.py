"""What is set before the vendor's package is imported, what the user set stays, and what is said of it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from fairseq.dataclass.configs import CommonConfig
from fairseq.device import hpu_environment as environment


def common(**settings: Any) -> DictConfig:
    return OmegaConf.structured(CommonConfig(**{"hpu": True, **settings}))


def prepared(environ: dict[str, str] | None = None, **settings: Any) -> tuple[dict[str, str], list[str]]:
    environ = {} if environ is None else environ
    notes = environment.prepare(common(**settings), environ)
    return environ, [note.text for note in notes]


@pytest.mark.parametrize(("lazy", "value"), [(True, "1"), (False, "0")])
def test_the_mode_is_always_set(lazy: bool, value: str) -> None:
    environ, notes = prepared(hpu_lazy_mode=lazy)
    assert environ["PT_HPU_LAZY_MODE"] == value and environment.is_lazy(environ) == lazy and notes == []


def test_the_users_mode_wins_and_a_contradiction_is_told() -> None:
    environ, notes = prepared({"PT_HPU_LAZY_MODE": "0"}, hpu_lazy_mode=True)
    assert environ["PT_HPU_LAZY_MODE"] == "0" and len(notes) == 1
    assert "PT_HPU_LAZY_MODE=0" in notes[0] and "common.hpu_lazy_mode=true" in notes[0] and "eager" in notes[0]
    assert prepared({"PT_HPU_LAZY_MODE": "1"}, hpu_lazy_mode=True)[1] == []


def test_defaults_and_what_the_user_gave_instead() -> None:
    environ, _ = prepared()
    assert environ["PT_HPU_ENABLE_REFINE_DYNAMIC_SHAPES"] == "0" and environ["HABANA_PGM_LRU_MAX"] == "100000"
    folder, delete, megabytes = environ["PT_HPU_RECIPE_CACHE_CONFIG"].split(",")
    assert os.path.isabs(folder) and delete == "false" and int(megabytes) > 0
    given = {
        "PT_HPU_ENABLE_REFINE_DYNAMIC_SHAPES": "1",
        "HABANA_PGM_LRU_MAX": "7",
        "PT_HPU_RECIPE_CACHE_CONFIG": "/x,true,5",
    }
    environ, _ = prepared({**given, "PT_HPU_ENABLE_SYNAPSE_OUTPUT_PERMUTE": "0"})
    assert given.items() <= environ.items() and environ["PT_HPU_ENABLE_SYNAPSE_OUTPUT_PERMUTE"] == "0"


def test_the_recipes_older_cache_variable_is_said_in_todays_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    environ, _ = prepared({"PT_RECIPE_CACHE_PATH": "./cache_dir/", "PT_CACHE_FOLDER_SIZE_MB": "77"})
    assert environ["PT_HPU_RECIPE_CACHE_CONFIG"] == f"{tmp_path}/cache_dir,false,77"


def test_the_cache_is_never_in_a_folder_that_somebody_else_can_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The device runs what is in it, and everybody can make a folder of this name in the temporary directory first."""
    monkeypatch.setattr(environment.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    name = f"fairseq_hpu_recipes_{os.getuid()}"
    local, at_home = tmp_path / name, tmp_path / "home" / name

    def chosen() -> str:
        return prepared()[0]["PT_HPU_RECIPE_CACHE_CONFIG"].split(",")[0]

    assert chosen() == str(local) and local.stat().st_mode & 0o777 == 0o700
    assert chosen() == str(local)  # the next run's
    local.chmod(0o777)
    assert chosen() == str(at_home)
    local.rmdir()
    (tmp_path / "theirs").mkdir(mode=0o700)
    local.symlink_to(tmp_path / "theirs")
    assert chosen() == str(at_home)
    monkeypatch.setattr(os, "getuid", lambda: 4711)  # everything there belongs to somebody else
    (tmp_path / "fairseq_hpu_recipes_4711").mkdir()
    (tmp_path / "home" / "fairseq_hpu_recipes_4711").mkdir()
    with pytest.raises(ValueError, match="PT_RECIPE_CACHE_PATH=FOLDER"):
        prepared()
    assert prepared({"PT_RECIPE_CACHE_PATH": "/mine"})[0]["PT_HPU_RECIPE_CACHE_CONFIG"].startswith("/mine,")


def test_local_ranks_share_the_cache_and_have_cards_of_their_own() -> None:
    ranks = [{"WORLD_SIZE": "4", "RANK": str(2 + n), "LOCAL_RANK": str(n)} for n in range(2)]
    found = [prepared(environ)[0] for environ in ranks]
    assert [environ["HLS_MODULE_ID"] for environ in found] == ["0", "1"] and [environ["ID"] for environ in found] == [
        "2",
        "3",
    ]
    assert found[0]["PT_HPU_RECIPE_CACHE_CONFIG"] == found[1]["PT_HPU_RECIPE_CACHE_CONFIG"]
    given, _ = prepared({**ranks[0], "HLS_MODULE_ID": "5"})
    assert given["HLS_MODULE_ID"] == "5"
    chosen, _ = prepared({"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1", "HABANA_VISIBLE_MODULES": "4,6"})
    assert chosen["HLS_MODULE_ID"] == "6"


def test_one_process_takes_any_free_card() -> None:
    assert "HLS_MODULE_ID" not in prepared()[0]


# -- op lists ----------------------------------------------------------------------------------------------------------


def lists_of(environ: dict[str, str]) -> tuple[list[str], list[str]]:
    return tuple(
        environment.read_op_list(Path(environ[name])) for name in (environment.LOWER_LIST, environment.FP32_LIST)
    )


def test_the_recipes_lists_are_in_the_package() -> None:
    environ, _ = prepared(hmp=True, hmp_bf16="ops_bf16.txt", hmp_fp32="ops_fp32.txt")
    assert lists_of(environ) == (
        ["addmm", "iadd", "linear", "matmul", "mm", "mv", "conv1d", "conv2d", "instance_norm"],
        ["embedding", "nll_loss", "log_softmax"],
    )


def test_the_configs_folder_comes_before_where_one_works_and_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, config = tmp_path / "here", tmp_path / "config"
    for folder, operator in ((here, "mm"), (config, "bmm")):
        folder.mkdir()
        (folder / "ops_bf16.txt").write_text(operator + "\n")
    monkeypatch.chdir(here)
    cfg = common(hmp=True, hmp_bf16="ops_bf16.txt", hmp_fp32="nowhere.txt")
    environment.locate_op_lists(cfg, [str(config)])
    assert cfg.hmp_bf16 == str(config / "ops_bf16.txt") and cfg.hmp_fp32 == "nowhere.txt"
    assert environment.find_op_list("ops_bf16.txt") == here / "ops_bf16.txt"
    with pytest.raises(ValueError, match="no such file in .*config.*here.*fairseq"):
        environment.find_op_list("nowhere.txt", [str(config)])


@pytest.mark.parametrize("key", ["bf16", "fp16", "amp", "memory_efficient_bf16", "hmp"])
def test_mixed_precision_always_has_both_lists(key: str) -> None:
    lower, upper = lists_of(prepared(**{key: True})[0])
    assert {"linear", "matmul", "bmm", "conv2d"} <= set(lower) and {"softmax", "log_softmax", "layer_norm"} <= set(
        upper
    )
    # the bridge's own list has the first four
    assert not set(lower) & {"mul", "mean", "softmax", "log_softmax", *upper}


def test_fp32_has_none() -> None:
    assert environment.LOWER_LIST not in prepared()[0]


def test_a_list_of_the_users_environment_wins(tmp_path: Path) -> None:
    (tmp_path / "own.txt").write_text("mm\n")
    environ, notes = prepared({environment.LOWER_LIST: str(tmp_path / "own.txt")}, hmp=True, hmp_bf16="ops_bf16.txt")
    assert environ[environment.LOWER_LIST] == str(tmp_path / "own.txt")
    assert len(notes) == 1 and "takes precedence over common.hmp_bf16" in notes[0]


def test_an_operator_in_both_lists_is_told(tmp_path: Path) -> None:
    (tmp_path / "own.txt").write_text("mm\nlog_softmax\n")
    _, notes = prepared(hmp=True, hmp_bf16=str(tmp_path / "own.txt"), hmp_fp32="ops_fp32.txt")
    assert len(notes) == 1 and notes[0].startswith("log_softmax: in both op lists")


def test_verbose_says_the_operators() -> None:
    _, notes = prepared(hmp=True, hmp_bf16="ops_bf16.txt", hmp_fp32="ops_fp32.txt", hmp_verbose=True)
    assert (
        len(notes) == 2
        and "in bf16" in notes[0]
        and "addmm iadd" in notes[0]
        and "embedding nll_loss log_softmax" in notes[1]
    )


@pytest.mark.parametrize("line", ["# comment", "", "a b", "mm "])
def test_a_line_that_is_no_operator_is_an_error(tmp_path: Path, line: str) -> None:
    (tmp_path / "own.txt").write_text(f"mm\n{line}\nmv\n")
    with pytest.raises(ValueError, match=r"own.txt, line 2 is"):
        environment.read_op_list(tmp_path / "own.txt")


# -- versions ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("software", "torch_version", "warning"),
    [
        ("1.19.0.561", "2.5.1a0+git3c27b5e", None),
        ("1.23.0", "2.9.0+hpu", None),
        ("1.24.0.464", "2.10.0", None),
        ("1.24.1", "2.11.0a0+gitabc", None),
        ("1.24.0", "2.11.0", "comes with torch 2.10,"),
        ("1.21.4", "2.5.1", "comes with torch 2.6"),
        ("1.14.0", "2.1.1", "not one of 1.19 to 1.24"),
        ("1.30.0", "2.9.0", "not one of 1.19 to 1.24"),
        (None, "2.9.0", "is unknown"),
    ],
)
def test_pairs_of_software_and_torch(software: str | None, torch_version: str, warning: str | None) -> None:
    notes = environment.check_versions(software, torch_version)
    assert [note.is_warning for note in notes] == ([] if warning is None else [True])
    assert warning is None or warning in notes[0].text


@pytest.mark.parametrize(
    ("torch_version", "lazy", "refused"),
    [("2.11.0+cpu", "1", True), ("2.11.0", "1", True), ("2.11.0a0+git1f2e3d", "1", False), ("2.11.0", "0", False)],
)
def test_lazy_mode_on_stock_torch_is_refused_before_the_import(
    torch_version: str, lazy: str, refused: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the vendor's package itself asserts."""
    package = tmp_path / "habana_frameworks"
    (package / "torch").mkdir(parents=True)
    (package / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    environ = {"PT_HPU_LAZY_MODE": lazy}
    assert environment.stock_torch_in_lazy_mode(environ, torch_version) is None  # a stand-in, which checks nothing
    (package / "torch" / "required_version.txt").write_text(torch_version)
    message = environment.stock_torch_in_lazy_mode(environ, torch_version)
    assert (message is not None) == refused
    assert (
        message is None or "--config-name wav2vec2_base_librispeech_hpu_eager" in message and torch_version in message
    )


def test_compiled_autograd_is_turned_on_before_the_import() -> None:
    assert environment.compiles_autograd(prepared(hpu_compiled_autograd=True)[0])
    assert not environment.compiles_autograd(prepared()[0])


def test_every_variable_of_the_vendors_is_told() -> None:
    line = environment.in_effect(
        {"PT_HPU_LAZY_MODE": "1", "HABANA_PROFILE": "0", "HOME": "/root", "HLS_MODULE_ID": "3"}
    ).text
    assert line.endswith("HABANA_PROFILE=0 HLS_MODULE_ID=3 PT_HPU_LAZY_MODE=1")
