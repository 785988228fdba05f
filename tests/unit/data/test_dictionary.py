"""The dictionary: fairseq's numbers, files and text."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch

from fairseq.data.dictionary import Dictionary
from fairseq.decoding import Tokens


@pytest.fixture
def letters() -> Dictionary:
    dictionary = Dictionary()
    for letter in "|ABC":
        dictionary.add_symbol(letter)
    return dictionary


def test_special_symbols_come_first() -> None:
    dictionary = Dictionary(extra_special_symbols=["<mask>"])
    assert dictionary.symbols == ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    assert (dictionary.bos(), dictionary.pad(), dictionary.eos(), dictionary.unk(), dictionary.nspecial) == (
        0,
        1,
        2,
        3,
        5,
    )
    assert len(Dictionary(add_special_symbols=False)) == 0


def test_looking_up(letters: Dictionary) -> None:
    assert letters.index("A") == 5 and letters[5] == "A" and "A" in letters
    assert letters.index("Z") == letters.unk() and letters[99] == "<unk>" and "Z" not in letters
    assert letters.add_symbol("A", 3) == 5 and letters.get_count(5) == 4 and len(letters) == 8


def test_encode_and_string(letters: Dictionary) -> None:
    assert letters.encode_line("A B |", append_eos=False, add_if_not_exist=False).tolist() == [5, 6, 4]
    numbers = letters.encode_line("A Z", add_if_not_exist=False)
    assert numbers.tolist() == [5, 3, 2] and numbers.dtype == torch.int32
    assert letters.encode_line("A B", append_eos=False, reverse_order=True).tolist() == [6, 5]
    assert letters.encode_line("A New", append_eos=False).tolist() == [5, 8] and "New" in letters
    assert letters.string(torch.tensor([0, 5, 6, 4, 3, 2])) == "A B | <unk>"
    assert letters.string([5, 6, 4, 7, 4], bpe_symbol="letter") == "AB C"
    assert letters.string([3], escape_unk=True) == "<<unk>>" and letters.string([3], unk_string="?") == "?"
    assert letters.string([5, 2], include_eos=True) == "A </s>"
    assert letters.string(torch.tensor([[5, 6], [7, 2]])) == "A B\nC"


def test_files_return_the_same(letters: Dictionary, tmp_path: Path) -> None:
    letters.save(tmp_path / "new" / "dict.ltr.txt")
    assert (tmp_path / "new" / "dict.ltr.txt").read_text() == "| 1\nA 1\nB 1\nC 1\n"
    loaded = Dictionary.load(str(tmp_path / "new" / "dict.ltr.txt"))
    assert loaded == letters and loaded.count == letters.count and loaded.nspecial == 4
    assert Dictionary.load(io.StringIO("A 3\n")).get_count(4) == 3


@pytest.mark.parametrize(
    "text, told",
    [
        ("A 1\nB\n", "line 2: 'B'"),
        ("A 1\nB x\n", "line 2"),
        ("A 1\n\nB 1\n", "line 2"),
        ("A 1\nA 1\n", "line 2: the symbol 'A'"),
        ("<s> 1\n", "'<s>'"),
    ],
)
def test_malformed_files_are_named(text: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "d.txt").write_text(text)
    with pytest.raises(ValueError, match="d.txt") as error:
        Dictionary.load(tmp_path / "d.txt")
    assert told in str(error.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot read the dictionary .*gone.txt"):
        Dictionary.load(tmp_path / "gone.txt")


def test_overwrite_replaces_a_symbol() -> None:
    dictionary = Dictionary.load(io.StringIO("A 1\nA 2 #fairseq:overwrite\n"))
    assert dictionary.index("A") == 5 and dictionary.symbols[4:] == ["A", "A"]


def test_finalize_sorts_by_count_and_fills_up() -> None:
    dictionary = Dictionary()
    for symbol, count in (("b", 2), ("a", 2), ("c", 5), ("d", 1)):
        dictionary.add_symbol(symbol, count)
    dictionary.finalize(threshold=2, padding_factor=8)
    assert dictionary.symbols[4:] == ["c", "a", "b", "madeupword0000"] and dictionary.index("c") == 4
    dictionary.finalize(nwords=6, padding_factor=1)
    assert dictionary.symbols[4:] == ["c", "a"]


def test_state_is_plain_and_whole(letters: Dictionary, tmp_path: Path) -> None:
    torch.save(letters.state_dict(), tmp_path / "d.pt")
    again = Dictionary.from_state_dict(torch.load(tmp_path / "d.pt", weights_only=True))
    assert again == letters and again.indices == letters.indices and again.nspecial == 4 and again.pad() == 1
    again.add_symbol("D")
    assert again != letters


def test_what_editors_leave_in_a_file_is_no_part_of_a_symbol(tmp_path: Path) -> None:
    (tmp_path / "d.txt").write_bytes("\ufeff|  1\r\nA\t2\n  B 3 \nC\u00a0D 4\n".encode())
    assert Dictionary.load(tmp_path / "d.txt").symbols[4:] == ["|", "A", "B", "C\u00a0D"]
    assert Dictionary.load(io.StringIO("\ufeff| 1\n")).symbols[4:] == ["|"]


def test_negative_counts_are_read_as_fairseq_reads_them() -> None:
    dictionary = Dictionary.load(io.StringIO("| -0\nA -7\n  5\n"))
    assert dictionary.symbols[4:] == ["|", "A", " "] and dictionary.count[4:] == [0, -7, 5]
    with pytest.raises(ValueError, match=r"line 1: the count '-3.5' is not a whole number. A sentencepiece .vocab"):
        Dictionary.load(io.StringIO("\u2581the\t-3.5\n"))


def test_special_symbols_keep_their_numbers() -> None:
    listed = "".join(f"{symbol} 1\n" for symbol in ("<s>", "<pad>", "</s>", "<unk>"))
    with pytest.raises(ValueError, match="line 1: the symbol '<s>' is already defined, .* Remove the line"):
        Dictionary.load(io.StringIO(listed))
    dictionary = Dictionary.load(io.StringIO(listed.replace("\n", " #fairseq:overwrite\n") + "| 5\nA 3\n"))
    for same in (dictionary, Dictionary.from_state_dict(dictionary.state_dict())):
        assert len(same) == 10 and same.index("A") == 9  # as many rows as in fairseq
        assert [same.bos(), same.pad(), same.eos(), same.unk()] == [0, 1, 2, 3] and same.index("<s>") == 0
        assert Tokens.from_dictionary(same).blank == same.bos()


def test_special_symbols_have_their_numbers_as_attributes() -> None:
    dictionary = Dictionary()
    for role, number in {"bos": 0, "pad": 1, "eos": 2, "unk": 3}.items():
        assert getattr(dictionary, f"{role}_index") == getattr(dictionary, role)() == number
        assert dictionary[number] == getattr(dictionary, f"{role}_word")
    again = Dictionary.from_state_dict(dictionary.state_dict())
    assert (again.bos_index, again.pad_index, again.eos_index, again.unk_index) == (0, 1, 2, 3)


def test_numbers_of_special_symbols_stay_where_they_began(tmp_path: Path) -> None:
    path = tmp_path / "dict.ltr.txt"
    path.write_text("<unk> 5 #fairseq:overwrite\n<s> 5 #fairseq:overwrite\na 1\n")
    dictionary = Dictionary.load(path)
    assert (dictionary.unk_index, dictionary.bos_index, dictionary.symbols.index("a")) == (3, 0, 6)


def test_special_symbols_that_the_file_brings(tmp_path: Path) -> None:
    path = tmp_path / "dict.txt"
    path.write_text("a 1\n<pad> 1\n<unk> 1\n")
    dictionary = Dictionary.load(path, add_special_symbols=False)
    assert (dictionary.pad_index, dictionary.unk_index) == (1, 2)
    assert not hasattr(dictionary, "bos_index")


def test_a_subclass_may_number_special_symbols_itself() -> None:
    class Own(Dictionary):
        def __init__(self) -> None:
            self.pad_index = 7

    assert Own().pad_index == 7


def test_a_symbol_twice_is_a_runtime_error_too(tmp_path: Path) -> None:
    path = tmp_path / "dict.ltr.txt"
    path.write_text("a 1\nb 1\na 1\n")
    for kind in (RuntimeError, ValueError):
        with pytest.raises(kind, match="dict.ltr.txt, line 3: the symbol 'a' is already defined"):
            Dictionary.load(path)
