"""The search in numpy against flashlight's: the same hypotheses with the same scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fairseq.decoding import Tokens
from fairseq.decoding.beam import BeamDecoder, BeamSettings, choose, read_guidance
from tests.unit.decoding.test_beam import BIGRAMS, UNIGRAMS, arpa

LEXICON = "AB\tA B |\nA\tA |\nABA\tA B A |\nBA B A\nC\nCCB\nBB\n"
LETTERS = {"<unk>": -9.0, "<s>": -99.0, "</s>": -1.0, "A": -1.0, "B": -1.2, "C": -2.0, "|": -1.0}
SETTINGS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "few": {"beam": 5, "beam_threshold": 8.0},
    "path": {"log_add": False, "lm_weight": 0.7, "word_score": 1.0},
    "unknown": {"unk_weight": -2.0, "sil_weight": 0.3},
    "tokens": {"beam_size_token": 4, "lm_weight": -0.5},
}


@pytest.fixture(params=["lexicon", "words", "words alone", "letters", "letters alone"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str | None, str | None]:
    lexicon = tmp_path / "lexicon.txt"
    lexicon.write_text(LEXICON)
    model = tmp_path / "model.arpa"
    pairs = {("A", "B"): -0.05, ("A", "|"): -0.3}
    model.write_text(arpa(LETTERS, pairs) if "letters" in request.param else arpa(UNIGRAMS, BIGRAMS))
    return (
        None if "alone" in request.param else str(lexicon),
        None if request.param == "lexicon" else str(model),
    )


@pytest.mark.parametrize("chosen", SETTINGS)
def test_both_find_the_same(tokens: Tokens, files: tuple[str | None, str | None], chosen: str) -> None:
    pytest.importorskip("kenlm")
    pytest.importorskip("flashlight.lib.text.decoder", reason="no flashlight-text for this Python")
    guidance, settings = read_guidance(tokens, *files), BeamSettings(**SETTINGS[chosen])
    both = [BeamDecoder(tokens, guidance, settings, 5, engine) for engine in ("flashlight", "numpy")]
    rng = np.random.default_rng(1)
    for _ in range(4):
        logits = rng.normal(size=(25, len(tokens.symbols))) * 3
        logits[:, 1:4] -= 10
        log_probs = (logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))).astype(np.float32)
        theirs, ours = (decoder.decode(log_probs) for decoder in both)
        assert [found.score for found in ours] == pytest.approx([found.score for found in theirs], abs=1e-6)
        assert ours[0] == theirs[0]._replace(score=ours[0].score)
        assert {found.text for found in ours} == {found.text for found in theirs}


def test_an_engine_that_cannot_be_used_is_refused(tokens: Tokens) -> None:
    guidance = read_guidance(tokens, None, None, {"AB": 5.0})
    with pytest.raises(ValueError, match="engine='flashlight' cannot be used: it has no hot words"):
        choose("flashlight", guidance)
    with pytest.raises(ValueError, match="must be one of: auto, flashlight, numpy"):
        choose("kenlm", guidance)
    assert choose("auto", guidance) == "numpy"
