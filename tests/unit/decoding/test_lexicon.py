"""Lexicons and language models that do not fit are named by line."""

from __future__ import annotations

import bz2
import gzip
import lzma
from collections.abc import Callable
from pathlib import Path

import pytest

from fairseq.decoding import Tokens
from fairseq.decoding.beam import read_guidance
from fairseq.decoding.language_model import read_language_model
from fairseq.decoding.lexicon import read_lexicon, spell

ARPA = "\\data\\\nngram 1={count}\n\n\\1-grams:\n-1\t<unk>\n-99\t<s>\t0\n-1\t</s>\n{words}\n\\end\\\n"


def write_arpa(path: Path, *words: str) -> Path:
    path.write_text(ARPA.format(count=3 + len(words), words="\n".join(f"-1\t{word}\t0" for word in words) + "\n"))
    return path


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_spellings_by_line(tokens: Tokens, tmp_path: Path) -> None:
    entries = read_lexicon(write(tmp_path / "l.txt", "AB\tA B |\n\nAB A A B\nC\n"), tokens)
    assert [(e.word, "".join(e.spelling), e.line) for e in entries] == [
        ("AB", "AB|", 1),
        ("AB", "AAB|", 3),
        ("C", "C|", 4),
    ]


def test_units_that_the_dictionary_lacks_are_named_by_line(tokens: Tokens, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"line 2: AX has 'X'; line 3: É has 'É'"):
        read_lexicon(write(tmp_path / "l.txt", "AB\nAX\nÉ\n"), tokens)


def test_a_word_without_a_spelling_is_named_by_line(tokens: Tokens, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"an empty spelling: line 2: C; line 3: \|;"):
        read_lexicon(write(tmp_path / "l.txt", "AB\tA B |\nC |\n|\n"), tokens)


def test_another_case_is_said_to_be_that(tokens: Tokens, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="line 1: ab has 'a'.*Only the case differs"):
        read_lexicon(write(tmp_path / "l.txt", "ab\n"), tokens)


@pytest.mark.parametrize("text", ["", "\n \n"])
def test_an_empty_lexicon_is_refused(tokens: Tokens, tmp_path: Path, text: str) -> None:
    with pytest.raises(ValueError, match="is empty"):
        read_lexicon(write(tmp_path / "l.txt", text), tokens)
    with pytest.raises(ValueError, match="cannot read the lexicon"):
        read_lexicon(tmp_path / "nowhere.txt", tokens)


def test_words_of_phones_need_a_spelling_in_phones() -> None:
    phones = Tokens.from_symbols(["<s>", "<pad>", "</s>", "<unk>", "AH", "B"])
    # "AH" would need the letters A and H
    assert [entry.word for entry in spell([("B", 1), ("AH", 2)], phones)] == ["B"]


def test_lines_of_an_arpa_file(tmp_path: Path) -> None:
    model = read_language_model(write_arpa(tmp_path / "m.arpa", "AB", "C"))
    assert model.vocabulary == {"AB": 8, "C": 9}
    assert model.place("C").endswith("m.arpa, line 9")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hello\n", "is not a language model"),
        ("\\data\\\nngram 1=1\n\n\\1-grams:\nx\tA\n", "line 5: 'x.tA' is not a unigram"),
        ("\\data\\\nngram 1=1\n\n\\1-grams:\n-1\tA\n", "the file is truncated"),
        ("\\data\\\n\\1-grams:\n-1\t<unk>\n\\end\\\n", "has no words"),
        ("mmap lm http://kheafield.com/code format version 5\n", "does not include its words"),
    ],
)
def test_files_that_are_no_model_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_language_model(write(tmp_path / "m.arpa", text))


def test_a_model_in_another_case_is_named_by_line(tokens: Tokens, tmp_path: Path) -> None:
    model = write_arpa(tmp_path / "m.arpa", "ab", "c")
    with pytest.raises(ValueError, match=r"line 8: ab has 'a' 'b'.*Only the case differs"):
        read_guidance(tokens, None, str(model))
    lexicon = write(tmp_path / "l.txt", "AB\nC\n")
    with pytest.raises(
        ValueError, match=r"has none of the words.*line 1: AB.*The case differs: .*m.arpa, line 8 has ab"
    ):
        read_guidance(tokens, str(lexicon), str(model))


def test_words_that_do_not_fit_are_told_by_line(tokens: Tokens, tmp_path: Path) -> None:
    model = write_arpa(tmp_path / "m.arpa", "AB", "X", "BY")
    (warning,) = read_guidance(tokens, None, str(model)).warnings
    assert "2 words" in warning and "line 9: X has 'X'" in warning and "line 10: BY has 'Y'" in warning
    lexicon = write(tmp_path / "l.txt", "AB\nC\n")
    (warning,) = read_guidance(tokens, str(lexicon), str(model)).warnings
    assert "1 of the 2 words" in warning and "line 2: C" in warning


def test_a_byte_order_mark_is_not_part_of_the_first_word(tokens: Tokens, tmp_path: Path) -> None:
    (tmp_path / "l.txt").write_bytes(b"\xef\xbb\xbfAB\tA B |\r\nC\r\n")
    assert [entry.word for entry in read_lexicon(tmp_path / "l.txt", tokens)] == ["AB", "C"]


def test_words_end_at_ascii_blanks_only(tmp_path: Path) -> None:
    words = ["A\u00a0B", "A\u3000B", "A\u2028B", "A\x85B", "A\x0bB"]
    # KenLM takes each as one word
    assert list(read_language_model(write_arpa(tmp_path / "m.arpa", *words)).vocabulary) == words
    tokens = Tokens.from_symbols(["<s>", "A", "B"])
    assert [entry.word for entry in read_lexicon(write(tmp_path / "l.txt", f"{words[0]}  A\t B\n"), tokens)] == words[
        :1
    ]


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress])
def test_compressed_arpa_files_are_read(tmp_path: Path, compress: Callable[[bytes], bytes]) -> None:
    plain = write_arpa(tmp_path / "m.arpa", "AB", "C").read_bytes()
    (tmp_path / "m.gz").write_bytes(compress(plain))
    assert read_language_model(tmp_path / "m.gz").vocabulary == {"AB": 8, "C": 9}
    (tmp_path / "cut.gz").write_bytes(compress(plain)[:40])
    with pytest.raises(ValueError, match="cut.gz"):
        read_language_model(tmp_path / "cut.gz")


def test_bytes_that_are_not_utf8_are_named_by_line(tokens: Tokens, tmp_path: Path) -> None:
    arpa = write_arpa(tmp_path / "m.arpa", "AB", "C")
    arpa.write_bytes(arpa.read_bytes().replace(b"\tC\t", b"\t\xe9\t"))
    with pytest.raises(ValueError, match="m.arpa, line 9: byte 4 of the line is not UTF-8"):
        read_language_model(arpa)
    (tmp_path / "l.txt").write_bytes(b"AB\n\xe9\n")
    with pytest.raises(ValueError, match="l.txt, line 2"):
        read_lexicon(tmp_path / "l.txt", tokens)
    (tmp_path / "l.txt").write_bytes("AB\n".encode("utf-16"))
    with pytest.raises(ValueError, match="l.txt is UTF-16"):
        read_lexicon(tmp_path / "l.txt", tokens)


def test_a_missing_file_is_a_missing_file(tokens: Tokens, tmp_path: Path) -> None:
    for read in (lambda: read_lexicon(tmp_path / "gone", tokens), lambda: read_language_model(tmp_path / "gone")):
        with pytest.raises(FileNotFoundError, match="gone") as error:
            read()
        assert isinstance(error.value, ValueError)
