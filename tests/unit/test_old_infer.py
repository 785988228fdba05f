"""Command lines of fairseq's infer.py get the command that does the same here."""

from __future__ import annotations

import shlex

import pytest

from fairseq_cli.infer import cli_main, get_parser
from fairseq_cli.old_infer import new_command

WIKI = (  # of fairseq's examples/wav2vec/README
    "/data --task audio_finetuning --nbest 1 --path /m.pt --gen-subset dev_other --results-path /out --w2l-decoder "
    "kenlm --lm-model /lm.bin --lm-weight 2 --word-score -1 --sil-weight 0 --criterion ctc --labels ltr --max-tokens "
    "4000000 --post-process letter"
)


def command_in(text: str) -> list[str]:
    return shlex.split(text.splitlines()[-1])


def test_the_command_of_fairseqs_readme() -> None:
    text = str(new_command(WIKI.split()))
    assert "these are arguments of fairseq's infer.py: --task, --w2l-decoder, --criterion, --post-process" in text
    name, *words = command_in(text)
    args = get_parser().parse_args(words)
    assert name == "fairseq-infer" and (args.data, args.path, args.lm, args.word_score) == (
        "/data",
        "/m.pt",
        "/lm.bin",
        -1,
    )
    assert (args.gen_subset, args.results_path, args.labels, args.max_tokens, args.lm_weight) == (
        "dev_other",
        "/out",
        "ltr",
        4_000_000,
        2,
    )


def test_viterbi_reads_no_language_model() -> None:
    line = (
        "/data --task audio_finetuning --path /m.pt --w2l-decoder viterbi --lexicon /l.txt --lm-model /lm.bin "
        "--quiet --remove-bpe"
    )
    assert command_in(str(new_command(line.split()))) == ["fairseq-infer", "/data", "--path", "/m.pt"]


def test_the_newer_command_of_keys() -> None:
    line = (
        "--config-dir conf --config-name infer task=audio_finetuning task.data=/data common.user_dir=examples "
        "task.labels=ltr decoding.type=kenlm decoding.lexicon=/l.txt decoding.lmpath=/lm.bin decoding.wordscore=-1 "
        "decoding.unique_wer_file=True dataset.gen_subset=test common_eval.path=/m.pt decoding.beam=1500 "
        "distributed_training.distributed_world_size=1"
    )
    words = command_in(str(new_command(line.split())))
    args = get_parser().parse_args(words[1:])
    assert (args.data, args.path, args.lexicon, args.lm, args.beam) == ("/data", "/m.pt", "/l.txt", "/lm.bin", 1500)
    assert (args.word_score, args.gen_subset, args.labels) == (-1, "test", "ltr")


def test_what_is_not_offered_is_said() -> None:
    text = str(
        new_command(
            [
                "/data",
                "--path",
                "/m.pt",
                "--dump-emissions",
                "e.npy",
                "--w2l-decoder",
                "fairseqlm",
                "--kenlm-model",
                "/lm",
            ]
        )
    )
    assert "Not offered: writing log-probabilities; a neural language model" in text and "e.npy" not in text


@pytest.mark.parametrize(
    "line", ["/data --path=/m.pt --unk-weight -inf --lm a=b --word-score -1", "--help", "/data/task=1 --path m.pt"]
)
def test_todays_arguments_are_left_alone(line: str) -> None:
    assert new_command(line.split()) is None


def test_it_is_printed_by_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli_main(WIKI.split()) == 2
    assert "The same command is now:\n  fairseq-infer /data" in capsys.readouterr().err
