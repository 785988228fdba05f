"""YAML files are bounded, and their mistakes named, before hydra reads them."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from fairseq_cli.yaml_files import MAX_NODES, read, read_all

LEVELS = zip("abcdefghijkl", "bcdefghijklm", strict=True)
BOMB = "a: &a [1,2,3,4,5,6,7,8,9]\n" + "".join(
    f"{level}: &{level} [{','.join([f'*{below}'] * 9)}]\n" for below, level in LEVELS
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB, f"line 5: with aliases expanded, the file has more than {MAX_NODES:,} values"),
        ("a: &a [*a]", "line 1: .a is inside &a itself"),
        ("a: &a {<<: *a}", "line 1: .a is inside &a itself"),
        ("x: 1\na: " + "[" * 3000, "line 2: groups and lists are nested more than 40 deep"),
        ("a: &a " + "[" * 30 + "]" * 30 + "\nb: " + "[" * 20 + "*a" + "]" * 20, "line 2: groups and lists are nested"),
        ("a: 1\nb: {c: ???}\n", r"line 2 is not YAML: .*quoted"),
        ("a: 1\na: 2\n", "line 2 is not YAML: found duplicate key a"),
        ("a: !!python/object:os.x {}", "line 1: the tag tag:yaml.org,2002:python/object:os.x is not supported"),
        ("a: !!timestamp x", "the tag .*timestamp is not supported"),
        ("a: *b", "undefined alias 'b'"),
        ("a: ${", "no viable alternative"),
        ("null: 3", "Incompatible key type"),
        ("[1, 2]", r"contains \[1, 2\]: it must be a group of keys"),
        ("defaults: 3", "defaults is 3: it must be a list"),
        ("defaults: [_self_, null]", "entry 2 of defaults is null: it must be a list, each entry _self_"),
        ("defaults: [{1: b}]", "entry 1 of defaults"),
        ("defaults: [{a: b, c: d}]", "entry 1 of defaults"),
        ("defaults: ['${oc.create:{a: 1}}']", "entry 1 of defaults"),
        ("# @package\na: 1", "line 1: '# @package' must be a word and its value"),
        ("defaults: [[a]]", "entry 1 of defaults"),
        ("defaults: [{model: [a, 1]}]", "entry 1 of defaults"),
        ("defaults: [{model: [null]}]", "entry 1 of defaults"),
        ("defaults: [_self_, {model: '${defaults.0}'}]", "entry 2 of defaults"),
    ],
)
def test_mistakes_are_named_by_file(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "x.yaml").write_text(text)
    start = time.process_time()
    with pytest.raises(ValueError, match=message) as error:
        read(tmp_path / "x.yaml")
    assert str(error.value).startswith(str(tmp_path / "x.yaml"))
    assert time.process_time() - start < 2


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_bytes(b"a: \xff\n")
    with pytest.raises(ValueError, match="x.yaml cannot be read"):
        read(tmp_path / "x.yaml")
    with pytest.raises(ValueError, match="absent.yaml cannot be read"):
        read(tmp_path / "absent.yaml")


def test_what_is_read(tmp_path: Path) -> None:
    text = "a: &a {b: 1e3}\nc: {<<: *a, d: '${a.b}'}\ndefaults: [_self_, {override hydra/launcher: basic}, {m: null}]\n"
    (tmp_path / "x.yaml").write_text(text)
    assert read(tmp_path / "x.yaml")["c"] == {"b": 1000.0, "d": "${a.b}"}
    (tmp_path / "x.yaml").write_text("")
    assert read(tmp_path / "x.yaml") == {}


def test_files_that_defaults_lists_add_are_read_too(tmp_path: Path) -> None:
    files = {
        "top.yaml": "defaults: [_self_, g: inner, model: null, override /optimizer@opt: adam, 'x_${model}']",
        "g/inner.yaml": "defaults: [other, /h/more, sub: deep]",
        "g/other.yaml": "{}",
        "g/sub/deep.yaml": "{}",
        "h/more.yaml": "{}",
        "run/here.yaml": "a: [1",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert read_all(tmp_path / "top.yaml", [], [tmp_path]) == {"g", "model", "optimizer", "g/sub"}
    with pytest.raises(ValueError, match="run/here.yaml, line 1 is not YAML"):
        read_all(tmp_path / "top.yaml", [("run", "here")], [tmp_path])
    (tmp_path / "g/sub/deep.yaml").write_text("a: {")
    with pytest.raises(ValueError, match="g/sub/deep.yaml, line 1 is not YAML"):
        read_all(tmp_path / "top.yaml", [], [tmp_path])
    (tmp_path / "g/sub/deep.yaml").write_text("defaults: [/top]")
    with pytest.raises(ValueError, match="top.yaml: its defaults list leads back to it"):
        read_all(tmp_path / "top.yaml", [], [tmp_path])


def test_a_name_that_is_another_groups(tmp_path: Path) -> None:
    path = tmp_path / "top.yaml"
    path.write_text("defaults: [{optimizer: null}, {model: '${optimizer}'}]")
    with pytest.raises(ValueError, match=r"top.yaml: its defaults list has \$\{optimizer\}, but optimizer does not"):
        read_all(path, [], [tmp_path])
    assert read_all(path, [("optimizer", "adam")], [tmp_path]) == {"optimizer", "model"}
    path.write_text("defaults: [{optimizer: adam}, {model: '${defaults.0.optimizer}'}]")
    assert read_all(path, [], [tmp_path]) == {"optimizer", "model"}


def test_names_that_are_too_long(tmp_path: Path) -> None:
    path = tmp_path / "top.yaml"
    path.write_text(f"defaults: [{'x' * 300}]")
    with pytest.raises(ValueError, match="top.yaml: its defaults list has a name that is longer than 255 bytes"):
        read_all(path, [], [tmp_path])
    path.write_text("a: 1")
    with pytest.raises(ValueError, match="model='xxx.* has a name that is longer"):
        read_all(path, [("model", "x" * 300)], [tmp_path])
