"""Word recognition of small models on speakers that are not in the training data.

    python benchmarks/unheard_speakers.py digits DIGITS --work FOLDER
    python benchmarks/unheard_speakers.py an4 AN4 LIBRISPEECH --work FOLDER

`digits` leaves out one speaker at a time, then none. `an4` compares pre-trained with random weights, with three seeds.
Models are trained and scored with the package's commands.

DIGITS and AN4 have train.tsv and the like, with lines `path<TAB>TRANSCRIPT`, next to the audio; LIBRISPEECH has train
and dev. Finished runs in FOLDER are skipped. Cost is the processor time of everything a result needs. Except in the
digits run without a left-out speaker, no recording of a test speaker is in any training data, including pre-training.
The weights of the last update are tested. Only AN4's learning rate is chosen by a score: by the CER of seed 1.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import results_file
import soundfile
from small_runs import CONFIGS, EXAMPLES, Row, score, train, write_split, write_words

SAMPLE_RATE = 8000  # Hz, of the digits
TAKES = 1  # recordings per word and synthetic voice
AN4_RATES = (0.0005, 0.001, 0.002)
# Little augmentation and no masks: with the config's own settings, CTC did not leave its plateau in 1,200 updates,
# neither from pre-trained nor from random weights.
AN4_SETTINGS = ["task.augment.speed=1.1", "task.augment.eq_db=0", "task.augment.noise_db=null"]


def read_rows(file: Path) -> list[Row]:
    return [tuple(line.split("\t")) for line in file.read_text(encoding="utf-8").splitlines()]  # type: ignore[misc]


# -- digits ------------------------------------------------------------------------------------------------------------


def synthesize(folder: Path, words: Sequence[str]) -> float:
    """Synthesize every word with every voice of the demo at random speed and pitch; returns processor seconds."""
    sys.path.insert(0, str(EXAMPLES / "demo"))
    from make_corpus import ACCENTS, FEMALE, MALE
    from speech_synthesis import SAMPLE_RATE as SYNTHESIZED_RATE
    from speech_synthesis import Synthesizer, Voice

    began, rng, rows = _processor_seconds(), np.random.default_rng(1), []
    (folder / "wav").mkdir(parents=True, exist_ok=True)
    synthesizer = Synthesizer()
    for number, name in enumerate(f"{accent}+{variant}" for accent in ACCENTS for variant in MALE + FEMALE):
        for take in range(TAKES):
            for word in words:
                voice = Voice(name, int(rng.integers(110, 220)), int(rng.integers(15, 80)), int(rng.integers(10, 90)))
                wave = synthesizer.speak([word.lower()], [0], voice, int(rng.integers(1, 2**31)))
                heard = np.flatnonzero(np.abs(wave) > 0.01)
                # trim silence, like the recorded digits
                wave = wave[max(0, heard[0] - 400) : heard[-1] + 800]
                wave *= 10 ** (rng.uniform(-26, -14) / 20) / np.sqrt(np.mean(wave**2))
                path = f"wav/{word}_{number}_{take}.wav"
                soundfile.write(folder / path, np.clip(wave, -1, 1), SYNTHESIZED_RATE)
                rows.append((path, word))
    write_split(folder, "train", folder, rows)
    return _processor_seconds() - began


def _processor_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def digits(args: argparse.Namespace) -> dict[str, Any]:
    """One fold per left-out speaker, and one trained on all speakers and tested on held-out recordings."""
    root = args.data.resolve()
    training, test = read_rows(root / "train.tsv"), read_rows(root / "test.tsv")
    speakers = sorted({_speaker(path) for path, _ in training + test})
    synthetic = args.work / "synthetic"
    words = sorted({text for _, text in training})
    seconds = synthesize(synthetic, words) if args.synthetic and not (synthetic / "train.ltr").exists() else 0.0
    folds: dict[str, tuple[list[Row], list[Row]]] = {
        speaker: (
            [row for row in training if _speaker(row[0]) != speaker],
            [row for row in training + test if _speaker(row[0]) == speaker],
        )
        for speaker in args.folds or speakers
    }
    if not args.folds:
        folds["heard"] = (training, test)

    def fold(name: str) -> dict[str, Any]:
        data = args.work / name
        train_rows, test_rows = folds[name]
        corpora = {"real": (root, train_rows)}
        write_split(data / "real", "train", root, train_rows)
        write_split(data, "test", root, test_rows)
        write_words(data, training)
        if args.synthetic:
            corpora["synthetic"] = (synthetic, [])
            (data / "synthetic").mkdir(exist_ok=True)
            for file in ("train.tsv", "train.ltr"):
                (data / "synthetic" / file).write_bytes((synthetic / file).read_bytes())
        cost = train(
            CONFIGS / "finetuning/small_from_scratch.yaml",
            data / "run",
            [
                f"task.data={data}",
                f"task.multi_corpus_keys='{','.join(corpora)}'",
                f"task.target_dictionary={data / 'dict.ltr.txt'}",
                "dataset.disable_validation=true",
                f"common.seed={args.seed}",
                *args.overrides,
            ],
        )
        greedy, lexicon = (
            score(data, "test", data / "run", None),
            score(data, "test", data / "run", data / "lexicon.txt"),
        )
        found = {
            "greedy_wer": greedy["wer"],
            "greedy_cer": greedy["cer"],
            "lexicon_wer": lexicon["wer"],
            "trained_on": len(train_rows),
            "tested_on": len(test_rows),
            "core_minutes": round((cost + seconds) / 60, 1),
        }
        print(name, json.dumps(found), flush=True)
        return found

    found = dict(zip(folds, _at_once(args.at_once, fold, list(folds)), strict=True))
    unheard = [values for name, values in found.items() if name != "heard"]
    mean = {
        key: round(statistics.mean(values[key] for values in unheard), 2)
        for key in ("greedy_wer", "greedy_cer", "lexicon_wer")
    }
    print("mean", json.dumps(mean), flush=True)
    return {
        "folds": found,
        "mean_of_unheard_speakers": mean,
        "synthetic": args.synthetic,
        "seed": args.seed,
        "overrides": args.overrides,
    }


def _speaker(path: str) -> str:
    """wav/DIGIT_SPEAKER_TAKE.wav"""
    return Path(path).stem.split("_")[1]


def _at_once(workers: int, function: Callable[[Any], Any], items: list[Any]) -> list[Any]:
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(function, items))


# -- AN4 ---------------------------------------------------------------------------------------------------------------


def an4(args: argparse.Namespace) -> dict[str, Any]:
    """Compare fine-tuning from pre-trained and from random weights, each at the best of three learning rates (seed 1).

    Random weights are also trained for more updates, to match the cost of pre-training plus fine-tuning.
    """
    root, books = args.data.resolve(), args.librispeech.resolve()
    training, dev = read_rows(root / "train.tsv"), read_rows(root / "dev.tsv")
    data, unlabelled = args.work / "labelled", args.work / "unlabelled"
    write_split(data, "train", root, training)
    write_split(data, "dev", root, dev)
    write_words(data, training)
    top = Path(os.path.commonpath([root, books]))
    heard = [(str((root / path).relative_to(top)), "") for path, _ in training]
    write_split(unlabelled, "train", top, _files(books / "train", top) + heard)
    write_split(unlabelled, "valid", top, _files(books / "dev", top))
    pretraining = train(
        CONFIGS / "pretraining/wav2vec2_demo.yaml",
        args.work / "pretrained",
        [
            f"task.data={unlabelled}",
            "common.bf16=true",
            f"optimization.max_update={args.pretraining_updates}",
            "dataset.max_tokens=320000",
            "model.logit_temp_updates=400",
            "lr_scheduler.warmup_updates=60",
            "model.dropout=0.05",
            "model.conv_pos=16",
            "dataset.validate_interval_updates=200",
            "common.seed=1",
        ],
    )
    weights = {
        "random": ["model.w2v_args.model.mask_prob=0.0", "model.w2v_args.model.mask_channel_prob=0.0"],
        "pretrained": [
            "model.w2v_args=null",
            f"model.w2v_path={args.work / 'pretrained/checkpoint_last.pt'}",
            "model.feature_grad_mult=1.0",
            "model.dropout=0.1",
            "model.attention_dropout=0.1",
            "model.apply_mask=false",
            "model.layerdrop=0.0",
        ],
    }

    def trial(start: str, rate: float, seed: int, updates: int) -> dict[str, Any]:
        save_dir = args.work / f"{start}-{rate}-{seed}-{updates}"
        cost = train(
            CONFIGS / "finetuning/small_from_scratch.yaml",
            save_dir,
            [
                f"task.data={data}",
                "dataset.disable_validation=true",
                f"common.seed={seed}",
                f"optimization.lr=[{rate}]",
                f"optimization.max_update={updates}",
                *AN4_SETTINGS,
                *weights[start],
                *args.overrides,
            ],
        )
        found = {"start": start, "lr": rate, "seed": seed, "updates": updates, "core_minutes": round(cost / 60, 1)}
        found |= score(data, "dev", save_dir, None)
        found["lexicon_wer"] = score(data, "dev", save_dir, data / "lexicon.txt")["wer"]
        print(json.dumps(found), flush=True)
        return found

    runs = _at_once(
        args.at_once,
        lambda job: trial(*job),
        [(start, rate, 1, args.updates) for start in weights for rate in AN4_RATES],
    )
    best = {
        start: min((found for found in runs if found["start"] == start), key=lambda found: found["cer"])["lr"]
        for start in weights
    }
    cost = statistics.mean(found["core_minutes"] for found in runs)
    more = args.updates + round(args.updates * pretraining / 60 / cost)
    further = [(start, best[start], seed, args.updates) for seed in (2, 3) for start in weights]
    runs += _at_once(
        args.at_once, lambda job: trial(*job), further + [("random", best["random"], seed, more) for seed in (1, 2, 3)]
    )
    groups = {
        "pretrained": ("pretrained", args.updates),
        "random": ("random", args.updates),
        "random, pre-training counted": ("random", more),
    }
    means = {
        name: _means(
            [
                found
                for found in runs
                if (found["start"], found["lr"], found["updates"]) == (start, best[start], updates)
            ]
        )
        for name, (start, updates) in groups.items()
    }
    result = {"best_lr": best, "means_over_seeds": means, "pretraining_core_minutes": round(pretraining / 60, 1)}
    print(json.dumps(result), flush=True)
    return {"runs": runs, **result, "settings": AN4_SETTINGS, "overrides": args.overrides}


def _means(runs: list[dict[str, Any]]) -> dict[str, float]:
    return {
        key: round(statistics.mean(found[key] for found in runs), 2)
        for key in ("wer", "cer", "lexicon_wer", "core_minutes")
    }


def _files(folder: Path, top: Path) -> list[Row]:
    return [(str(path.relative_to(top)), "") for path in sorted(folder.rglob("*.flac"))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("digits", "an4"):
        command = commands.add_parser(name)
        command.add_argument("data", type=Path)
        if name == "an4":
            command.add_argument("librispeech", type=Path)
            command.add_argument("--pretraining-updates", type=int, default=1600)
            command.add_argument("--updates", type=int, default=3000)
        else:
            command.add_argument(
                "--folds", nargs="*", help="speakers to leave out, one per fold (default: each, then none)"
            )
            command.add_argument("--seed", type=int, default=1)
            command.add_argument(
                "--no-synthetic", dest="synthetic", action="store_false", help="train on the real recordings only"
            )
        command.add_argument("--work", type=Path, required=True, help="folder for the runs")
        command.add_argument(
            "--at-once", type=int, default=2, help="runs at the same time, with one thread each (default: 2)"
        )
        command.add_argument(
            "--overrides", nargs="*", default=[], help="additional overrides of the fine-tuning config"
        )
    args = parser.parse_args()
    args.work = args.work.resolve()
    result = {"digits": digits, "an4": an4}[args.command](args)
    print(f"results: {results_file.write(f'unheard_speakers_{args.command}', result)}")


if __name__ == "__main__":
    main()
