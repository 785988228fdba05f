"""fairseq's options of 2020 as overrides: the commands of its README, and what is said about options that are not
known.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from fairseq_cli import fairseq_train, hydra_train, old_arguments
from tests.warm import Warm

ROOT = Path(__file__).resolve().parents[2]
# options and values of examples/wav2vec/README.md of fairseq, 2020-11
PRETRAINING = """
    --distributed-world-size 64 --distributed-port 29671 /manifest/path --save-dir /model/path --fp16 --num-workers 6
    --task audio_pretraining --criterion wav2vec --arch wav2vec2 --log-keys '["prob_perplexity","code_perplexity","temp"]'
    --quantize-targets --extractor-mode default --conv-feature-layers '[(512, 10, 5)] + [(512, 3, 2)] * 4 + [(512,2,2)] * 2'
    --final-dim 256 --latent-vars 320 --latent-groups 2 --latent-temp '(2,0.5,0.999995)' --infonce --optimizer adam
    --adam-betas '(0.9,0.98)' --adam-eps 1e-06 --lr-scheduler polynomial_decay --total-num-update 400000 --lr 0.0005
    --warmup-updates 32000 --mask-length 10 --mask-prob 0.65 --mask-selection static --mask-other 0 --encoder-layerdrop 0.05
    --dropout-input 0.1 --dropout-features 0.1 --feature-grad-mult 0.1 --loss-weights '[0.1, 10]' --conv-pos 128
    --conv-pos-groups 16 --num-negatives 100 --cross-sample-negatives 0 --max-sample-size 250000 --min-sample-size 32000
    --dropout 0.1 --attention-dropout 0.1 --weight-decay 0.01 --max-tokens 1400000 --max-update 400000
    --skip-invalid-size-inputs-valid-test --ddp-backend no_c10d --update-freq 8"""
FINETUNING = """
    --distributed-world-size 24 --distributed-port 29671 /data --save-dir /model/path --fp16 --post-process letter
    --valid-subset dev_clean,dev_other --no-epoch-checkpoints --best-checkpoint-metric wer --num-workers 4 --max-update 80000
    --sentence-avg --task audio_pretraining --arch wav2vec_ctc --w2v-path /x.pt --labels ltr --apply-mask --mask-selection static
    --mask-other 0 --mask-length 10 --mask-prob 0.5 --layerdrop 0.1 --mask-channel-selection static --mask-channel-other 0
    --mask-channel-length 64 --mask-channel-prob 0.5 --zero-infinity --feature-grad-mult 0.0 --freeze-finetune-updates 10000
    --validate-after-updates 10000 --optimizer adam --adam-betas '(0.9, 0.98)' --adam-eps 1e-08 --lr 2e-05
    --lr-scheduler tri_stage --warmup-steps 8000 --hold-steps 32000 --decay-steps 40000 --final-lr-scale 0.05 --final-dropout 0.0
    --dropout 0.0 --activation-dropout 0.1 --criterion ctc --attention-dropout 0.0 --max-tokens 1280000 --seed 2337
    --log-format json --log-interval 500 --ddp-backend no_c10d"""


def overrides(text: str) -> list[str]:
    return old_arguments.hydra_form(shlex.split(text)).overrides


def composed(warm: Warm, words: list[str], folder: Path) -> dict[str, Any]:
    done = warm.module("fairseq_cli.hydra_train", [*words, "--cfg", "job", "--resolve"], folder)
    assert done.code == 0, done.output
    return yaml.safe_load(done.output)


def printed_command(text: str) -> list[str]:
    """The words of the command that an explanation shows, as a shell reads them."""
    lines = text.splitlines()
    begin = lines.index("") + 1
    return shlex.split(" ".join(line.removesuffix("\\") for line in lines[begin : lines.index("", begin)]))


def test_the_pretraining_command_of_2020(warm: Warm, tmp_path: Path) -> None:
    words = printed_command(old_arguments.explain(shlex.split(PRETRAINING)))
    assert words[0] == "fairseq-hydra-train" and words[1:] == overrides(PRETRAINING)
    cfg = composed(warm, words[1:], tmp_path)
    expected: dict[str, dict[str, Any]] = {
        "common": {"fp16": True},
        "checkpoint": {"save_dir": "/model/path"},
        "distributed_training": {"distributed_world_size": 64, "distributed_port": 29671, "ddp_backend": "no_c10d"},
        "task": {
            "_name": "audio_pretraining",
            "data": "/manifest/path",
            "max_sample_size": 250000,
            "min_sample_size": 32000,
        },
        "dataset": {"num_workers": 6, "max_tokens": 1400000, "skip_invalid_size_inputs_valid_test": True},
        "criterion": {
            "_name": "wav2vec",
            "infonce": True,
            "loss_weights": [0.1, 10],
            "log_keys": ["prob_perplexity", "code_perplexity", "temp"],
        },
        "optimization": {"max_update": 400000, "lr": [0.0005], "update_freq": [8]},
        "optimizer": {
            "_name": "adam",
            "adam_betas": "(0.9,0.98)",
            "adam_eps": 1e-6,
            "weight_decay": 0.01,
            "lr": [0.0005],
        },
        "lr_scheduler": {"_name": "polynomial_decay", "warmup_updates": 32000, "total_num_update": 400000},
        "model": {
            "_name": "wav2vec2",
            "quantize_targets": True,
            "final_dim": 256,
            "latent_vars": 320,
            "latent_temp": [2, 0.5, 0.999995],
            "conv_feature_layers": "[(512, 10, 5)] + [(512, 3, 2)] * 4 + [(512,2,2)] * 2",
            "mask_prob": 0.65,
            "mask_selection": "static",
            "encoder_layerdrop": 0.05,
            "feature_grad_mult": 0.1,
            "dropout": 0.1,
            "conv_pos": 128,
            "num_negatives": 100,
        },
    }
    for group, values in expected.items():
        assert {key: cfg[group][key] for key in values} == values


def test_the_fine_tuning_command_of_2020(warm: Warm, tmp_path: Path) -> None:
    cfg = composed(warm, overrides(FINETUNING), tmp_path)
    expected: dict[str, dict[str, Any]] = {
        "common": {"fp16": True, "seed": 2337, "log_format": "json", "log_interval": 500},
        "task": {"_name": "audio_finetuning", "data": "/data", "labels": "ltr"},  # fairseq had one task for both
        "dataset": {"valid_subset": "dev_clean,dev_other", "validate_after_updates": 10000},
        "criterion": {"_name": "ctc", "zero_infinity": True, "post_process": "letter", "sentence_avg": True},
        "checkpoint": {"no_epoch_checkpoints": True, "best_checkpoint_metric": "wer"},
        "lr_scheduler": {
            "_name": "tri_stage",
            "warmup_steps": 8000,
            "hold_steps": 32000,
            "decay_steps": 40000,
            "final_lr_scale": 0.05,
        },
        "model": {
            "_name": "wav2vec_ctc",
            "w2v_path": "/x.pt",
            "apply_mask": True,
            "mask_prob": 0.5,
            "mask_channel_prob": 0.5,
            "layerdrop": 0.1,
            "freeze_finetune_updates": 10000,
            "activation_dropout": 0.1,
        },
    }
    for group, values in expected.items():
        assert {key: cfg[group][key] for key in values} == values


@pytest.mark.parametrize(
    ("words", "form"),
    [
        ("--restore-file x.pt --save-dir d", ["checkpoint.restore_file=x.pt", "checkpoint.save_dir=d"]),
        ("--lr=[0.1,0.2]", ["optimization.lr=[0.1,0.2]"]),
        ("--lr 0.1,0.2 --update-freq 2", ["optimization.lr=[0.1,0.2]", "optimization.update_freq=[2]"]),
        ("--arch wav2vec2 /d", ["model=wav2vec2", "task.data=/d"]),
        ("-a wav2vec_ctc --relu-dropout 0.1", ["model=wav2vec_ctc", "model.activation_dropout=0.1"]),
        ("--max-sentences 4 --max-sentences-valid 2", ["dataset.batch_size=4", "dataset.batch_size_valid=2"]),
        ("--min-lr 1e-9", ["optimization.stop_min_lr=1e-9"]),
        ("--lr-scheduler cosine --min-lr 1e-9", ["lr_scheduler=cosine", "lr_scheduler.min_lr=1e-9"]),
        (
            "task=audio_pretraining task.data=/d --max-upd 5",
            ["task=audio_pretraining", "task.data=/d", "optimization.max_update=5"],
        ),
        ("--weight-decay 0.01", ["optimizer.weight_decay=0.01"]),  # no --optimizer: all of them are asked
        ("--local_rank=3 --seed 2", ["common.seed=2"]),
        ("-- --word-score=-1 --seed -1", ["common.seed=-1"]),
        ("--train-subset a,b", ["dataset.train_subset='a,b'"]),
        # a flag takes no value
        ("--no-epoch-checkpoints /d", ["task.data=/d", "checkpoint.no_epoch_checkpoints=true"]),
    ],
)
def test_options_become_keys(words: str, form: list[str]) -> None:
    assert overrides(words) == form


def test_every_field_is_known_by_its_name() -> None:
    known = old_arguments.known_options(
        {"model": "wav2vec2", "task": "audio_pretraining", "criterion": "wav2vec", "optimizer": "adam"}
    )
    for name, key in {
        "--save-dir": "checkpoint.save_dir",
        "--mask-prob": "model.mask_prob",
        "--fp16": "common.fp16",
        "--seed": "common.seed",
        "--required-seq-len-multiple": "model.required_seq_len_multiple",
        "--ema-decay": "ema.ema_decay",
        "--beam": "generation.beam",
        "--normalize": "task.normalize",
        "--adam-eps": "optimizer.adam_eps",
        "--lr": "optimization.lr",
        "--data": "task.data",
    }.items():
        assert known[name].key == key
    assert "--w2v-path" not in known


def test_unknown_options_are_named_with_the_nearest() -> None:
    told = old_arguments.explain(["--adm-eps", "3", "--bogus", "--lr", "0.1", "stray", "other"])
    assert "There is no option --adm-eps 3: it is dropped. Did you mean --adam-eps?" in told
    assert (
        "There is no option --bogus: it is dropped." in told
        and "other is neither an option nor an option's value" in told
    )
    assert printed_command(told) == ["fairseq-hydra-train", "task.data=stray", "optimization.lr=[0.1]"]


def test_what_is_not_offered_is_said() -> None:
    told = old_arguments.explain(["--azureml-logging", "--arch", "multires_hubert", "--lr"])
    assert "common.azureml_logging is not offered: use common.tensorboard_logdir" in told
    assert "model 'multires_hubert' is not known." in told and "--lr has no value" in told


def test_hydras_own_options_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    argv = ["--config-name", "wav2vec2_base_librispeech", "--restore-file", "x.pt", "task.data=/d", "-m"]
    assert printed_command(old_arguments.explain(argv, "fairseq-preflight")) == [
        "fairseq-preflight",
        "task.data=/d",
        "checkpoint.restore_file=x.pt",
        "--config-name",
        "wav2vec2_base_librispeech",
        "-m",
    ]


def test_a_misspelt_option_of_hydras() -> None:
    assert (
        old_arguments.explain(["--confg-name", "x"])
        == "There is no option --confg-name x: it is dropped. Did you mean --config-name?"
    )


def test_the_old_command_explains_and_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert fairseq_train.cli_main(["/d", "--arch", "wav2vec2", "--task", "audio_pretraining"]) == 2
    assert printed_command(capsys.readouterr().err) == [
        "fairseq-hydra-train",
        "task=audio_pretraining",
        "model=wav2vec2",
        "task.data=/d",
    ]
    for argv in ([], ["--help"]):
        assert fairseq_train.cli_main(argv) == 2 and "equivalent fairseq-hydra-train command" in capsys.readouterr().err


def test_the_new_command_explains_old_options(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["fairseq-hydra-train", "--restore-file", "it's $x.pt"])
    with pytest.raises(SystemExit) as stopped:
        hydra_train.cli_main()
    assert printed_command(str(stopped.value)) == ["fairseq-hydra-train", "checkpoint.restore_file='it\\'s $x.pt'"]


def test_plug_ins_have_options_too(tmp_path: Path) -> None:
    told = old_arguments.explain(["--user-dir", str(tmp_path / "nowhere"), "--seed", "1"])
    assert "common.user_dir is" in told and printed_command(told)[-1] == "common.seed=1"
