"""fairseq-infer on a small corpus: files, rates, weights, explanations."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch

from fairseq import checkpoint_utils
from fairseq.decoding.tokens import Tokens
from fairseq.evaluation.results import describe
from fairseq.evaluation.testset import has_words
from fairseq.inference import recognise
from fairseq.inference.model import SpeechModel
from fairseq.inference.progress import Progress
from fairseq.inference.transcribe import transcribe
from fairseq_cli import infer
from fairseq_cli.decoder_arguments import join_negative_values
from tests.small_speech import SYMBOLS, speech, write_checkpoint


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(data folder, checkpoint): labels are what the model itself hears, so that its WER is 0; file 4 is longer
    than a window.
    """
    root = tmp_path_factory.mktemp("infer")
    checkpoint = write_checkpoint(root / "model.pt", seed=5)
    model = SpeechModel.load(checkpoint, precision="fp32")
    lines, labels, speakers = [str(root)], [], []
    for number, seconds in enumerate([1.2, 0.8, 1.0, 0.6, 3.5]):
        name = f"{100 + number % 2}-7-{number}.flac"
        soundfile.write(root / name, speech(seconds, seed=number), 16000)
        lines.append(f"{name}\t{round(seconds * 16000)}")
        labels.append(" ".join(transcribe(model, root / name).text.replace(" ", "|") + "|"))
        speakers.append(f"S{number}")
    (root / "test.tsv").write_text("\n".join(lines) + "\n")
    (root / "test.ltr").write_text("\n".join(labels) + "\n")
    (root / "test.spk").write_text("\n".join(speakers) + "\n")
    return root, checkpoint


def run(corpus: tuple[Path, Path], *extra: str) -> dict[str, Any]:
    root, checkpoint = corpus
    return infer.main(
        infer.get_parser().parse_args([str(root), "--path", str(checkpoint), "--precision", "fp32", *extra])
    )


def test_its_own_transcripts_have_no_errors_and_files_are_fairseqs(corpus: tuple[Path, Path], tmp_path: Path) -> None:
    result = run(corpus, "--results-path", str(tmp_path))
    assert result["rates"]["wer"]["rate"] == result["rates"]["cer"]["rate"] == 0
    assert result["rates"]["wer"]["by_utterance"] == [0, 0] and result["rates"]["wer"]["num_speakers"] == 2
    references = (corpus[0] / "test.ltr").read_text().splitlines()
    words = [line.replace(" ", "").replace("|", " ").strip() for line in references]
    assert (tmp_path / "hypo.word").read_text().splitlines() == [f"{line} (None-{n})" for n, line in enumerate(words)]
    assert (tmp_path / "ref.word").read_text() == (tmp_path / "hypo.word").read_text()
    assert (tmp_path / "ref.units").read_text().splitlines()[3] == f"{references[3]} (None-3)"
    rows = [json.loads(line) for line in (tmp_path / "hypo.jsonl").read_text().splitlines()]
    assert (
        [row["text"] for row in rows] == words and rows[4]["duration"] == 3.5 and rows[0]["words"][0]["confidence"] > 0
    )
    assert json.loads((tmp_path / "results.json").read_text())["utterances"] == 5


def test_windows_and_batches_change_nothing_here_but_the_long_one(corpus: tuple[Path, Path], tmp_path: Path) -> None:
    run(corpus, "--results-path", str(tmp_path / "a"), "--max-tokens", "1")
    run(corpus, "--results-path", str(tmp_path / "b"), "--window", "2", "--overlap", "0.5")
    alone, windowed = ((tmp_path / name / "hypo.word").read_text().splitlines() for name in "ab")
    assert alone[:4] == windowed[:4] and alone[4] != ""


def test_errors_are_counted_and_bounded(corpus: tuple[Path, Path], tmp_path: Path) -> None:
    root = corpus[0]
    lines = (root / "test.ltr").read_text().splitlines()
    lines[0] = "A B A B A B |"
    (root / "wrong.ltr").write_text("\n".join(lines) + "\n")
    (root / "wrong.tsv").write_text((root / "test.tsv").read_text())
    (root / "wrong.spk").write_text((root / "test.spk").read_text())
    found = run(corpus, "--gen-subset", "wrong", "--speakers", str(root / "wrong.spk"), "--seed", "3")["rates"]["wer"]
    low, high = found["by_utterance"]
    assert (
        0 <= low < found["rate"] < high and found["by_speaker"] == found["by_utterance"] and found["num_speakers"] == 5
    )


def test_a_file_that_cannot_be_read_counts_as_empty(corpus: tuple[Path, Path]) -> None:
    root = corpus[0]
    (root / "gap.tsv").write_text((root / "test.tsv").read_text().replace("100-7-2.flac", "nowhere.flac"))
    (root / "gap.ltr").write_text((root / "test.ltr").read_text())
    result = run(corpus, "--gen-subset", "gap", "--explain", "--speaker-pattern", "(.)")
    words = len((root / "gap.ltr").read_text().splitlines()[2].replace(" ", "").replace("|", " ").split())
    assert result["unreadable"] == 1 and result["rates"]["wer"]["errors"] == words


def test_without_labels_there_are_only_hypotheses(corpus: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "ref.word").write_text("of a former run")
    result = run(corpus, "--labels", "none", "--results-path", str(tmp_path))
    assert "rates" not in result and sorted(path.name for path in tmp_path.iterdir()) == FILES


FILES = ["hypo.jsonl", "hypo.units", "hypo.word", "results.json"]


def test_empty_references_have_no_rate_and_the_results_are_json(corpus: tuple[Path, Path], tmp_path: Path) -> None:
    root = corpus[0]
    (root / "mute.tsv").write_text((root / "test.tsv").read_text())
    (root / "mute.ltr").write_text("|\n" * 5)
    result = run(corpus, "--gen-subset", "mute", "--explain", "--results-path", str(tmp_path))
    assert "NaN" not in (tmp_path / "results.json").read_text() and result["rates"]["wer"]["rate"] is None
    assert result["rates"]["wer"]["by_utterance"] == [None, None]
    assert [found["cause"] for found in result["explanation"]] == ["empty references"]


@pytest.mark.parametrize("labels", ["wrd", "txt"])
def test_words_are_references_of_a_model_of_letters(corpus: tuple[Path, Path], tmp_path: Path, labels: str) -> None:
    root = corpus[0]
    (root / "said.tsv").write_text((root / "test.tsv").read_text())
    lines = [line.replace(" ", "").replace("|", " ").strip() for line in (root / "test.ltr").read_text().splitlines()]
    (root / f"said.{labels}").write_text("\n".join(lines) + "\n")
    rates = run(corpus, "--gen-subset", "said", "--labels", labels, "--results-path", str(tmp_path))["rates"]
    assert rates["wer"]["rate"] == rates["cer"]["rate"] == 0 and rates["wer"]["total"] == sum(
        len(line.split()) for line in lines
    )
    assert "uer" not in rates and not (tmp_path / "ref.units").exists()
    assert (tmp_path / "ref.word").read_text() == (tmp_path / "hypo.word").read_text()


def test_letters_without_word_ends_stay_letters() -> None:
    tokens = Tokens.from_symbols(["<s>", "<unk>", *SYMBOLS])
    assert not has_words(["A B E", "c"], "ltr", tokens) and not has_words(["AB CE |"], "wrd", tokens)
    assert has_words(["A", "B A"], "wrd", tokens) and has_words(["A", "AB"], "ltr", tokens)
    pieces = Tokens.from_symbols(["<s>", "\u2581A", "BC"])
    assert has_words(["ABC A"], "ltr", pieces) and not has_words(["\u2581A BC"], "ltr", pieces)


def test_a_lexicon_of_what_was_said_and_tuning(corpus: tuple[Path, Path], tmp_path: Path) -> None:
    pytest.importorskip("flashlight.lib.text.decoder")
    root = corpus[0]
    said = {
        word
        for line in (root / "test.ltr").read_text().splitlines()
        for word in line.replace(" ", "").split("|")
        if word
    }
    (tmp_path / "lexicon.txt").write_text("\n".join(sorted(said)) + "\n")
    result = run(
        corpus,
        "--lexicon",
        str(tmp_path / "lexicon.txt"),
        "--tune",
        "test",
        "--nbest",
        "3",
        "--results-path",
        str(tmp_path),
    )
    assert result["decoder"]["kind"] == "beam"
    fixed = run(corpus, "--lexicon", str(tmp_path / "lexicon.txt"), "--word-score", "-30")
    assert result["rates"]["wer"]["errors"] < fixed["rates"]["wer"]["errors"]
    assert set((tmp_path / "hypo.word").read_text().replace("(", " (").split()) - said <= {
        f"(None-{n})" for n in range(5)
    }
    assert "alternatives" in (tmp_path / "hypo.jsonl").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--gen-subset", "nowhere"], "cannot read the manifest"),
        (["--labels", "wrd"], "cannot read .*test.wrd"),
        (["--tune", "test"], "--tune requires a lexicon"),
        (["--speaker-pattern", "("], "is not a valid regular expression"),
        (["--speaker-pattern", "x(y)"], "finds no speaker"),
        (["--speaker-pattern", "(x)?-"], "finds no speaker"),
        (["--results-path", __file__], "--results-path .* cannot make this folder: File exists"),
        (["--bootstrap-draws", "0"], "--bootstrap-draws is 0; it must be at least 1"),
        (["--beam", "0"], "--beam is 0; it must be at least 1"),
        (["--max-tokens", "0"], "--max-tokens is 0; it must be at least 1"),
        (["--lm-weight", "nan"], "--lm-weight is nan; it must be a finite number$"),
        (["--unk-weight", "nan"], "--unk-weight is nan; it must be a finite number, or -inf"),
        (["--unk-weight=inf"], "--unk-weight is inf; it must be a finite number, or -inf"),
        (["--nbest", "5"], "--nbest 5 requires a beam search: give --lexicon, --lm or --hotwords"),
        (["--window", "2", "--overlap", "3"], "and shorter than a window"),
    ],
)
def test_mistakes_are_named_before_decoding(
    corpus: tuple[Path, Path], arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recognise, "read_all", lambda *_: pytest.fail("decoded before the arguments were looked at"))
    with pytest.raises(ValueError, match=message):
        run(corpus, *arguments)


def test_counts_of_lines_must_agree(corpus: tuple[Path, Path]) -> None:
    root = corpus[0]
    (root / "short.tsv").write_text((root / "test.tsv").read_text())
    (root / "short.ltr").write_text("A |\n")
    with pytest.raises(ValueError, match="short.ltr has 1 lines, but .*short.tsv has 5 utterances"):
        run(corpus, "--gen-subset", "short")


def test_a_root_that_is_not_there_is_an_error_and_not_a_hundred_percent(corpus: tuple[Path, Path]) -> None:
    lines = (corpus[0] / "test.tsv").read_text().split("\n")
    (corpus[0] / "moved.tsv").write_text("\n".join(["/gone", *lines[1:]]))
    with pytest.raises(ValueError, match=r"moved\.tsv, line 1: the root '/gone' is not a folder on this machine"):
        run(corpus, "--gen-subset", "moved", "--labels", "none")


def test_the_command_prints_json_and_ends_plainly(
    corpus: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    root, checkpoint = corpus
    assert infer.cli_main([str(root), "--path", str(checkpoint)]) == 0
    assert json.loads(capsys.readouterr().out)["subset"] == "test"
    assert infer.cli_main([str(root), "--path", str(root / "nowhere.pt")]) == 1
    assert "nowhere.pt" in capsys.readouterr().err


@pytest.mark.slow
def test_normalize_the_wrong_way_round_is_found(corpus: tuple[Path, Path], tmp_path: Path) -> None:
    """The labels are what a model hears in audio as it is; the same weights in a checkpoint that normalises hear
    something else.
    """
    form = {"extractor_mode": "layer_norm", "conv_bias": True, "seed": 5}
    (tmp_path / "right").mkdir()
    model = SpeechModel.load(write_checkpoint(tmp_path / "right" / "model.pt", **form), precision="fp32")
    (tmp_path / "test.tsv").write_text((corpus[0] / "test.tsv").read_text())
    files = [corpus[0] / line.split("\t")[0] for line in (tmp_path / "test.tsv").read_text().splitlines()[1:]]
    said = [transcribe(model, file).text.replace(" ", "|") for file in files]
    (tmp_path / "test.ltr").write_text("".join(" ".join(text + "|") + "\n" for text in said))
    wrong = write_checkpoint(tmp_path / "model.pt", normalize=True, **form)
    result = run((tmp_path, wrong), "--explain")
    assert result["rates"]["wer"]["rate"] > 50
    (finding,) = [found for found in result["explanation"] if found["cause"] == "normalize"]
    assert "to 0.0 % with the other setting" in finding["evidence"]


def test_letters_that_stand_at_masks_are_found(corpus: tuple[Path, Path], tmp_path: Path) -> None:
    """An output layer that says A where the mask embedding was, and nothing elsewhere."""
    path = write_checkpoint(tmp_path / "model.pt")
    state = torch.load(path, weights_only=True)
    state["cfg"]["model"]["apply_mask"] = True
    state["cfg"]["model"]["w2v_args"]["model"] |= {"mask_prob": 0.2, "mask_length": 3}
    state["model"]["w2v_encoder.w2v_model.mask_emb"] = 50 * torch.randn(24)
    (model,), _, _ = checkpoint_utils.load_model_ensemble_and_task([str(path)], state=state)
    encoder = model.eval().w2v_encoder.w2v_model
    hidden = torch.zeros(1, 149, dtype=torch.bool)
    hidden[:, 20::40] = True
    with torch.no_grad():
        x = encoder(torch.from_numpy(speech(3.0)).unsqueeze(0), mask=True, features_only=True, mask_indices=hidden)["x"]
    masked, heard = x[hidden].mean(dim=0), x[~hidden].mean(dim=0)
    A, direction = 5, masked - heard
    weight, bias = torch.zeros_like(model.w2v_encoder.proj.weight), torch.full_like(model.w2v_encoder.proj.bias, -1e4)
    weight[A], bias[A], bias[0] = direction, -(masked + heard) @ direction / 2, 0.0
    state["model"] |= {"w2v_encoder.proj.weight": weight, "w2v_encoder.proj.bias": bias}
    torch.save(state, path)
    (tmp_path / "test.tsv").write_text((corpus[0] / "test.tsv").read_text())
    (tmp_path / "test.ltr").write_text("A B |\n" * 5)
    result = run((tmp_path, path), "--explain")
    (finding,) = [found for found in result["explanation"] if found["cause"] == "letters at masks"]
    assert "model.mask_prob=0.0" in finding["advice"]
    state["cfg"]["model"]["apply_mask"] = False
    torch.save(state, path)
    assert all(found["cause"] != "letters at masks" for found in run((tmp_path, path), "--explain")["explanation"])


def test_negative_values_of_every_form_are_values() -> None:
    words = join_negative_values(
        ["data", "--path", "m.pt", "--unk-weight", "-inf", "--lm-weight", "-1e-3", "--word-score=-2", "--json"]
    )
    args = infer.get_parser().parse_args(words)
    assert (args.unk_weight, args.lm_weight, args.word_score, args.json) == (float("-inf"), -0.001, -2, True)


def test_options_without_effect_are_named(corpus: tuple[Path, Path], caplog: pytest.LogCaptureFixture) -> None:
    run(corpus, "--lm-weight", "3", "--beam", "9")
    assert "no effect without the beam search (--lexicon, --lm, --hotwords): --beam, --lm-weight" in caplog.text


def test_a_terminal_gets_text_and_a_pipe_json(
    corpus: tuple[Path, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, checkpoint = corpus
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert infer.cli_main([str(root), "--path", str(checkpoint), "--precision", "fp32"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("test: 5 utterances, 0.1 min, greedy decoding") and not any(
        line.startswith("{") for line in printed
    )
    assert printed[3].split()[:4] == ["WER", "0.00", "%", "0"] and "95 % over 2 speakers" in printed[2]
    assert infer.cli_main([str(root), "--path", str(checkpoint), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["utterances"] == 5


def test_one_speaker_and_one_utterance_have_no_interval(corpus: tuple[Path, Path]) -> None:
    root = corpus[0]
    header, *rows = (root / "test.tsv").read_text().splitlines()
    labels = (root / "test.ltr").read_text().splitlines()
    for name, count in (("one", 1), ("voice", 5)):
        (root / f"{name}.tsv").write_text("\n".join([header, *rows[:count]]) + "\n")
        (root / f"{name}.ltr").write_text("\n".join(labels[:count]) + "\n")
    (root / "same.spk").write_text("S\n" * 5)
    one = run(corpus, "--gen-subset", "one")
    assert one["rates"]["wer"]["by_utterance"] is None and "no intervals: they need" in describe(one, 1000)[-1]
    voice = run(corpus, "--gen-subset", "voice", "--speakers", str(root / "same.spk"))
    assert voice["rates"]["wer"]["by_utterance"] == [0, 0] and voice["rates"]["wer"]["by_speaker"] is None
    assert "it needs more than one speaker" in describe(voice, 1000)[-1]


def test_long_work_gives_a_line_every_ten_seconds(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(0, 1000, 4))
    monkeypatch.setattr("fairseq.inference.progress.time.monotonic", lambda: next(clock))
    with caplog.at_level("INFO"), Progress("recognising", 5) as progress:
        for _ in range(5):
            progress.advance()
        progress.tick()
    assert caplog.messages == ["recognising: 3 of 5 utterances, 12 s", "recognising: 5 of 5 utterances, 24 s"]


def test_a_dictionary_that_replaces_the_inner_one_is_said(
    corpus: tuple[Path, Path], tmp_path: Path, caplog: Any
) -> None:
    (tmp_path / "same.txt").write_text("".join(f"{symbol} 9\n" for symbol in SYMBOLS))
    run(corpus, "--dict", str(tmp_path / "same.txt"))
    assert "precedence" not in caplog.text
    (tmp_path / "other.txt").write_text("".join(f"{symbol} 9\n" for symbol in [*SYMBOLS[:2], "Z", *SYMBOLS[3:]]))
    run(corpus, "--dict", str(tmp_path / "other.txt"))
    assert (
        f"takes precedence over the dictionary in the checkpoint, which differs: output 6 is {SYMBOLS[2]!r}"
        in caplog.text
    )


def test_segments_are_utterances(corpus: tuple[Path, Path], tmp_path: Path) -> None:
    root = corpus[0]
    waves = [soundfile.read(root / line.split("\t")[0])[0] for line in (root / "test.tsv").read_text().splitlines()[1:]]
    soundfile.write(root / "joined.flac", [sample for wave in waves for sample in wave], 16000)
    rows, begin = [str(root)], 0
    for wave in waves:
        rows.append(f"joined.flac\t{len(wave)}\t{begin}")
        begin += len(wave)
    (root / "segments.tsv").write_text("\n".join(rows) + "\n")
    (root / "segments.ltr").write_text((root / "test.ltr").read_text())
    result = run(corpus, "--gen-subset", "segments", "--results-path", str(tmp_path), "--explain")
    assert result["rates"]["cer"]["rate"] == 0 and result["utterances"] == len(waves)
    files = [json.loads(line)["file"] for line in (tmp_path / "hypo.jsonl").read_text().splitlines()]
    assert files[:2] == ["joined.flac:0-19200", "joined.flac:19200-32000"]
