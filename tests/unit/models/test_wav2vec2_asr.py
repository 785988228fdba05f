"""The fine-tuned model: how it is built from configs and checkpoints, and its forward pass."""

from __future__ import annotations

import logging
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from small_model import CONV, NO_DROPOUT

import fairseq  # noqa: F401 - registers what reads checkpoints
from fairseq.criterions.ctc import CtcCriterion, CtcCriterionConfig
from fairseq.data.dictionary import Dictionary
from fairseq.dataclass.utils import config_to_container
from fairseq.models import build_model
from fairseq.models.wav2vec import Wav2Vec2Config, Wav2Vec2Model
from fairseq.models.wav2vec.wav2vec2_asr import Wav2Vec2CtcConfig, Wav2VecCtc, Wav2VecEncoder
from tests.host_reads import HostReads
from tests.small_speech import PRETRAINING

W2V = {
    **PRETRAINING,
    "conv_feature_layers": CONV,
    **NO_DROPOUT,
    "mask_prob": 0.4,
    "dropout": 0.2,
    "encoder_layerdrop": 0.3,
    "feature_grad_mult": 0.5,
}
PARTIAL = {"model": W2V, "task": {"_name": "audio_pretraining", "data": "/gone"}, "common": {}, "optimizer": None}
TUNED = {
    "apply_mask": True,
    "mask_prob": 0.65,
    "mask_channel_prob": 0.5,
    "mask_channel_length": 4,
    "layerdrop": 0.1,
    "dropout": 0.05,
}


@pytest.fixture
def task() -> SimpleNamespace:
    dictionary = Dictionary()
    for letter in "|ABCD":
        dictionary.add_symbol(letter)
    return SimpleNamespace(target_dictionary=dictionary)


@pytest.fixture
def w2v_path(tmp_path: Path) -> str:
    torch.manual_seed(3)
    model = Wav2Vec2Model(W2V)
    state = {"cfg": PARTIAL, "model": model.state_dict(), "args": None}
    state["extra_state"] = {"ema": {name: tensor + 1 for name, tensor in model.state_dict().items()}}
    torch.save(state, tmp_path / "w2v.pt")
    return str(tmp_path / "w2v.pt")


def batch(lengths: tuple[int, ...] = (4000, 2900)) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        "source": torch.randn(len(lengths), max(lengths), generator=generator),
        "padding_mask": torch.arange(max(lengths)) >= torch.tensor(lengths).unsqueeze(1),
    }


# -- building ----------------------------------------------------------------------------------------------------------


def test_with_w2v_args_the_model_is_as_they_say(task: SimpleNamespace) -> None:
    """Free-standing structured config, unresolved interpolations, a path that is not there: nothing is opened or
    put over.
    """
    cfg = OmegaConf.structured(
        Wav2Vec2CtcConfig(w2v_path="/nowhere.pt", w2v_args=PARTIAL, feature_grad_mult=0.0, **TUNED)
    )
    model = Wav2VecCtc.build_model(cfg, task)
    encoder = model.w2v_encoder.w2v_model
    assert (
        encoder.cfg.mask_prob,
        encoder.cfg.dropout,
        encoder.cfg.encoder_layerdrop,
        encoder.cfg.feature_grad_mult,
    ) == (
        0.4,
        0.2,
        0.3,
        0.5,
    )
    assert encoder.cfg.mask_channel_prob == 0 and encoder.encoder.layerdrop == 0.3 and encoder.feature_grad_mult == 0.5
    assert model.w2v_encoder.apply_mask and model.w2v_encoder.proj.weight.shape == (9, 24)
    names = set(model.state_dict())
    assert {
        "w2v_encoder.proj.weight",
        "w2v_encoder.w2v_model.mask_emb",
        "w2v_encoder.w2v_model.layer_norm.weight",
    } <= names
    assert not any(part in name for name in names for part in ("quantizer", "project_q", "final_proj"))


def test_without_w2v_args_the_checkpoint_is_read_and_settings_are_baked(task: SimpleNamespace, w2v_path: str) -> None:
    cfg = OmegaConf.structured(Wav2Vec2CtcConfig(w2v_path=w2v_path, feature_grad_mult=0.0, **TUNED))
    model = Wav2VecCtc.build_model(cfg, task)
    encoder, baked = model.w2v_encoder.w2v_model, model.cfg.w2v_args.model
    for settings in (encoder.cfg, baked):
        assert (settings.mask_prob, settings.dropout, settings.encoder_layerdrop, settings.feature_grad_mult) == (
            0.65,
            0.05,
            0.1,
            0,
        )
        assert (settings.mask_channel_prob, settings.mask_channel_length, settings.encoder_embed_dim) == (0.5, 4, 24)
    assert torch.equal(encoder.mask_emb, torch.load(w2v_path, weights_only=True)["model"]["mask_emb"])
    # from what is baked the same model is built again, without the file
    Path(w2v_path).unlink()
    again = Wav2VecCtc.build_model(OmegaConf.create(OmegaConf.to_container(model.cfg)), task)
    again.load_state_dict(model.state_dict())
    assert dict(again.w2v_encoder.w2v_model.cfg) == dict(encoder.cfg)


@pytest.mark.parametrize("w2v_args", [None, PARTIAL], ids=["read", "given"])
def test_through_the_registry(task: SimpleNamespace, w2v_path: str, w2v_args: Any) -> None:
    cfg = OmegaConf.create(
        {"_name": "wav2vec_ctc", "w2v_path": w2v_path, "w2v_args": w2v_args, "of_another_version": 1}
    )
    model = build_model(cfg, task, from_checkpoint=True)
    assert isinstance(model, Wav2VecCtc) and model.cfg.w2v_args.model.encoder_embed_dim == 24


def test_options_of_the_start(task: SimpleNamespace, w2v_path: str) -> None:
    stored = torch.load(w2v_path, weights_only=True)["model"]["encoder.layers.1.fc1.weight"]

    def start(**options: Any) -> Wav2VecCtc:
        return Wav2VecCtc.build_model(Wav2Vec2CtcConfig(w2v_path=w2v_path, **options), task)

    def weight(model: Wav2VecCtc) -> torch.Tensor:
        return model.w2v_encoder.w2v_model.encoder.layers[1].fc1.weight

    assert torch.equal(weight(start()), stored)
    assert not torch.equal(weight(start(no_pretrained_weights=True)), stored)
    assert torch.equal(weight(start(load_ema=True)), stored + 1)
    assert not start(zero_mask=True).w2v_encoder.w2v_model.mask_emb.any()
    frozen = start(freeze_regex=r"w2v_model\.feature_extractor")
    assert all(p.requires_grad != ("feature_extractor" in name) for name, p in frozen.named_parameters())
    with pytest.raises(ValueError, match="freeze_regex='\\('"):
        start(freeze_regex="(")


@pytest.mark.parametrize("name", ["data2vec_multi", "wav2vec_seq2seq"])
def test_other_kinds_are_refused_by_name(task: SimpleNamespace, tmp_path: Path, name: str) -> None:
    torch.save({"cfg": {"model": {"_name": name}}, "model": {}}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=f"other.pt.*'{name}'"):
        Wav2VecCtc.build_model(Wav2Vec2CtcConfig(w2v_path=str(tmp_path / "other.pt")), task)
    with pytest.raises(ValueError, match=f"'{name}'"):
        Wav2VecCtc.build_model(Wav2Vec2CtcConfig(w2v_args={"model": {"_name": name}}), task)


def test_paths_that_are_not_there_are_named(task: SimpleNamespace) -> None:
    with pytest.raises(ValueError, match="model.w2v_path is not set"):
        Wav2VecCtc.build_model(Wav2Vec2CtcConfig(), task)
    with pytest.raises(ValueError, match="w2v_path=gone.pt"):
        Wav2VecCtc.build_model(Wav2Vec2CtcConfig(w2v_path="gone.pt"), task)


def test_a_fine_tuned_checkpoint_gives_its_head_only_to_its_dictionary(
    task: SimpleNamespace, w2v_path: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tuned = Wav2VecCtc.build_model(Wav2Vec2CtcConfig(w2v_path=w2v_path, **TUNED), task)
    torch.nn.init.normal_(tuned.w2v_encoder.proj.weight)
    cfg = {"model": {**config_to_container(tuned.cfg), "_name": "wav2vec_ctc"}}
    state = {
        "cfg": cfg,
        "model": tuned.state_dict(),
        "task_state": {"target_symbols": task.target_dictionary.state_dict()},
    }
    torch.save(state, tmp_path / "tuned.pt")
    start = Wav2Vec2CtcConfig(w2v_path=str(tmp_path / "tuned.pt"))
    with caplog.at_level(logging.INFO):
        same = Wav2VecCtc.build_model(start, task)
    assert (
        torch.equal(same.w2v_encoder.proj.weight, tuned.w2v_encoder.proj.weight) and "output layer: from" in caplog.text
    )
    other = Dictionary()
    for letter in "|ABDC":
        other.add_symbol(letter)
    new = Wav2VecCtc.build_model(start, SimpleNamespace(target_dictionary=other))
    assert (
        not torch.equal(new.w2v_encoder.proj.weight, tuned.w2v_encoder.proj.weight)
        and "another dictionary" in caplog.text
    )
    assert torch.equal(new.w2v_encoder.w2v_model.mask_emb, tuned.w2v_encoder.w2v_model.mask_emb)


# -- the encoder alone, as other projects build it ---------------------------------------------------------------------


def as_struct(values: dict[str, Any]) -> Any:
    cfg = OmegaConf.create(values)
    OmegaConf.set_struct(cfg, True)
    return cfg


@pytest.mark.parametrize(
    "form", [lambda values: Namespace(**values), dict, as_struct], ids=["Namespace", "dict", "DictConfig"]
)
def test_an_encoder_reads_its_w2v_path(w2v_path: str, form: Callable[[dict[str, Any]], Any]) -> None:
    """The config lacks keys that are newer than it (zero_mask, freeze_regex ...) and has some of other parts of a
    program.
    """
    cfg = form({"w2v_path": w2v_path, "w2v_args": None, "of_a_decoder": 3, "save_dir": "x", **TUNED})
    encoder = Wav2VecEncoder(cfg, 32)
    stored = torch.load(w2v_path, weights_only=True)["model"]
    assert torch.equal(encoder.w2v_model.encoder.layers[1].fc1.weight, stored["encoder.layers.1.fc1.weight"])
    assert (encoder.proj.out_features, encoder.apply_mask) == (32, True)
    assert (encoder.w2v_model.mask_prob, encoder.w2v_model.encoder.layerdrop) == (0.65, 0.1)
    kept = vars(cfg)["w2v_args"] if isinstance(cfg, Namespace) else cfg["w2v_args"]
    assert kept["model"]["encoder_embed_dim"] == 24 and kept["model"]["mask_prob"] == 0.65
    Path(w2v_path).unlink()
    again = Wav2VecEncoder(cfg, 32)  # from what the config has now
    again.load_state_dict(encoder.state_dict())


@pytest.mark.parametrize(
    "w2v_args", [PARTIAL, OmegaConf.create(PARTIAL), Namespace(arch="wav2vec2", task="audio_pretraining", **W2V)]
)
def test_an_encoder_of_arguments_with_w2v_args_opens_nothing(w2v_args: Any) -> None:
    encoder = Wav2VecEncoder(Namespace(w2v_path="/nowhere.pt", w2v_args=w2v_args, apply_mask=True))
    assert encoder.proj is None and encoder.w2v_model.mask_prob == 0.4 and encoder.w2v_model.cfg.encoder_embed_dim == 24


def test_options_of_an_encoder(w2v_path: str) -> None:
    def built(output_size: int | None = None, **values: Any) -> Wav2VecEncoder:
        return Wav2VecEncoder(Namespace(w2v_path=w2v_path, w2v_args=None, **values), output_size)

    stored = torch.load(w2v_path, weights_only=True)["model"]["mask_emb"]
    assert not torch.equal(built(no_pretrained_weights=True).w2v_model.mask_emb, stored)
    assert not built(zero_mask=True).w2v_model.mask_emb.any()
    assert built(decoder_embed_dim=24).proj is None
    assert built(decoder_embed_dim=12).proj.out_features == 12
    assert built(7, decoder_embed_dim=12).proj.out_features == 7
    with pytest.raises(ValueError, match="model.w2v_path is not set"):
        Wav2VecEncoder(Namespace(w2v_args=None))


def test_an_encoders_output_in_another_order(w2v_path: str) -> None:
    encoder = Wav2VecEncoder({"w2v_path": w2v_path, "w2v_args": None}, 5).eval()
    output = encoder(**batch())
    turned = encoder.reorder_encoder_out(output, torch.tensor([1, 0, 1]))
    assert torch.equal(turned["encoder_out"], output["encoder_out"][:, [1, 0, 1]])
    assert torch.equal(turned["padding_mask"], output["padding_mask"][[1, 0, 1]])
    alone = encoder(batch()["source"], torch.zeros(2, 4000, dtype=torch.long))  # no padding
    assert (
        encoder.reorder_encoder_out(alone, torch.tensor([1]))["padding_mask"] is None
        and encoder.max_positions() is None
    )


# -- the forward pass --------------------------------------------------------------------------------------------------


def make(task: SimpleNamespace, **options: Any) -> Wav2VecCtc:
    torch.manual_seed(5)
    w2v = {**W2V, "dropout": 0.0, "encoder_layerdrop": 0.0, **options.pop("w2v", {})}
    return Wav2VecCtc.build_model(Wav2Vec2CtcConfig(w2v_args={"model": w2v}, **options), task)


def test_shapes_and_padded_frames(task: SimpleNamespace) -> None:
    model = make(task).eval()
    output = model(**batch())
    T = output["encoder_out"].size(0)
    assert output["encoder_out"].shape == (T, 2, 9) and output["padding_mask"].shape == (2, T)
    probs = model.get_normalized_probs(output, log_probs=False)
    padded = output["padding_mask"].t()
    assert padded.any() and (probs[padded][:, 0] == 1).all() and (probs[padded][:, 1:] == 0).all()
    assert torch.allclose(model.get_normalized_probs(output, log_probs=True).exp(), probs)
    alone = model(source=batch()["source"][:1], padding_mask=None)
    assert alone["padding_mask"] is None
    for dtype in (torch.uint8, torch.int64, torch.float32):
        again = model(source=batch()["source"], padding_mask=batch()["padding_mask"].to(dtype))
        assert torch.equal(again["encoder_out"], output["encoder_out"]) and torch.equal(
            again["padding_mask"], output["padding_mask"]
        )
        assert model(source=batch()["source"], padding_mask=torch.zeros(2, 4000, dtype=dtype))["padding_mask"] is None


@pytest.mark.parametrize("mode", ["add", "set"])
def test_blank_modes(task: SimpleNamespace, mode: str) -> None:
    plain, weighted = make(task).eval(), make(task, blank_weight=2.5, blank_mode=mode).eval()
    output = plain(source=batch()["source"])
    before = output["encoder_out"].clone()
    logits = weighted.get_logits(output)
    assert torch.equal(logits[..., 1:], before[..., 1:]) and torch.equal(output["encoder_out"], before)
    expected = before[..., 0] + 2.5 if mode == "add" else torch.full_like(before[..., 0], 2.5)
    assert torch.equal(logits[..., 0], expected)


def test_masks_in_training_only(task: SimpleNamespace) -> None:
    model = make(task, apply_mask=True, w2v={"mask_channel_prob": 0.5})
    inputs = batch((4000, 4000))
    T = model.eval()(**inputs)["encoder_out"].size(0)
    given = {
        "mask_indices": torch.zeros(2, T, dtype=torch.bool),
        "mask_channel_indices": torch.zeros(2, 24, dtype=torch.bool),
    }
    plain = model(**inputs)["encoder_out"]
    assert torch.equal(model(**inputs, **given)["encoder_out"], plain)
    model.train()
    assert torch.equal(model(**inputs, **given)["encoder_out"], plain)  # masks of nothing
    given["mask_indices"][0, 3:9] = True
    masked = model(**inputs, **given)["encoder_out"]
    assert not torch.allclose(masked[:, 0], plain[:, 0]) and torch.equal(masked[:, 1], plain[:, 1])
    assert not torch.allclose(model(**inputs)["encoder_out"], plain)  # draws its own where none are given
    off = make(task, w2v={"mask_channel_prob": 0.5}).train()
    assert torch.equal(off(**inputs, **given)["encoder_out"], plain)


@pytest.mark.parametrize("every_parameter", [False, True], ids=["one process", "several"])
def test_freezing_and_gradients(task: SimpleNamespace, every_parameter: bool) -> None:
    """Frozen, the output layer alone learns; then all but a feature extractor of feature_grad_mult 0. With several
    processes each parameter has a gradient, of zeros where it does not learn."""
    model = make(task, freeze_finetune_updates=3, apply_mask=True, w2v={"feature_grad_mult": 0.0}).train()
    model.w2v_encoder.w2v_model.encoder.static_layerdrop = every_parameter
    for num_updates in (2, 3):
        model.zero_grad()
        model.set_num_updates(num_updates)
        model(**batch())["encoder_out"].square().sum().backward()
        frozen = set(model.frozen_parameters())
        for name, parameter in model.named_parameters():
            learns = "proj" in name.split(".") or (num_updates == 3 and "feature_extractor" not in name)
            assert (parameter in frozen) == (not learns), name
            if every_parameter:
                assert parameter.grad is not None, name
            elif not learns:
                assert parameter.grad is None, name
            if "layers.0.fc1" in name or "feature_extractor" in name or name.startswith("w2v_encoder.proj"):
                assert (parameter.grad is not None and bool(parameter.grad.any())) == learns, name


@pytest.mark.parametrize("frozen", [0, 9])
def test_a_training_step_never_waits_for_the_device(task: SimpleNamespace, frozen: int) -> None:
    model = make(
        task, apply_mask=True, freeze_finetune_updates=frozen, w2v={"mask_channel_prob": 0.5, "encoder_layerdrop": 0.5}
    ).train()
    inputs = batch()
    T = 49
    inputs |= {"mask_indices": torch.rand(2, T) < 0.3, "mask_channel_indices": torch.rand(2, 24) < 0.3}
    sample = {"net_input": inputs, "target": torch.tensor([[5, 6, 4], [5, 1, 1]]), "id": torch.arange(2)}
    sample |= {
        "target_lengths": torch.tensor([3, 1]),
        "input_lengths": torch.tensor([49, 35]),
        "target_weights": torch.ones(2),
    }
    criterion = CtcCriterion(CtcCriterionConfig(zero_infinity=True, sentence_avg=True), task)
    with HostReads() as reads, torch.autocast("cpu", torch.bfloat16):
        loss, _, log = criterion(model, sample)
        loss.backward()
    assert reads.operators > 100 and not reads.found
    assert all(isinstance(value, torch.Tensor) and value.dim() == 0 for value in log.values())


def test_pretraining_config_has_a_field_for_each_replaced_one() -> None:
    from fairseq.models.wav2vec.pretrained import REPLACED

    assert set(REPLACED) <= set(Wav2Vec2CtcConfig.field_defaults()) and set(REPLACED.values()) <= set(
        Wav2Vec2Config.field_defaults()
    )
