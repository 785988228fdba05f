"""Models built from checkpoints: their configs inside, overrides, averaged weights, pruning."""

from __future__ import annotations

import os

import pytest
import torch
from omegaconf import DictConfig
from torch import nn

from fairseq import checkpoint_utils
from fairseq.checkpoint import io
from fairseq.conversion import portable_model
from fairseq.models import build_model

CFG = {"model": {"dim": 3, "dropout": 0.1}, "task": {"_name": "small", "data": "/data"}, "optimizer": {"dropout": 7}}


class Model(nn.Linear):
    def __init__(self, cfg):
        super().__init__(cfg.dim, 2)
        self.cfg = cfg

    def set_num_updates(self, num_updates):
        self.num_updates = num_updates

    def load_state_dict(self, state_dict, strict=True, model_cfg=None):
        return super().load_state_dict(checkpoint_utils.prune_state_dict(state_dict, model_cfg), strict)


class Task:
    def __init__(self):
        self.state = None

    def build_model(self, cfg, from_checkpoint=False):
        assert from_checkpoint
        return Model(cfg)

    def load_state_dict(self, state):
        self.state = state


def write(path, cfg=CFG, **entries):
    torch.manual_seed(0)
    weights = {"weight": torch.randn(2, 3), "bias": torch.randn(2)}
    history = [{"num_updates": 17}]
    return io.save(
        {"cfg": cfg, "model": weights, "optimizer_history": history, "task_state": {"seen": 1}, **entries}, path
    )


def test_models_come_with_their_config_and_weights(tmp_path):
    paths = [write(tmp_path / "a.pt"), write(tmp_path / "b.pt")]
    task = Task()
    models, cfg, same = checkpoint_utils.load_model_ensemble_and_task(paths, {"dropout": 0.5}, task=task)
    assert same is task and task.state == {"seen": 1} and len(models) == 2
    assert isinstance(cfg, DictConfig) and models[0].cfg.dropout == 0.5
    assert torch.equal(models[1].weight, io.load(paths[1])["model"]["weight"]) and models[1].num_updates == 17


def test_suffix_state_and_not_strict(tmp_path):
    write(tmp_path / "a-x.pt")
    models, _ = checkpoint_utils.load_model_ensemble([str(tmp_path / "a.pt")], task=Task(), suffix="-x")
    assert models[0].num_updates == 17
    state = checkpoint_utils.load_checkpoint_to_cpu(str(tmp_path / "a-x.pt"))
    del state["model"]["bias"]
    with pytest.raises(RuntimeError, match="bias"):
        checkpoint_utils.load_model_ensemble(["any.pt"], task=Task(), state=state)
    assert checkpoint_utils.load_model_ensemble(["any.pt"], task=Task(), state=state, strict=False)[0]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A checkpoint of a real model of two narrow blocks, as a state to change."""
    torch.manual_seed(1)
    model = {
        "_name": "wav2vec2",
        "encoder_layers": 2,
        "encoder_embed_dim": 16,
        "encoder_ffn_embed_dim": 16,
        "encoder_attention_heads": 2,
        "final_dim": 8,
        "conv_feature_layers": "[(8,10,5)] + [(8,3,2)] * 2",
        "conv_pos": 8,
        "conv_pos_groups": 2,
        "quantize_targets": True,
        "latent_vars": 4,
    }
    task = {"_name": "audio_pretraining", "data": "gone", "normalize": True}
    weights = build_model(model).state_dict()

    def make(path, weights_too=None, **changes):
        kind = changes.pop("task", task)
        torch.save(
            {
                "cfg": {"model": {**model, **changes}, "task": kind},
                "model": {**weights, **(weights_too or {})},
                "args": None,
            },
            path,
        )
        return str(path)

    return make


@pytest.mark.parametrize(
    "changes",
    [
        {"encoder_layers": 10**9},
        {"encoder_embed_dim": 10**6},
        {"conv_pos": 10**9},
        {"conv_pos": 10**7},
        {"latent_vars": 10**9},
        {"final_dim": 10**9},
        {"quantizer_depth": 10**9, "quantizer_factor": 1},
        {"conv_feature_layers": "[(8,10,5)] * 1000000000"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_config_far_larger_than_its_weights_is_refused_at_once(tmp_path, small, changes):
    path = small(tmp_path / "huge.pt", **changes)
    key, value = next(iter(changes.items()))
    said = (
        "at most 1000 layers"
        if isinstance(value, str)
        else f"a far larger model .* The largest value in its config is model.{key}={value}"
    )
    with pytest.raises(ValueError, match=rf"huge\.pt: .*{said}"):
        checkpoint_utils.load_model_ensemble([path])
    state = io.load(path)
    with pytest.raises(ValueError):
        portable_model.build(portable_model.from_checkpoint(state, path))


@pytest.mark.parametrize(
    "changes",
    [
        {"encoder_layers": "many"},
        {"encoder_attention_heads": 0},
        {"encoder_attention_heads": 3},
        {"conv_pos_groups": 5},
    ],
)
def test_a_config_that_no_model_can_have_names_the_file(tmp_path, small, changes):
    path = small(tmp_path / "odd.pt", **changes)
    with pytest.raises(ValueError, match=r"odd\.pt"):
        checkpoint_utils.load_model_ensemble([path])


def test_weights_unlike_their_config_are_listed(tmp_path, small):
    path = small(tmp_path / "deep.pt", encoder_layers=3)
    with pytest.raises(
        ValueError, match=r"deep\.pt: its weights do not fit its config: encoder\.layers\.2.* is missing"
    ):
        checkpoint_utils.load_model_ensemble([path])
    path = small(tmp_path / "mms.pt", weights_too={"encoder.layers.0.adapter_layer.W_a": torch.zeros(2)})
    with pytest.raises(ValueError, match=r"adapter_layer\.W_a is unexpected\. Its blocks have adapters, as in MMS"):
        checkpoint_utils.load_model_ensemble([path])


def test_a_task_that_is_not_offered_gives_way_to_the_model_s_own(tmp_path, small):
    path = small(
        tmp_path / "xlsr.pt", task={"_name": "temp_sampled_audio_pretraining", "normalize": True, "sampling_alpha": 0.5}
    )
    _, _, task = checkpoint_utils.load_model_ensemble_and_task([path])
    assert task.cfg._name == "audio_pretraining" and task.cfg.normalize is True


def test_a_real_model_with_its_task(shared_dir):
    path = shared_dir / "reference" / "parity" / "base.pt"  # a partial config: a model and no task
    if not path.exists():
        pytest.skip("no reference model")
    models, cfg, task = checkpoint_utils.load_model_ensemble_and_task([str(path)])
    saved = torch.load(path, weights_only=True)["model"]
    assert list(models[0].state_dict()) == list(saved) and cfg.task._name == "audio_pretraining"
    assert all(torch.equal(value, saved[name]) for name, value in models[0].state_dict().items())


def test_mistakes_are_named(tmp_path):
    path = write(tmp_path / "a.pt")
    with pytest.raises(ValueError, match="sharded"):
        checkpoint_utils.load_model_ensemble([path], task=Task(), num_shards=2)
    with pytest.raises(ValueError, match="not found: none.pt"):
        checkpoint_utils.load_model_ensemble(["none.pt"], task=Task())
    with pytest.raises(ValueError, match="exactly one path"):
        checkpoint_utils.load_model_ensemble([path, path], task=Task(), state=io.load(path))
    with pytest.raises(ValueError, match="has no model config"):
        checkpoint_utils.load_model_ensemble([write(tmp_path / "b.pt", cfg=None)], task=Task())
    for kind in ("wav2vec_seq2seq", "data2vec_multi"):
        other = write(tmp_path / "other.pt", cfg={"model": {"_name": kind}, "task": {"_name": "audio_finetuning"}})
        with pytest.raises(
            ValueError,
            match=rf"other\.pt holds a model of type '{kind}', which is not supported. Supported types: .*wav2vec_ctc",
        ):
            checkpoint_utils.load_model_ensemble([other])
    torch.save({"cfg": CFG}, tmp_path / "none.pt")
    for read in (io.load, checkpoint_utils.load_pretrained, lambda path: checkpoint_utils.load_model_ensemble([path])):
        with pytest.raises(ValueError, match=r"none\.pt is not a checkpoint: it has no entry 'model', only cfg\."):
            read(str(tmp_path / "none.pt"))
    with pytest.raises(ValueError, match="checkpoint.async_save=true"):
        checkpoint_utils.torch_persistent_save({}, str(tmp_path / "c.pt"), async_write=True)


def test_averaged_weights_become_a_model(tmp_path):
    average = {"weight": torch.ones(2, 3).half(), "bias": torch.zeros(2)}
    path = write(tmp_path / "a.pt", extra_state={"ema": average})
    checkpoint_utils.save_ema_as_checkpoint(path, str(tmp_path / "ema.pt"))
    model = checkpoint_utils.load_model_ensemble([str(tmp_path / "ema.pt")], task=Task())[0][0]
    assert model.weight.dtype == torch.float32 and torch.equal(model.weight, torch.ones(2, 3))
    with pytest.raises(ValueError, match="ema.store_ema"):
        checkpoint_utils.load_ema_from_checkpoint(write(tmp_path / "b.pt"))
    assert sorted(os.listdir(tmp_path)) == ["a.pt", "b.pt", "ema.pt"]


def test_layers_to_keep_are_numbered_anew():
    state = {f"encoder.layers.{i}.w": torch.tensor(i) for i in range(4)}
    state |= {"encoder.norm": torch.tensor(9), "decoder.layers.1.w": torch.tensor(5)}
    kept = checkpoint_utils.prune_state_dict(state, {"encoder_layers_to_keep": "3,1"})
    assert {name: value.item() for name, value in kept.items()} == {
        "encoder.layers.0.w": 1,
        "encoder.layers.1.w": 3,
        "encoder.norm": 9,
        "decoder.layers.1.w": 5,
    }
    assert checkpoint_utils.prune_state_dict(state, None) == state
