#!/usr/bin/env python3
"""Train a small, accurate model for audio of up to five minutes: one synthetic voice, 156 words, 97 processor minutes.

    python benchmarks/clear_speech.py --work FOLDER

long_audio.py uses it, because measuring the effect of windows needs a model with few errors. FOLDER gets the
recordings, labels, lexicon.txt and words.arpa, the checkpoint longest_run/checkpoint_last.pt, new sentences in the same
voice (`test`), and recordings of about five minutes (five_minutes). Existing files and finished runs are kept.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import soundfile
from small_runs import CONFIGS, EXAMPLES, Row, run_script, score, train, write_split, write_words

sys.path.insert(0, str(EXAMPLES / "demo"))
from make_corpus import record, with_short_pauses
from sentences import make_sentence
from speech_synthesis import SAMPLE_RATE, Synthesizer, Voice

VOICE = Voice("en-us+m1", 130, 40, 50)
TRAIN_MINUTES, LONG_MINUTES, TEST_MINUTES, FIVE_MINUTES = 120.0, 100.0, 5.5, 15.0
SHORT, ONE = 0.6, 0.2  # shares of utterances of one or two words (CTC starts learning on them), and of one sentence
SEVERAL = (2, 7)  # sentences of the other utterances, up to 30 s; the end excluded
# sentences per recording of the later stages (up to 100 s, up to five minutes), and of the test recordings
MANY = {"long": (8, 26), "longest": (35, 76), "five_minutes": (84, 85)}
SETTINGS = [
    "dataset.disable_validation=true",
    "model.w2v_args.model.mask_prob=0.0",
    "task.augment.speed=1.05",
    "task.augment.eq_db=0",
    "task.augment.noise_db=null",
]
# Trained on up to 30 s only, the model had 3.0% of words wrong in one pass over five minutes, and 0.5% in windows of
# 30 s. Long recordings are slow, so they come last; without dropout, attention does not store all pairs.
STAGES = (
    ("short", ["optimization.max_update=5000", "dataset.max_tokens=480000"]),
    ("long", ["optimization.max_update=480", "optimization.lr=[0.001]", "dataset.max_tokens=1920000"]),
    (
        "longest",
        [
            "optimization.max_update=160",
            "optimization.lr=[0.001]",
            "dataset.max_tokens=5120000",
            "model.w2v_args.model.attention_dropout=0.0",
        ],
    ),
)


@cache
def the_synthesizer() -> Synthesizer:
    """The synthesizer, one per process."""
    return Synthesizer()


def draw_sentences(rng: np.random.Generator, counts: tuple[int, int]) -> list[str]:
    return [word for _ in range(rng.integers(*counts)) for word in make_sentence(rng)]


def draw_words(rng: np.random.Generator) -> list[str]:
    """Draw one or two words of a sentence, a sentence, or several."""
    kind = rng.random()
    if kind >= SHORT + ONE:
        return draw_sentences(rng, SEVERAL)
    sentence = make_sentence(rng)
    if kind >= SHORT:
        return sentence
    length = int(rng.integers(1, 3))
    start = int(rng.integers(0, len(sentence) - length + 1))
    return sentence[start : start + length]


def speak_split(
    work: Path, name: str, minutes: float, draw: Callable[[np.random.Generator], list[str]], seed: int
) -> list[Row]:
    """Synthesize utterances of this total length as files in the folder `name`."""
    rng = np.random.default_rng(seed)
    (work / name).mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    samples = 0
    while samples < minutes * 60 * SAMPLE_RATE:
        words, pauses = with_short_pauses(draw(rng), rng)
        wave = record(the_synthesizer().speak(words, pauses, VOICE, int(rng.integers(1, 2**31))), rng)
        path = f"{name}/{len(rows)}.flac"
        soundfile.write(work / path, wave, SAMPLE_RATE, subtype="PCM_16")
        rows.append((path, " ".join(words).upper()))
        samples += len(wave)
    return rows


def prepare(work: Path) -> None:
    """Make the recordings, labels, lexicon and language model."""
    train_rows = speak_split(work, "train", TRAIN_MINUTES, draw_words, 1)
    trained = {text for _, text in train_rows}
    test_rows = [row for row in speak_split(work, "test", TEST_MINUTES, make_sentence, 2) if row[1] not in trained]
    write_split(work, "train", work, train_rows)
    write_words(work, train_rows)
    run_script(EXAMPLES / "demo/sentences.py", [], work / "sentences.txt")
    ngram = [str(work / "sentences.txt"), "--output", str(work / "words.arpa"), "--lexicon", str(work / "lexicon.txt")]
    run_script(EXAMPLES / "make_ngram.py", ngram, work / "make_ngram.log")
    write_split(work, "test", work, test_rows)  # last, because it marks that all files exist


def prepare_recordings(work: Path, name: str, split: str, minutes: float, seed: int) -> Path:
    """Make recordings of many sentences and their labels in a separate folder."""
    folder = work / name
    if not (folder / f"{split}.ltr").exists():
        rows = speak_split(work, name, minutes, lambda rng: draw_sentences(rng, MANY[name]), seed)
        (folder / "dict.ltr.txt").write_bytes((work / "dict.ltr.txt").read_bytes())
        write_split(folder, split, work, rows)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--work", type=Path, required=True, help="folder for data and runs")
    args = parser.parse_args()
    work = args.work.resolve()
    if not (work / "test.ltr").exists():
        prepare(work)
    prepare_recordings(work, "five_minutes", "test", FIVE_MINUTES, 4)
    seconds, source = 0.0, []
    for number, (name, settings) in enumerate(STAGES):
        data = work if name == "short" else prepare_recordings(work, name, "train", LONG_MINUTES, 2 + number)
        save_dir = work / f"{name}_run"
        seconds += train(
            CONFIGS / "finetuning/small_from_scratch.yaml",
            save_dir,
            [f"task.data={data}", *source, *SETTINGS, *settings],
        )
        source = [f"checkpoint.finetune_from_model={save_dir / 'checkpoint_last.pt'}"]
    for lexicon in (None, work / "lexicon.txt"):
        rates = score(work, "test", save_dir, lexicon)
        print(f"{'lexicon' if lexicon else 'greedy'}: WER {rates['wer']:.2f}%, CER {rates['cer']:.2f}%")
    print(f"{seconds / 60:.1f} processor minutes; {save_dir / 'checkpoint_last.pt'}")


if __name__ == "__main__":
    main()
