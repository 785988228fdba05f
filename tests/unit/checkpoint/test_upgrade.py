"""Configs and states of other generations, brought up to date when a file is read."""

from __future__ import annotations

import logging
import shutil
from argparse import Namespace

import pytest
import torch

from fairseq import checkpoint_utils
from fairseq.checkpoint import io
from fairseq.checkpoint.upgrade import upgrade
from fairseq.models.wav2vec import pretrained

OLD_PRETRAINING = {
    "arch": "wav2vec2",
    "task": "audio_pretraining",
    "criterion": "wav2vec",
    "data": "/gone",
    "normalize": False,
    "sample_rate": 16000,
    "optimizer": "adam",
    "adam_betas": "(0.9, 0.98)",
    "lr": [0.0005],
    "lr_scheduler": "polynomial_decay",
    "total_num_update": 400000,
    "warmup_updates": 32000,
    "infonce": True,
    "loss_weights": [0.1, 10.0],
    "max_sentences": 4,
    "ddp_backend": "no_c10d",
    "encoder_layers": 1,
    "encoder_embed_dim": 16,
    "encoder_ffn_embed_dim": 24,
    "encoder_attention_heads": 2,
    "final_dim": 8,
    "conv_feature_layers": "[(8, 10, 5)] + [(8, 3, 2)] * 2",
    "latent_temp": "(2.0, 0.5, 0.999995)",
    "latent_vars": 4,
    "conv_pos": 8,
    "conv_pos_groups": 2,
    "quantize_targets": True,
    "feature_grad_mult": 0.1,
    "no_such_setting": 3,
    "another_module's": "x",
}
OLD_FINE_TUNING = {
    "arch": "wav2vec_ctc",
    "task": "audio_pretraining",
    "labels": "ltr",
    "criterion": "ctc",
    "data": "/gone",
    "normalize": False,
    "remove_bpe": "letter",
    "zero_infinity": True,
    "w2v_path": "/gone/small.pt",
    "apply_mask": True,
    "mask_prob": 0.5,
    "optimizer": "adam",
    "lr_scheduler": "tri_stage",
    "phase_ratio": "[0.1, 0.4, 0.5]",
    "lr": [3e-5],
    "final_dropout": 0.1,
    "freeze_finetune_updates": 10000,
}
LETTERS = ["|", "E", "T", "A"]


def old_fine_tuned(**changes):
    """As fairseq before 0.10 wrote it: no cfg, no task_state."""
    inner = Namespace(**OLD_PRETRAINING)
    cfg = upgrade({"args": Namespace(**vars(inner)), "model": {}}, "x.pt")["cfg"]
    from fairseq.models.wav2vec import Wav2Vec2Model

    torch.manual_seed(0)
    model = Wav2Vec2Model({key: value for key, value in cfg["model"].items() if key != "_name"})
    model.remove_pretraining_modules()
    weights = {pretrained.ENCODER + name: tensor.half() for name, tensor in model.state_dict().items()}
    weights |= {pretrained.HEAD + "weight": torch.randn(8, 16).half(), pretrained.HEAD + "bias": torch.zeros(8).half()}
    args = Namespace(**{**OLD_FINE_TUNING, **changes}, w2v_args=inner)
    return {
        "args": args,
        "model": weights,
        "optimizer_history": [{"num_updates": 7}],
        "extra_state": {"train_meters": {"a": 1}},
    }


def test_arguments_become_a_config(caplog):
    with caplog.at_level(logging.INFO):
        state = upgrade({"args": Namespace(**OLD_PRETRAINING), "model": {}}, "x.pt")
    cfg = state["cfg"]
    assert state["args"] is None and cfg["model"]["_name"] == "wav2vec2" and cfg["model"]["encoder_embed_dim"] == 16
    assert cfg["model"]["latent_temp"] == [2.0, 0.5, 0.999995] and cfg["task"]["_name"] == "audio_pretraining"
    assert cfg["optimizer"]["adam_betas"] in ("(0.9, 0.98)", [0.9, 0.98]) and cfg["optimization"]["lr"] == [0.0005]
    assert cfg["dataset"]["batch_size"] == 4 and cfg["lr_scheduler"]["warmup_updates"] == 32000
    (line,) = [record.message for record in caplog.records]
    assert line == "x.pt: ignored settings of another fairseq version: another_module's, no_such_setting"


@pytest.mark.parametrize("as_zip", [True, False], ids=["zip", "stream"])
def test_an_old_fine_tuned_file(as_zip, tmp_path):
    """Namespaces inside each other, fp16 weights, task audio_pretraining, the dictionary only in the data folder."""
    path = str(tmp_path / "old.pt")
    torch.save(old_fine_tuned(), path, _use_new_zipfile_serialization=as_zip)
    with pytest.raises(
        ValueError,
        match=r"old\.pt is fine-tuned but holds no dictionary, and /gone/dict\.ltr\.txt does not exist.*--dict",
    ):
        checkpoint_utils.load_model_ensemble_and_task([path])
    (tmp_path / "dict.ltr.txt").write_text("".join(f"{letter} 1\n" for letter in LETTERS))
    (model,), cfg, task = checkpoint_utils.load_model_ensemble_and_task([path], arg_overrides={"data": str(tmp_path)})
    assert type(model).__name__ == "Wav2VecCtc" and cfg.task._name == "audio_finetuning" and cfg.task.labels == "ltr"
    assert task.target_dictionary.symbols == ["<s>", "<pad>", "</s>", "<unk>", *LETTERS]
    assert cfg.criterion.post_process == "letter" and cfg.criterion.zero_infinity and cfg.model.final_dropout == 0.1
    assert model.w2v_encoder.w2v_model.cfg.encoder_layers == 1 and model.w2v_encoder.frozen
    saved = io.load(path)
    assert all(torch.equal(tensor, saved["model"][name].float()) for name, tensor in model.state_dict().items())
    assert "train_meters" not in saved["extra_state"]


def test_it_is_found_again_wherever_it_is_moved(tmp_path):
    (tmp_path / "dict.ltr.txt").write_text("".join(f"{letter} 1\n" for letter in LETTERS))
    torch.save(old_fine_tuned(data=str(tmp_path)), tmp_path / "old.pt")
    (tmp_path / "elsewhere").mkdir()
    shutil.move(tmp_path / "old.pt", tmp_path / "elsewhere" / "old.pt")
    checkpoint_utils.load_model_ensemble_and_task([str(tmp_path / "elsewhere" / "old.pt")])


def test_groups_of_another_generation(caplog):
    cfg = {
        "model": Namespace(arch="wav2vec2", encoder_layers=2, seen_once=1),
        "task": {"_name": "audio_pretraining", "data": "x", "from_the_future": 1},
        "job_logging_cfg": {"version": 1},
        "ema": {"ema_decay": 0.9},
    }
    with caplog.at_level(logging.INFO):
        upgraded = upgrade({"cfg": cfg, "model": {}}, "x.pt")["cfg"]
    assert upgraded == {
        "model": {"_name": "wav2vec2", "encoder_layers": 2},
        "task": {"_name": "audio_pretraining", "data": "x"},
        "ema": {"ema_decay": 0.9},
    }
    assert "model.arch, model.seen_once, task.from_the_future" in caplog.text


def test_todays_files_pass_unchanged(caplog):
    cfg = {
        "model": {"_name": "wav2vec2", "encoder_layers": 2},
        "task": {"_name": "audio_pretraining"},
        "common": {"seed": 1},
    }
    weight = torch.ones(2, 3, 4)
    metrics = {"train": [(10, "loss", "AverageMeter", {"val": 1})]}
    state = {
        "cfg": cfg,
        "model": {"w": weight},
        "extra_state": {"metrics": metrics},
        "last_optimizer_state": {"state": {0: {"step": 1}}},
    }
    with caplog.at_level(logging.INFO):
        upgraded = upgrade({**state}, "x.pt")
    assert upgraded["cfg"] == cfg and upgraded["model"]["w"] is weight and upgraded["extra_state"]["metrics"] == metrics
    assert caplog.text == ""


def test_the_update_number_is_no_metric():
    meters = [(200, "num_updates", "AverageMeter", {"val": 3}), (10, "loss", "AverageMeter", {"val": 1})]
    state = upgrade({"model": {}, "extra_state": {"metrics": {"train_inner": meters}}}, "x.pt")
    assert state["extra_state"]["metrics"] == {"train_inner": meters[1:]}


def test_4d_weights_and_the_loss_scale():
    entry = {"step": 3, "exp_avg": torch.zeros(4, 2, 1, 5), "exp_avg_sq": torch.ones(4, 2, 1, 5)}
    state = upgrade(
        {
            "model": {"conv": torch.ones(4, 2, 1, 5), "square": torch.ones(4, 2, 3, 5)},
            "last_optimizer_state": {"state": {0: entry}, "param_groups": [], "loss_scale": 32},
            "extra_state": {},
        },
        "x.pt",
    )
    assert state["model"]["conv"].shape == (4, 2, 5) and state["model"]["square"].shape == (4, 2, 3, 5)
    optimizer = state["last_optimizer_state"]
    assert optimizer["state"][0]["exp_avg"].shape == optimizer["state"][0]["exp_avg_sq"].shape == (4, 2, 5)
    assert state["extra_state"]["precision"] == {"scale": 32.0, "good_updates": 0.0} and "loss_scale" not in optimizer
