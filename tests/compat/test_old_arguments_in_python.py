"""Callers of fairseq that pass argparse Namespaces, and the classes and functions that they take from it."""

from __future__ import annotations

import argparse
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch

from fairseq import criterions, models, optim, tasks
from fairseq.criterions.ctc import CtcCriterion
from fairseq.dataclass.configs import CheckpointConfig, DatasetConfig, OptimizationConfig
from fairseq.dataclass.utils import gen_parser_from_dataclass
from fairseq.file_io import PathManager
from fairseq.logging import progress_bar
from fairseq.models import FairseqEncoder, FairseqEncoderModel
from fairseq.models.wav2vec.config import Wav2Vec2Config
from fairseq.models.wav2vec.wav2vec2_asr import Embedding, base_architecture
from fairseq.tasks import LegacyFairseqTask
from fairseq.tasks.audio_finetuning import AudioFinetuningTask
from fairseq.tasks.audio_pretraining import AudioPretrainingTask

TINY = {
    "arch": "wav2vec2",
    "encoder_layers": 1,
    "encoder_embed_dim": 8,
    "encoder_ffn_embed_dim": 8,
    "encoder_attention_heads": 2,
    "conv_feature_layers": "[(4, 3, 2)]",
    "conv_pos": 2,
    "conv_pos_groups": 1,
    "mask_prob": 0.4,
    "dropout": None,
    "lr": [0.1],
}


def test_a_task_of_old_arguments() -> None:
    task = tasks.setup_task(Namespace(task="audio_pretraining"))  # transformers' conversion scripts
    assert type(task) is AudioPretrainingTask and task.cfg.sample_rate == 16000
    task = tasks.setup_task(
        Namespace(task="audio_pretraining", data="/d", normalize=True, arch="wav2vec2", lr="0.1", min_sample_size=None)
    )
    assert task.cfg.data == "/d" and task.cfg.normalize is True and task.cfg.min_sample_size is None


def test_labels_make_it_fine_tuning(tmp_path: Path) -> None:
    (tmp_path / "dict.ltr.txt").write_text("a 1\n| 1\n")
    task = tasks.setup_task(Namespace(task="audio_pretraining", data=str(tmp_path), labels="ltr"))
    assert type(task) is AudioFinetuningTask and len(task.target_dictionary) == 6


def test_an_unknown_task_is_named() -> None:
    with pytest.raises(ValueError, match="audio_pretrainin"):
        tasks.setup_task(Namespace(task="audio_pretrainin"))


def test_a_model_of_old_arguments() -> None:
    task = tasks.setup_task(Namespace(task="audio_pretraining"))
    for model in (models.build_model(Namespace(**TINY), task), task.build_model(Namespace(**TINY))):
        assert model.cfg.encoder_embed_dim == 8 and model.cfg.mask_prob == 0.4 and model.cfg.dropout == 0.1
    with pytest.raises(ValueError, match="multires_hubert"):
        models.build_model(Namespace(arch="multires_hubert"), task)


def test_criterion_and_optimizer_of_old_arguments(tmp_path: Path) -> None:
    (tmp_path / "dict.ltr.txt").write_text("a 1\n| 1\n")
    task = tasks.setup_task(Namespace(task="audio_finetuning", data=str(tmp_path), labels="ltr"))
    criterion = criterions.build_criterion(
        Namespace(criterion="ctc", zero_infinity=True, sentence_avg=True, arch="wav2vec_ctc"), task
    )
    assert type(criterion) is CtcCriterion and criterion.zero_infinity is True and criterion.sentence_avg is True
    adam = optim.build_optimizer(
        Namespace(optimizer="adam", adam_betas="(0.9, 0.9)", lr="[0.5]"), [torch.nn.Parameter(torch.ones(1))]
    )
    assert adam.get_lr() == 0.5 and adam.param_groups[0]["betas"] == (0.9, 0.9)


def test_a_legacy_task_keeps_its_arguments() -> None:
    name = "a_legacy_task_of_this_test"
    cls = tasks.register_task(name)(type("OfThisTest", (LegacyFairseqTask,), {}))
    try:
        args = Namespace(task=name, data="/a:/b")
        task = tasks.setup_task(args)
        assert type(task) is cls and task.args is args and task.has_sharded_data("train") and task.datasets == {}
        assert task.build_model(Namespace(**TINY)).cfg.encoder_layers == 1
    finally:
        del tasks.TASK_REGISTRY[name]


def test_a_legacy_criterion_takes_the_arguments_as_they_are() -> None:
    args = Namespace(x=1)
    criterion = criterions.LegacyFairseqCriterion.build_criterion(args, None)
    assert criterion.args is args and criterion.padding_idx == -100


class Doubling(FairseqEncoder):
    def forward(self, src_tokens: Any, src_lengths: Any = None, **kwargs: Any) -> dict[str, Any]:
        return {"encoder_out": src_tokens * 2.0, "lengths": src_lengths, **kwargs}


def test_encoders_of_other_projects() -> None:
    model = FairseqEncoderModel(Doubling(None))
    out = model(torch.tensor([[0.0, 1.0]]), torch.tensor([2]), more=3)
    assert out["encoder_out"].tolist() == [[0, 2]] and out["more"] == 3 and model.max_positions() == 1_000_000
    assert model.get_normalized_probs(out, log_probs=False)[0].tolist() == pytest.approx([0.119203, 0.880797], abs=1e-6)
    net_input = {"src_tokens": torch.ones(1), "src_lengths": torch.ones(1), "prev_output_tokens": torch.ones(1)}
    assert "prev_output_tokens" not in model.encoder.forward_torchscript(net_input)
    with pytest.raises(NotImplementedError, match="FairseqEncoder does not implement forward"):
        FairseqEncoder(None)(torch.ones(1))


def test_embedding_starts_as_fairseqs() -> None:
    torch.manual_seed(0)
    layer = Embedding(2000, 16, padding_idx=1)
    # 16**-0.5
    assert layer.weight[1].abs().sum() == 0 and layer.weight[2:].std().item() == pytest.approx(0.25, rel=0.02)


def test_base_architecture_fills_in_what_is_missing() -> None:
    args = Namespace(mask_prob=0.65)
    base_architecture(args)
    assert (args.mask_prob, args.mask_channel_prob, args.layerdrop, args.apply_mask) == (0.65, 0.5, 0.0, False)


def parsed(dataclass: Any, words: list[str], **options: Any) -> dict[str, Any]:
    parser = argparse.ArgumentParser(argument_default=argparse.SUPPRESS if options.get("delete_default") else None)
    gen_parser_from_dataclass(parser, dataclass, **options)
    return vars(parser.parse_args(words))


def test_options_of_a_dataclass() -> None:
    words = ["--lr", "[0.1,0.2]", "--update-freq", "4", "--max-update", "7", "--sentence-avg", "--clip-norm", "2.5"]
    found = parsed(OptimizationConfig(), words)
    assert (found["lr"], found["update_freq"], found["max_update"], found["sentence_avg"]) == ([0.1, 0.2], [4], 7, True)
    assert found["clip_norm"] == 2.5 and found["max_epoch"] == 0
    assert parsed(CheckpointConfig(), ["--save-dir", "d"])["restore_file"] == "checkpoint_last.pt"


def test_options_have_fairseqs_older_names_and_choices() -> None:
    assert parsed(DatasetConfig(), ["--max-sentences", "3"])["batch_size"] == 3
    assert parsed(DatasetConfig(), ["--max-sentences-valid", "5"])["batch_size_valid"] == 5
    assert parsed(Wav2Vec2Config(), ["--extractor-mode", "layer_norm"])["extractor_mode"] == "layer_norm"
    with pytest.raises(SystemExit):
        parsed(Wav2Vec2Config(), ["--extractor-mode", "nothing"])


def test_options_without_defaults_and_with_a_prefix() -> None:
    assert parsed(OptimizationConfig(), ["--max-update", "7"], delete_default=True) == {"max_update": 7}
    assert parsed(OptimizationConfig(), ["--opt-max-update", "7"], delete_default=True, with_prefix="--opt") == {
        "opt_max_update": 7
    }


def test_progress_bar_by_old_arguments() -> None:
    args = Namespace(no_progress_bar=True, log_format=None, log_interval=7, tensorboard_logdir="", distributed_rank=0)
    bar = progress_bar.build_progress_bar(args, [1, 2], no_progress_bar="simple")
    assert type(bar) is progress_bar.SimpleProgressBar and bar.log_interval == 7 and list(bar) == [1, 2]


def test_path_manager_handles_local_files(tmp_path: Path) -> None:
    a, b = str(tmp_path / "x" / "a"), str(tmp_path / "x" / "b")
    PathManager.mkdirs(str(tmp_path / "x"))
    with PathManager.open(a, "w") as file:
        file.write("text")
    assert PathManager.copy(a, b) and not PathManager.copy(a, b) and PathManager.copy(a, b, overwrite=True)
    assert (
        PathManager.isfile(b)
        and sorted(PathManager.ls(str(tmp_path / "x"))) == ["a", "b"]
        and PathManager.get_local_path(b) == b
    )
    PathManager.rm(a)
    PathManager.rename(b, a)
    assert PathManager.exists(a) and not PathManager.exists(b) and not PathManager.islink(a)
    with pytest.raises(ValueError, match="register_handler is not offered"):
        PathManager.register_handler(None)
