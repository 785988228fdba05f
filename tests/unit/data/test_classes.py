"""Labels of utterances from files, tables and paths, and what is wrong with them."""

from __future__ import annotations

from pathlib import Path

import pytest

from fairseq.data.audio.manifest import Manifest
from fairseq.data.classes import LabelSource, dictionary_of, encode

FILES = ["ann/a1.wav", "ann/a2.wav", "bob/b1.wav"]


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    (tmp_path / "train.tsv").write_text("\n".join([str(tmp_path), *(f"{name}\t16000" for name in FILES)]) + "\n")
    return Manifest(str(tmp_path / "train.tsv"))


def labels_of(source: LabelSource, manifest: Manifest) -> list[str]:
    column = source.read(manifest.path, manifest)
    return [column.names[number] for number in column.numbers]


def write(folder: Path, name: str, text: str) -> str:
    (folder / name).write_text(text)
    return str(folder / name)


@pytest.mark.parametrize(
    "text, name, column",
    [
        ("path,speaker\nann/a1.wav,Ann\nann/a2.wav,Ann\nbob/b1.wav,Bob\n", "t.csv", None),
        ("age,file,speaker\n3,a1.wav,Ann\n4,a2.wav,Ann\n5,b1.wav,Bob\n9,other.wav,Eve\n", "t.csv", "speaker"),
        ("id\tage\tspeaker\nbob/b1\t5\tBob\nann/a1\t3\tAnn\nann/a2\t3\tAnn\n", "t.tsv", "speaker"),
        ('id,speaker\n"a1","Ann"\na2,Ann\n\nb1,Bob\n', "t.csv", "speaker"),
    ],
)
def test_tables_name_utterances_by_path_or_file(
    text: str, name: str, column: str | None, manifest: Manifest, tmp_path: Path
) -> None:
    assert labels_of(LabelSource(column, write(tmp_path, name, text)), manifest) == ["Ann", "Ann", "Bob"]


def test_files_and_paths(manifest: Manifest, tmp_path: Path) -> None:
    write(tmp_path, "train.lang", "New Zealand\nNew Zealand \nPeru\n")
    assert labels_of(LabelSource("lang"), manifest) == ["New Zealand", "New Zealand", "Peru"]
    assert labels_of(LabelSource(None, pattern="folder"), manifest) == ["ann", "ann", "bob"]
    assert labels_of(LabelSource(None, pattern=r"([0-9])\.wav"), manifest) == ["1", "2", "1"]


@pytest.mark.parametrize(
    "source, files, told",
    [
        (LabelSource("lang"), {}, "cannot read the labels"),
        (LabelSource("lang"), {"train.lang": "a\nb\n"}, "has 2 lines, but"),
        (LabelSource("lang"), {"train.lang": "a\n\nb\n"}, "1 of 3 lines have no label: 2"),
        (LabelSource("x", "t.csv"), {"t.csv": "path,y,z\n"}, "one of: y, z"),
        (LabelSource("y", "t.txt"), {"t.txt": ""}, "must end in .csv or .tsv"),
        (LabelSource("y", "t.csv"), {"t.csv": "path,y\nann/a1.wav,1\nb\n"}, "line 3: 1 columns"),
        (LabelSource("y", "t.csv"), {"t.csv": "path,y\na1,1\na1,2\n"}, "line 3: 'a1' has the label '2'"),
        (LabelSource("y", "t.csv"), {"t.csv": "path,y\na1,1\nb1,\n"}, "no label for 2 of 3 utterances"),
        (LabelSource(None, pattern="(x)"), {}, "finds no label for 3 of 3"),
        (LabelSource(None, pattern="("), {}, "not a valid regular expression"),
    ],
)
def test_what_is_wrong_is_named(
    source: LabelSource, files: dict[str, str], told: str, manifest: Manifest, tmp_path: Path
) -> None:
    for name, text in files.items():
        write(tmp_path, name, text)
    if source.table is not None:
        source = source._replace(table=str(tmp_path / source.table))
    with pytest.raises(ValueError) as error:
        source.read(manifest.path, manifest)
    assert told in str(error.value)


def test_two_files_of_one_name_need_paths(tmp_path: Path) -> None:
    (tmp_path / "train.tsv").write_text(f"{tmp_path}\nann/1.wav\t9\nbob/1.wav\t9\n")
    with pytest.raises(ValueError, match=r"share the name '1\.wav'"):
        manifest = Manifest(str(tmp_path / "train.tsv"))
        LabelSource("y", write(tmp_path, "t.csv", "path,y\n1.wav,a\n")).read(manifest.path, manifest)


def test_classes_are_sorted_and_counted(manifest: Manifest, tmp_path: Path) -> None:
    write(tmp_path, "train.lang", "b\nb\na\n")
    column = LabelSource("lang").read(manifest.path, manifest)
    dictionary = dictionary_of(column)
    assert dictionary.symbols == ["a", "b"] and dictionary.count == [1, 2]
    assert encode(column, dictionary, manifest, "train").tolist() == [1, 1, 0]
    write(tmp_path, "train.lang", "b\nc\na\n")
    with pytest.raises(ValueError, match=r"1 of 3 utterances .* 'c' \(line 3: ann/a2\.wav\)"):
        encode(LabelSource("lang").read(manifest.path, manifest), dictionary, manifest, "train")
    write(tmp_path, "train.lang", "b\nb\nb\n")
    with pytest.raises(ValueError, match="only the label 'b'"):
        dictionary_of(LabelSource("lang").read(manifest.path, manifest))
