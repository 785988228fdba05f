"""The n-gram estimator: values by hand, probabilities that sum to 1, and the same numbers from KenLM."""

from __future__ import annotations

import importlib.util
import math
from itertools import product
from pathlib import Path
from types import ModuleType

import pytest

from tests.warm import Done, Warm

SCRIPT = Path(__file__).resolve().parents[3] / "examples" / "wav2vec" / "make_ngram.py"
TEXT = "A B A C\nA B B\nC A B A\nB\n"


@pytest.fixture(scope="module")
def make_ngram() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_ngram", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def sentences(text: str = TEXT) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


def run(warm: Warm, text: Path, *arguments: object) -> Done:
    return warm.script(SCRIPT, [str(text), *map(str, arguments)], cwd=text.parent)


def test_values_by_hand(make_ngram: ModuleType) -> None:
    """12 words and 4 ends; of 4 types, over A, B, C, </s> and <unk>."""
    model = make_ngram.NgramModel(sentences(), 2)
    unigram = {
        word: (count + 4 / 5) / (16 + 4) for word, count in {"A": 5, "B": 5, "C": 2, "</s>": 4, "<unk>": 0}.items()
    }
    for word, expected in unigram.items():
        assert model.probability(word) == pytest.approx(expected)
    # after A: B three times, C and the end once
    assert model.probability("B", ("A",)) == pytest.approx((3 + 3 * unigram["B"]) / (5 + 3))
    assert model.probability("A", ("A",)) == pytest.approx(3 * unigram["A"] / (5 + 3))
    assert model.back_off(("A",)) == pytest.approx(3 / 8)
    assert model.probability("A", ("<s>",)) == pytest.approx((2 + 3 * unigram["A"]) / (4 + 3))
    assert model.probability("B", ("Z",)) == pytest.approx(unigram["B"])


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_probabilities_of_every_history_sum_to_one(make_ngram: ModuleType, order: int) -> None:
    model = make_ngram.NgramModel(sentences(), order)
    words = [*model.words, "<unk>"]
    histories = [history for length in range(order + 1) for history in product(words, repeat=length)]
    histories += [("<s>", *history) for history in histories]
    for history in histories:
        assert math.fsum(model.probability(word, history) for word in [*words, "</s>"]) == pytest.approx(1, abs=1e-12)


@pytest.mark.process
@pytest.mark.parametrize("order", [2, 3])
def test_kenlm_reads_the_same_probabilities(warm: Warm, make_ngram: ModuleType, tmp_path: Path, order: int) -> None:
    kenlm = pytest.importorskip("kenlm")
    (tmp_path / "text").write_text(TEXT, encoding="utf-8")
    done = run(warm, tmp_path / "text", "--output", tmp_path / "made" / "lm.arpa", "--order", order)
    assert done.code == 0, done.output
    read = kenlm.Model(str(tmp_path / "made" / "lm.arpa"))
    assert read.order == order
    model = make_ngram.NgramModel(sentences(), order)
    for words in product(["A", "B", "C", "Z"], repeat=4):  # Z is unknown
        known = [word if word != "Z" else "<unk>" for word in words]
        history: tuple[str, ...] = ("<s>",)
        for (found, _, _), word in zip(read.full_scores(" ".join(words)), [*known, "</s>"], strict=True):
            assert found == pytest.approx(math.log10(model.probability(word, history)), abs=1e-5), (words, word)
            history = (*history, word)


@pytest.mark.process
def test_kenlm_finds_that_histories_sum_to_one(warm: Warm, tmp_path: Path) -> None:
    kenlm = pytest.importorskip("kenlm")
    (tmp_path / "text").write_text(TEXT, encoding="utf-8")
    assert run(warm, tmp_path / "text", "--output", tmp_path / "lm.arpa").code == 0
    read = kenlm.Model(str(tmp_path / "lm.arpa"))
    for history in product(["A", "B", "C", "Z"], repeat=2):
        states = [kenlm.State() for _ in range(3)]
        read.BeginSentenceWrite(states[0])
        for step, word in enumerate(history):
            read.BaseScore(states[step], word, states[step + 1])
        total = math.fsum(
            10 ** read.BaseScore(states[2], word, kenlm.State()) for word in ["A", "B", "C", "<unk>", "</s>"]
        )
        assert total == pytest.approx(1, abs=1e-5)


@pytest.mark.process
def test_lexicon_fits_the_model(warm: Warm, make_ngram: ModuleType, tmp_path: Path) -> None:
    from fairseq.decoding.language_model import check_words, read_language_model
    from fairseq.decoding.lexicon import read_lexicon
    from fairseq.decoding.tokens import Tokens

    (tmp_path / "text").write_text("THE CAT\n\nA HAT\n", encoding="utf-8")
    done = run(warm, tmp_path / "text", "--output", tmp_path / "lm.arpa", "--lexicon", tmp_path / "lexicon.txt")
    assert done.code == 0 and "4 words" in done.output, done.output
    assert (tmp_path / "lexicon.txt").read_text() == "A\tA |\nCAT\tC A T |\nHAT\tH A T |\nTHE\tT H E |\n"
    from fairseq.data.dictionary import Dictionary

    dictionary = Dictionary()
    for letter in "|ACEHT":
        dictionary.add_symbol(letter)
    entries = read_lexicon(tmp_path / "lexicon.txt", Tokens.from_dictionary(dictionary))
    assert check_words(read_language_model(tmp_path / "lm.arpa"), entries, "lexicon.txt") == []


@pytest.mark.process
def test_errors_name_the_line(warm: Warm, tmp_path: Path) -> None:
    (tmp_path / "marked").write_text("A B\n<s> A </s>\n", encoding="utf-8")
    (tmp_path / "empty").write_text("\n \n", encoding="utf-8")
    for arguments, message in (
        ([tmp_path / "marked"], "line 2: </s> <s> is not a word"),
        ([tmp_path / "empty"], "the text has no words"),
        ([tmp_path / "gone"], "cannot read the text"),
        ([tmp_path / "marked", "--order", "0"], "the order of the model is 0"),
    ):
        done = run(warm, *arguments, "--output", tmp_path / "lm.arpa")
        assert done.code == 1 and message in done.output and "Traceback" not in done.output
        assert not (tmp_path / "lm.arpa").exists()


def test_text_is_prepared_like_labels(make_ngram: ModuleType, tmp_path: Path) -> None:
    """Composed letters, one case, plain apostrophes and no punctuation; without --case, the text as it is."""
    text = tmp_path / "text.txt"
    text.write_text("Йо\u2019лдош, ӯрман!\n«И\u0306О\u2018ЛДОШ» № у\u0304рман\n", encoding="utf-8")
    assert list(make_ngram.read_sentences([text], "lower")) == [["йо'лдош", "ӯрман"]] * 2
    assert list(make_ngram.read_sentences([text]))[0] == ["Йо\u2019лдош,", "ӯрман!"]
