"""Beam search against the sum over all paths, with lexicons and language models."""

from __future__ import annotations

import bz2
import gzip
import itertools
import math
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fairseq.decoding import GreedyDecoder, Tokens, beam
from fairseq.decoding.beam import BeamDecoder, BeamSettings, read_beam, read_guidance

pytest.importorskip("kenlm")

Emit = Callable[[str], np.ndarray]
WORDS = ["AB", "A", "BA", "C"]
BIGRAMS = {("<s>", "AB"): -0.2, ("AB", "C"): -0.3, ("C", "</s>"): -0.1, ("A", "A"): -1.5}
UNIGRAMS = {"<unk>": -3.0, "<s>": -99.0, "</s>": -0.7, "AB": -0.9, "A": -0.6, "BA": -1.2, "C": -0.8}
BACK_OFF = -0.4


def arpa(unigrams: dict[str, float], bigrams: dict[tuple[str, str], float]) -> str:
    lines = ["\\data\\", f"ngram 1={len(unigrams)}", f"ngram 2={len(bigrams)}", "", "\\1-grams:"]
    lines += [f"{value}\t{word}\t{0 if word == '</s>' else BACK_OFF}" for word, value in unigrams.items()]
    lines += [
        "",
        "\\2-grams:",
        *(f"{value}\t{first} {second}" for (first, second), value in bigrams.items()),
        "",
        "\\end\\",
        "",
    ]
    return "\n".join(lines)


def log10_of(words: tuple[str, ...]) -> float:
    """What the bigram model gives a sentence, by hand."""
    sentence = ("<s>", *words, "</s>")
    return sum(BIGRAMS.get(pair, BACK_OFF + UNIGRAMS[pair[1]]) for pair in itertools.pairwise(sentence))


def best_by_hand(log_probs: np.ndarray, tokens: Tokens, lm_weight: float, word_score: float) -> tuple[str, float]:
    """The sum over all paths of all tokens, weighted as the search weights them."""
    sums: dict[tuple[str, ...], float] = defaultdict(lambda: -math.inf)
    for path in itertools.product([0, 4, 5, 6, 7], repeat=len(log_probs)):
        letters = "".join(tokens.symbols[token] for token, _ in itertools.groupby(path) if token != 0)
        words = tuple(word for word in letters.split("|") if word)
        if all(word in WORDS for word in words):
            sums[words] = np.logaddexp(sums[words], sum(float(log_probs[t, token]) for t, token in enumerate(path)))
    scored = {words: value + lm_weight * log10_of(words) + word_score * len(words) for words, value in sums.items()}
    best = max(scored, key=scored.__getitem__)
    return " ".join(best), scored[best]


@pytest.fixture(params=["flashlight", "numpy"], autouse=True)
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both searches, each as if it were what is installed."""
    if request.param == "flashlight":
        pytest.importorskip("flashlight.lib.text.decoder", reason="no flashlight-text for this Python")
    monkeypatch.setattr(beam, "flashlight_is_installed", lambda: request.param == "flashlight")
    return request.param


@pytest.fixture
def lexicon(tmp_path: Path) -> Path:
    path = tmp_path / "lexicon.txt"
    # with tabs or blanks, with or without the delimiter, or the word alone
    path.write_text("AB\tA B |\nA\tA |\nBA B A\nC\n")
    return path


@pytest.fixture
def lexicon_of_two(tmp_path: Path) -> Path:
    path = tmp_path / "two.txt"
    path.write_text("AB\nBA\nC\n")
    return path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "words.arpa"
    path.write_text(arpa(UNIGRAMS, BIGRAMS))
    return path


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("lm_weight", [0.0, 1.5])
def test_finds_the_likeliest_word_sequence(
    tokens: Tokens, lexicon: Path, model: Path, seed: int, lm_weight: float
) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(6, 8)) * 1.5
    logits[:, 1:4] = -30  # what no word has
    log_probs = (logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))).astype(np.float32)
    settings = BeamSettings(beam=5000, beam_threshold=1e5, lm_weight=lm_weight, word_score=0.3)
    decoder = read_beam(tokens, lexicon, model if lm_weight else None, settings, 1)
    found = decoder.decode(log_probs)[0]
    text, score = best_by_hand(log_probs, tokens, lm_weight, 0.3)
    assert found.text == text
    assert found.score == pytest.approx(score, abs=1e-3)


def test_a_lexicon_corrects_what_no_word_spells(tokens: Tokens, lexicon: Path, emit: Emit) -> None:
    log_probs = emit("-A-B-B-|C")
    log_probs[5] = np.log(np.full(8, 1 / 8))  # an unsure second B
    assert GreedyDecoder(tokens).decode(emit("-A-B-B-|C"))[0].text == "ABB C"
    found = read_beam(tokens, lexicon, None, BeamSettings(), 1).decode(log_probs)[0]
    assert [(word.text, word.first, word.last) for word in found.words] == [("AB", 1, 3), ("C", 8, 8)]
    assert all(0.5 < word.confidence <= 1 for word in found.words)


def test_a_language_model_decides_between_words(tokens: Tokens, lexicon_of_two: Path, model: Path, emit: Emit) -> None:
    log_probs = emit("AB|C")
    log_probs[0, [5, 6]] = np.log([0.44, 0.46])  # AB or BA?
    log_probs[1, [5, 6]] = np.log([0.46, 0.44])
    without = read_beam(tokens, lexicon_of_two, None, BeamSettings(), 1).decode(log_probs)[0]
    with_model = read_beam(tokens, lexicon_of_two, model, BeamSettings(lm_weight=2.0), 1).decode(log_probs)[0]
    assert (without.text, with_model.text) == ("BA C", "AB C")


def test_weights_may_change_without_reading_again(
    tokens: Tokens, lexicon_of_two: Path, model: Path, emit: Emit
) -> None:
    log_probs = emit("AB|C")
    log_probs[0, [5, 6]] = np.log([0.44, 0.46])
    log_probs[1, [5, 6]] = np.log([0.46, 0.44])
    decoder = read_beam(tokens, lexicon_of_two, model, BeamSettings(lm_weight=2.0), 1)
    assert decoder.decode(log_probs)[0].text == "AB C"
    decoder.configure(BeamSettings(lm_weight=0.0))
    assert decoder.decode(log_probs)[0].text == "BA C"


def test_nbest_are_different_and_in_order(tokens: Tokens, lexicon: Path, emit: Emit) -> None:
    found = read_beam(tokens, lexicon, None, BeamSettings(), 4).decode(emit("AB|C"))
    assert found[0].text == "AB C"
    assert len({hypothesis.text for hypothesis in found}) == len(found) == 4
    assert [h.score for h in found] == sorted((h.score for h in found), reverse=True)


def test_a_model_of_words_brings_its_own_lexicon(tokens: Tokens, model: Path, emit: Emit) -> None:
    decoder = read_beam(tokens, None, model, BeamSettings(), 1)
    assert decoder.decode(emit("AB|-C"))[0].text == "AB C"


def test_a_model_of_letters_needs_no_lexicon(tokens: Tokens, tmp_path: Path, emit: Emit) -> None:
    path = tmp_path / "letters.arpa"
    path.write_text(
        arpa(
            {"<unk>": -9, "<s>": -99, "</s>": -1, "A": -1, "B": -1, "C": -2, "|": -1},
            {("A", "B"): -0.05, ("A", "C"): -3.0},
        )
    )
    log_probs = emit("AC|")
    log_probs[1, [6, 7]] = np.log([0.44, 0.46])
    decoder = read_beam(tokens, None, path, BeamSettings(lm_weight=1.0), 1)
    assert decoder.guidance.of_units and decoder.decode(log_probs)[0].text == "AB"
    assert GreedyDecoder(tokens).decode(log_probs)[0].text == "AC"


def test_the_binary_form_gives_what_the_text_gives(tokens: Tokens, lexicon: Path, model: Path, emit: Emit) -> None:
    """words.bin was made of `arpa(UNIGRAMS, BIGRAMS)` by build_binary of KenLM 0.3.0 on x86-64."""
    binary = read_guidance(tokens, str(lexicon), str(Path(__file__).parent / "data" / "words.bin"))
    assert binary.model is not None and binary.model.is_binary and binary.warnings == []
    assert binary.model.vocabulary.keys() == UNIGRAMS.keys() - {"<s>", "</s>", "<unk>"}
    text = read_guidance(tokens, str(lexicon), str(model))
    found, expected = (
        BeamDecoder(tokens, vocabulary, BeamSettings(), 3).decode(emit("AB|C")) for vocabulary in (binary, text)
    )
    assert [(h.text, h.score) for h in found] == [(h.text, pytest.approx(h.score, abs=1e-4)) for h in expected]


def test_words_spelled_alike_are_told_apart_by_their_labels(tokens: Tokens, tmp_path: Path, emit: Emit) -> None:
    path = tmp_path / "lexicon.txt"
    path.write_text("ay\tA |\nCee\tC |\n")
    assert read_beam(tokens, path, None, BeamSettings(), 1).decode(emit("A|C|-A"))[0].text == "ay Cee ay"


def test_no_frame_is_an_empty_hypothesis(tokens: Tokens, lexicon: Path) -> None:
    found = read_beam(tokens, lexicon, None, BeamSettings(), 1).decode(np.zeros((0, 8), dtype=np.float32))
    assert [hypothesis.text for hypothesis in found] == [""]


def test_a_model_damaged_behind_its_words_is_refused_by_name(
    tokens: Tokens, lexicon: Path, model: Path, tmp_path: Path
) -> None:
    text = model.read_text()
    for damaged in (text[: text.index("-0.3")], text.replace("-0.3", "x.3")):
        (tmp_path / "damaged.arpa").write_text(damaged)
        with pytest.raises(ValueError, match=r"KenLM cannot read the language model .*damaged\.arpa: (?!.* threw ).+"):
            read_beam(tokens, lexicon, tmp_path / "damaged.arpa", BeamSettings())


def test_neither_lexicon_nor_model_is_refused(tokens: Tokens) -> None:
    with pytest.raises(ValueError, match="needs a lexicon, a language model, or hot words"):
        read_guidance(tokens, None, None)


def test_hypotheses_have_no_more_frames_than_the_audio(tokens: Tokens, lexicon: Path, emit: Emit) -> None:
    found = BeamDecoder(tokens, read_guidance(tokens, str(lexicon), None), BeamSettings(), 1).decode(emit("--AB"))[0]
    assert found.text == "AB" and found.words[0].last == 3


HOMOPHONES = [f"B{letter}" for letter in "ABCDEFGH"]


def homophones(folder: Path, unigrams: dict[str, float]) -> tuple[Path, Path]:
    lexicon, model = folder / "homophones.txt", folder / "homophones.arpa"
    lexicon.write_text("".join(f"{word}\tB A |\n" for word in [HOMOPHONES[0], *HOMOPHONES]))  # the first line twice
    model.write_text(arpa({"<unk>": -9.0, "<s>": -99.0, "</s>": -1.0, **unigrams}, {("<s>", HOMOPHONES[0]): -0.5}))
    return lexicon, model


def test_the_likeliest_homophones_are_kept_and_the_others_named(
    tokens: Tokens, emit: Emit, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lexicon, model = homophones(tmp_path, dict.fromkeys(HOMOPHONES, -3.0) | {"BH": -0.1, "BC": -4.0, "BD": -5.0})
    decoder = read_beam(tokens, lexicon, model, BeamSettings(lm_weight=5))
    assert decoder.decode(emit("-BA|BA|"))[0].text.split()[-1] == "BH"  # the last line, and by far the likeliest
    assert [entry.word for entry in decoder.dropped] == ["BC", "BD"]
    assert "line 4: BC (B A |); line 5: BD (B A |)" in caplog.text and "dropped lines of the lexicon: 2." in caplog.text


def test_without_a_language_model_the_first_homophones_are_kept(tokens: Tokens, tmp_path: Path) -> None:
    decoder = read_beam(tokens, homophones(tmp_path, {})[0], None, BeamSettings())
    assert [entry.word for entry in decoder.dropped] == HOMOPHONES[6:]


def test_why_kenlm_refuses_a_model_is_said(tokens: Tokens, tmp_path: Path) -> None:
    model = tmp_path / "m.arpa"
    model.write_text("\\data\\\nngram 1=4\n\n\\1-grams:\n-9\t<unk>\n-99\t<s>\n-1\t</s>\n-1\tAB\n\n\\end\\\n")
    with pytest.raises(ValueError, match="m.arpa: it has only unigrams"):
        read_beam(tokens, None, model, BeamSettings())
    model.write_text("\ufeff" + arpa(UNIGRAMS, BIGRAMS))
    with pytest.raises(ValueError, match="m.arpa: it begins with a byte order mark"):
        read_beam(tokens, None, model, BeamSettings())


def test_compressed_models_are_searched(tokens: Tokens, tmp_path: Path, lexicon: Path, emit: Emit) -> None:
    plain = arpa(UNIGRAMS, BIGRAMS).encode()
    (tmp_path / "m.arpa").write_bytes(plain)
    (tmp_path / "m.arpa.gz").write_bytes(gzip.compress(plain))
    found = [
        read_beam(tokens, lexicon, tmp_path / name, BeamSettings()).decode(emit("-AB|C|"))[0]
        for name in ("m.arpa", "m.arpa.gz")
    ]
    assert found[0] == found[1] and found[0].text == "AB C"
    (tmp_path / "m.arpa.bz2").write_bytes(bz2.compress(plain))
    assert read_beam(tokens, lexicon, tmp_path / "m.arpa.bz2", BeamSettings()).decode(emit("-AB|C|"))[0] == found[0]


def test_a_damaged_end_of_a_compressed_model_names_the_file(tokens: Tokens, tmp_path: Path) -> None:
    """The vocabulary ends before the checksum at the file's end, which KenLM and the search for a reason find wrong."""
    content = bytearray(gzip.compress(arpa(UNIGRAMS, BIGRAMS).encode()))
    content[-6] ^= 1
    (tmp_path / "m.arpa.gz").write_bytes(bytes(content))
    with pytest.raises(ValueError, match=r"language model .*m\.arpa\.gz"):
        read_beam(tokens, None, tmp_path / "m.arpa.gz", BeamSettings())


def test_bytes_after_the_unigrams_that_are_not_utf8_name_the_file(tokens: Tokens, tmp_path: Path) -> None:
    model = tmp_path / "m.arpa"
    # KenLM quotes the word
    model.write_bytes(arpa(UNIGRAMS, {("AB", "C"): -0.3}).encode().replace(b"AB C", b"AB \xc3("))
    with pytest.raises(ValueError, match="KenLM cannot read the language model .*m.arpa"):
        read_beam(tokens, None, model, BeamSettings())


@pytest.mark.parametrize(
    ("setting", "allowed"),
    [
        ({"lm_weight": math.nan}, "a finite number"),
        ({"unk_weight": math.inf}, "a finite number, or -inf"),
        ({"beam": 0}, "at least 1"),
    ],
)
def test_settings_that_no_search_can_have_are_refused(setting: dict[str, float], allowed: str) -> None:
    ((name, value),) = setting.items()
    with pytest.raises(ValueError, match=f"{name} is {value}; it must be {allowed}$"):
        BeamSettings(**setting)
    BeamSettings(unk_weight=-math.inf, beam_size_token=None)
