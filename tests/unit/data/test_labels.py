"""Label files: encoding all at once, and what is found wrong with them."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from fairseq.data import labels as labels_module
from fairseq.data.dictionary import Dictionary
from fairseq.data.labels import Labels, find_unusable, join, read_labels
from fairseq.frames import ConvSpec

UNITS = ["|", "A", "B", "é", "ß", "sh", "ʃː", "eightbyt", "ninebytes", "longerthanthat"]


@pytest.fixture
def dictionary() -> Dictionary:
    dictionary = Dictionary()
    for unit in UNITS:
        dictionary.add_symbol(unit)
    return dictionary


def write(path: Path, lines: list[str]) -> Path:
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


@pytest.mark.parametrize("chunk", [1 << 24, 40])
def test_encodes_as_the_dictionary_does(
    dictionary: Dictionary, tmp_path: Path, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Units of one byte, of several, of more than an integer holds; also where the text is read in small pieces."""
    monkeypatch.setattr(labels_module, "_CHUNK", chunk)
    rng = random.Random(1)
    lines = [" ".join(rng.choices(UNITS, k=rng.randint(0, 12))) for _ in range(100)]
    labels = read_labels(write(tmp_path / "train.ltr", lines), dictionary)
    assert len(labels) == 100
    for number, line in enumerate(lines):
        assert (
            labels[number].tolist() == dictionary.encode_line(line, append_eos=False, add_if_not_exist=False).tolist()
        )
    assert labels.units.dtype == np.uint8


def test_line_ends_of_windows_and_a_missing_last_one(dictionary: Dictionary, tmp_path: Path) -> None:
    (tmp_path / "a.ltr").write_bytes(b"A  B\t|\r\n\r\nA")
    labels = read_labels(tmp_path / "a.ltr", dictionary)
    assert [labels[i].tolist() for i in range(3)] == [[5, 6, 4], [], [5]]


@pytest.mark.parametrize(
    "line, told",
    [
        ("A Q B", "line 3: 'Q'"),
        ("a b |", "The dictionary is in upper case"),
        ("AB BA", "They look like words"),
        ("A sharp", "line 3: 'sharp'"),
        ("A sh unheardof", "line 3: 'unheardof'"),
    ],
)
def test_unknown_units_are_named_with_what_is_meant(
    dictionary: Dictionary, tmp_path: Path, line: str, told: str
) -> None:
    path = write(tmp_path / "train.ltr", ["A", "B", line])
    with pytest.raises(ValueError, match="train.ltr") as error:
        read_labels(path, dictionary, "dict.ltr.txt")
    assert told in str(error.value) and "dict.ltr.txt" in str(error.value)


def test_a_missing_file_says_where_labels_come_from(dictionary: Dictionary, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="prepare-labels"):
        read_labels(tmp_path / "gone.ltr", dictionary)


def test_frames_needed_counts_doubled_units() -> None:
    lines = [[5], [], [5, 5], [5, 6, 5], [5, 5, 5, 6, 6], [7]]
    assert Labels.from_lines(lines).frames_needed().tolist() == [1, 0, 3, 3, 8, 1]
    assert Labels.from_lines([[], []]).frames_needed().tolist() == [0, 0]
    # equal units of two lines that meet are no doubled unit
    assert Labels.from_lines([[5], [5], [], [5]]).frames_needed().tolist() == [1, 1, 0, 1]


def test_unusable_lines_by_file_and_line() -> None:
    first, second = Labels.from_lines([[5, 6], [5, 5]], "one.ltr"), Labels.from_lines([[], [0, 5], [5]], "two.ltr")
    labels = join([first, second])
    assert [labels.place(i) for i in range(5)] == [
        "one.ltr, line 1",
        "one.ltr, line 2",
        "two.ltr, line 1",
        "two.ltr, line 2",
        "two.ltr, line 3",
    ]
    layers = [ConvSpec(8, 10, 5)]  # 15 samples make 2 frames, 20 make 3
    found = find_unusable(labels, np.array([0, 1, 2, 3, 4]), np.array([15, 15, 99, 99, 10]), layers, blank=0)
    assert found.indices.tolist() == [1, 2, 3]
    assert "one.ltr, line 2: 2 units need 3 frames" in found.reasons[0] and "15 samples give only 2" in found.reasons[0]
    assert "two.ltr, line 1: the label is empty" in found.reasons[1] and "blank" in found.reasons[2]
    assert find_unusable(labels, np.array([0, 4]), np.array([15, 10]), layers, blank=0).indices.tolist() == []
    assert find_unusable(labels, np.array([1]), np.array([20]), layers, blank=0).indices.tolist() == []


def test_a_byte_order_mark_is_not_a_unit(dictionary: Dictionary, tmp_path: Path) -> None:
    path = tmp_path / "train.ltr"
    path.write_bytes(b"\xef\xbb\xbfA B\nB\n")
    assert read_labels(path, dictionary)[0].tolist() == [dictionary.index("A"), dictionary.index("B")]
    path.write_bytes("A B\n".encode("utf-16"))
    with pytest.raises(ValueError, match="train.ltr are UTF-16"):
        read_labels(path, dictionary)


def test_the_advice_for_phones_is_one_that_works(dictionary: Dictionary, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"dict\.phn\.txt") as error:
        read_labels(tmp_path / "gone.phn", dictionary)
    with pytest.raises(ValueError, match="add these units to the dictionary") as other:
        read_labels(write(tmp_path / "train.phn", ["ah zz9"]), dictionary)
    assert "prepare-labels" not in str(error.value) + str(other.value)  # it makes letters and words only
