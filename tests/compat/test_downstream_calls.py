"""How other projects load and call models: their calls, in our words, on small checkpoints. A project's name is its
test's.

Looked up in the projects' public sources; what they compute with the features afterwards is left out.
"""

from __future__ import annotations

import ast
import copy
import dataclasses
import os
import subprocess
import sys
import warnings
from argparse import Namespace
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from omegaconf import DictConfig, OmegaConf, open_dict
from torch import Tensor, nn

import fairseq
import fairseq.checkpoint_utils
from fairseq.data import Dictionary
from fairseq.dataclass.utils import config_to_container
from fairseq.models.wav2vec import Wav2Vec2Config, Wav2Vec2CtcConfig, Wav2Vec2Model, Wav2VecCtc
from fairseq.models.wav2vec import wav2vec2 as wav2vec2_module
from fairseq.models.wav2vec.wav2vec2_asr import Wav2VecEncoder

CONV = "[(16, 10, 5)] + [(16, 3, 2)] * 3 + [(16,2,2)]"  # 80 samples a frame; 4000 samples are 49 frames
SMALL = {
    "encoder_layers": 2,
    "encoder_embed_dim": 24,
    "encoder_ffn_embed_dim": 40,
    "encoder_attention_heads": 3,
    "conv_pos": 8,
    "conv_pos_groups": 4,
    "conv_feature_layers": CONV,
    "quantize_targets": True,
    "final_dim": 12,
    "latent_vars": 6,
}
LARGE = {**SMALL, "extractor_mode": "layer_norm", "layer_norm_first": True, "conv_bias": True, "dropout": 0.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """pretrained.pt, large.pt (on normalised audio), finetuned.pt and dict.ltr.txt."""
    folder = tmp_path_factory.mktemp("checkpoints")
    (folder / "dict.ltr.txt").write_text("".join(f"{letter} 1\n" for letter in "|ETAON"))
    symbols = Dictionary.load(str(folder / "dict.ltr.txt"))
    torch.manual_seed(0)
    for name, settings in (("pretrained", SMALL), ("large", LARGE)):
        config = Wav2Vec2Config(**settings)
        task = {"_name": "audio_pretraining", "data": "/gone", "normalize": name == "large", "sample_rate": 16000}
        save(
            folder / f"{name}.pt",
            {"model": {**config_to_container(config), "_name": "wav2vec2"}, "task": task},
            Wav2Vec2Model(config),
        )
    inner = {"model": {**SMALL, "_name": "wav2vec2"}, "task": {"_name": "audio_pretraining", "data": "/gone"}}
    tuned = Wav2Vec2CtcConfig(w2v_path="/gone.pt", w2v_args=inner, apply_mask=True, normalize=False, data="/gone")
    model = Wav2VecCtc.build_model(tuned, Namespace(target_dictionary=symbols))
    task = {"_name": "audio_finetuning", "data": "/gone", "labels": "ltr", "normalize": False}
    state = {"target_dictionary": symbols.state_dict()}
    save(
        folder / "finetuned.pt",
        {"model": {**config_to_container(tuned), "_name": "wav2vec_ctc"}, "task": task},
        model,
        task_state=state,
    )
    return folder


def save(path: Path, cfg: dict[str, Any], model: nn.Module, **more: Any) -> None:
    state = {
        "cfg": cfg,
        "args": None,
        "model": model.state_dict(),
        "extra_state": {},
        "optimizer_history": [{"num_updates": 9}],
        **more,
    }
    torch.save(state, path)


@pytest.fixture(scope="module")
def path(folder: Path) -> str:
    return str(folder / "pretrained.pt")


@pytest.fixture(scope="module")
def audio() -> Tensor:
    return torch.randn(2, 4000, generator=torch.Generator().manual_seed(1))


def features(path: str, audio: Tensor, **arguments: Any) -> Tensor:
    """What all of these projects are after: the encoder's output in evaluation."""
    models, _, _ = fairseq.checkpoint_utils.load_model_ensemble_and_task([path])
    with torch.no_grad():
        return models[0].eval().extract_features(audio, None, **arguments)["x"]


def test_ssl_anti_spoofing(path: str, audio: Tensor) -> None:
    """B x S x 1 audio, the weights trained on with the rest."""
    model, cfg, task = fairseq.checkpoint_utils.load_model_ensemble_and_task([path])
    ssl = model[0]
    ssl.to(audio.device, dtype=audio.dtype)
    ssl.train()
    emb = ssl(audio.unsqueeze(-1)[:, :, 0], mask=False, features_only=True)["x"]
    assert emb.shape == (2, 49, 24)
    emb.mean().backward()
    assert ssl.encoder.layers[1].fc1.weight.grad.any() and ssl.feature_extractor.conv_layers[0][0].weight.grad.any()


def test_project_nn_pytorch_scripts(path: str, audio: Tensor) -> None:
    """The same with the weights fixed, in the dtype of the audio."""
    model, _, _ = fairseq.checkpoint_utils.load_model_ensemble_and_task([path])
    ssl, double = model[0], audio.double()
    if next(ssl.parameters()).device != double.device or next(ssl.parameters()).dtype != double.dtype:
        ssl.to(double.device, dtype=double.dtype)
        ssl.eval()
    with torch.no_grad():
        emb = ssl(double, mask=False, features_only=True)["x"]
    torch.testing.assert_close(emb.float(), features(path, audio), rtol=1e-4, atol=1e-4)


class MosPredictor(nn.Module):
    """Mean over time, one number."""

    def __init__(self, path: str) -> None:
        super().__init__()
        model, cfg, task = fairseq.checkpoint_utils.load_model_ensemble_and_task([path])
        self.ssl_model = model[0]
        self.ssl_model.remove_pretraining_modules()
        self.output_layer = nn.Linear(24, 1)

    def forward(self, wav: Tensor) -> Tensor:
        x = self.ssl_model(wav.squeeze(1), mask=False, features_only=True)["x"]
        return self.output_layer(torch.mean(x, 1)).squeeze(1)


def test_mos_finetune_ssl(path: str, audio: Tensor, tmp_path: Path) -> None:
    net = MosPredictor(path).train()
    nn.L1Loss()(net(audio.unsqueeze(1)), torch.tensor([3.0, 4.0])).backward()
    assert net.ssl_model.feature_extractor.conv_layers[0][0].weight.grad.any()
    torch.save(net.state_dict(), tmp_path / "ckpt_1")
    again = MosPredictor(path)
    again.load_state_dict(torch.load(tmp_path / "ckpt_1"))
    assert torch.equal(again.eval()(audio), net.eval()(audio))
    assert not any(part in name for name in net.state_dict() for part in ("quantizer", "final_proj", "project_q"))


def test_utmos22(path: str, audio: Tensor) -> None:
    model, cfg, task = fairseq.checkpoint_utils.load_model_ensemble_and_task([path])
    ssl_model = model[0].eval()
    ssl_model.remove_pretraining_modules()
    res = ssl_model({"wav": audio.unsqueeze(1)}["wav"].squeeze(1), mask=False, features_only=True)
    assert torch.equal(res["x"], features(path, audio))


def test_scoreq(path: str, audio: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.load replaced while it loads; traced at an odd count of frames, with its own pad_to_multiple, for any
    length.
    """
    plain_load = torch.load
    monkeypatch.setattr(torch, "load", lambda *args, **kwargs: plain_load(*args, **{**kwargs, "weights_only": False}))
    model, _, _ = fairseq.checkpoint_utils.load_model_ensemble_and_task([path])
    monkeypatch.undo()

    def with_tensors(x: Tensor | None, multiple: int, dim: int = -1, value: float = 0) -> tuple[Any, Any]:
        size = torch.tensor(float(x.size(dim)), device=x.device)
        added = (torch.ceil(size / multiple) * multiple - size).to(torch.long)
        return F.pad(x, (0,) * (-1 - dim) * 2 + (0, added), value=value), added

    class Embedding(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.ssl_model = model[0]

        def forward(self, wav: Tensor) -> Tensor:
            return F.normalize(torch.mean(self.ssl_model(wav, mask=False, features_only=True)["x"], 1), dim=1)

    model[0].remove_pretraining_modules()
    net = Embedding().eval()
    for patched in (False, True):
        if patched:
            monkeypatch.setattr(wav2vec2_module, "pad_to_multiple", with_tensors, raising=False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            graph = torch.jit.trace(net, audio[:1], check_trace=False)
        for length in (4000, 3920, 1000, 9999):
            wav = torch.randn(1, length)
            torch.testing.assert_close(graph(wav), net(wav), rtol=1e-4, atol=1e-5)


def test_ser_with_w2v2(path: str, audio: Tensor) -> None:
    """Overrides for every dropout, and for one that this model does not have."""
    names = (
        "activation_dropout",
        "attention_dropout",
        "dropout",
        "dropout_features",
        "dropout_input",
        "encoder_layerdrop",
    )
    override = dict.fromkeys((*names, "pooler_dropout"), 0.0)
    model, cfg, task = fairseq.checkpoint_utils.load_model_ensemble_and_task([path], arg_overrides=override)
    assert cfg.model.dropout == cfg.model.encoder_layerdrop == model[0].encoder.layers[0].dropout1.p == 0
    assert torch.equal(model[0].train().extract_features(audio, None)["x"], features(path, audio))  # nothing drops


def test_ft_w2v2_ser(path: str, audio: Tensor) -> None:
    """Frames counted from the config's own text."""
    model, cfg, task = fairseq.checkpoint_utils.load_model_ensemble_and_task([path])
    length = torch.tensor([4000, 2900])
    numbers = [ast.literal_eval(part) for part in ("(16,10,5)", *["(16,3,2)"] * 3, "(16,2,2)")]
    assert cfg["model"]["conv_feature_layers"] == CONV
    for _, kernel, stride in numbers:
        length = (length - kernel) // stride + 1
    assert model[0]._get_feat_extract_output_lengths(torch.tensor([4000, 2900])).tolist() == length.tolist()
    assert model[0].feature_extractor(audio).shape == (2, 16, length[0])


@pytest.mark.parametrize("kind", ["pretrained", "large"])
def test_speechbrain(folder: Path, audio: Tensor, kind: str) -> None:
    """Overrides inside a group, one of them misspelt; modules set to None by hand; a mask from relative lengths."""
    path = str(folder / f"{kind}.pt")
    overrides = {"model": {"dropout": 0.2, "dropout_input": 0.2, "attention_dropout": 0.2, "layer_drop": 0.1}}
    model, cfg, task = fairseq.checkpoint_utils.load_model_ensemble_and_task([path], arg_overrides=overrides)
    model = model[0]
    assert hasattr(cfg["task"], "normalize") and cfg["task"].normalize == (kind == "large")
    assert model.dropout_input.p == model.encoder.layers[0].self_attn.dropout_module.p == 0.2
    model.feature_extractor.eval()
    for name in ("quantizer", "project_q", "target_glu", "final_proj"):
        setattr(model, name, None)
    wav = F.layer_norm(audio, audio.shape[1:]) if cfg["task"].normalize else audio
    lengths = torch.round(torch.tensor([1.0, 0.6]) * wav.shape[1])
    mask = ~(torch.arange(wav.shape[1]) < lengths.unsqueeze(1)).bool()
    with torch.no_grad():
        out = model.eval().extract_features(wav, padding_mask=mask, mask=False)["x"]
        alone = model.extract_features(wav[1:, : int(lengths[1])], padding_mask=None, mask=False)["x"]
    assert out.shape == (2, 49, 24)
    if kind == "large":  # its norms see no padding
        torch.testing.assert_close(out[1:, : alone.size(1)], alone, rtol=1e-3, atol=1e-3)
    before = model.encoder.layers[0].fc1.weight.clone()
    for module in model.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    assert not torch.equal(model.encoder.layers[0].fc1.weight, before)


def fixed_by_s3prl(state: dict[str, Any]) -> dict[str, Any]:
    """Groups and task settings that a plain audio_pretraining does not have are taken out."""
    from fairseq.tasks.audio_pretraining import AudioPretrainingConfig

    cfg, known = state["cfg"], [field.name for field in dataclasses.fields(AudioPretrainingConfig)]
    with open_dict(cfg) if isinstance(cfg, DictConfig) else torch.no_grad():
        for key in [key for key in cfg if key not in ("task", "model")]:
            cfg.pop(key)
        for key in [key for key in cfg["task"] if key not in known]:
            cfg["task"].pop(key)
    state["cfg"] = cfg if isinstance(cfg, DictConfig) else OmegaConf.create(cfg)
    return state


def test_s3prl_legacy(path: str, audio: Tensor) -> None:
    """A state that it opened itself; hidden states from hooks on the blocks' inputs and on the encoder's output."""
    state = fixed_by_s3prl(torch.load(path, map_location="cpu"))
    model, cfg, task = fairseq.checkpoint_utils.load_model_ensemble_and_task([path], state=state)
    model = model[0].eval()
    model.feature_grad_mult = 0.0
    assert cfg.task.normalize is False
    seen: list[Tensor] = []
    for layer in model.encoder.layers:
        layer.register_forward_hook(lambda module, input, output: seen.append(input[0].transpose(0, 1)))
    model.encoder.register_forward_hook(lambda module, input, output: seen.append(output[0]))
    lengths = torch.LongTensor([4000, 2900])
    mask = ~torch.lt(torch.arange(4000).unsqueeze(0), lengths.unsqueeze(1))
    model.extract_features(audio, mask)
    frames = min(hidden.size(1) for hidden in seen)
    assert [hidden[:, :frames].shape for hidden in seen] == [(2, 49, 24)] * 3
    seen[-1].sum().backward()
    assert not any(p.grad is not None and p.grad.any() for p in model.feature_extractor.parameters())


def test_s3prl_converted(path: str) -> None:
    """Its converter takes config and weights out of the file, for a model of its own with fairseq's names."""
    state = torch.load(path, map_location="cpu")
    fields = {field.name for field in dataclasses.fields(Wav2Vec2Config)}
    config = Wav2Vec2Config(**{key: value for key, value in state["cfg"]["model"].items() if key in fields})
    Wav2Vec2Model(config).load_state_dict(state["model"])
    assert state["cfg"]["task"]["normalize"] is False


def test_layerwise_analysis(folder: Path, path: str, audio: Tensor) -> None:
    """Each block's output, codes, the encoder inside a fine-tuned model, and random weights from a checkpoint's
    config.
    """
    encoder, args, task = fairseq.checkpoint_utils.load_model_ensemble_and_task([path])
    encoder = encoder[0].eval()
    with torch.no_grad():
        out = encoder.forward(audio[:1], mask=False, features_only=True)
        z_discrete, indices = encoder.quantize(audio[:1])
    layers = [layer[0].squeeze(1) for layer in out["layer_results"]]
    assert (
        [layer.shape for layer in layers] == [(49, 24)] * 2
        and indices.shape == (1, 49, 2)
        and z_discrete.shape[:2] == (1, 49)
    )
    assert task.cfg.normalize is False
    random = wav2vec2_module.Wav2Vec2Model(wav2vec2_module.Wav2Vec2Config(**args["model"]))
    random.load_state_dict(encoder.state_dict())
    tuned, _, task = fairseq.checkpoint_utils.load_model_ensemble_and_task(
        [str(folder / "finetuned.pt")], arg_overrides={"data": str(folder)}
    )
    assert tuned[0].w2v_encoder._modules["w2v_model"].forward(audio, mask=False, features_only=True)["x"].shape == (
        2,
        49,
        24,
    )


def test_indicwav2vec(folder: Path, audio: Tensor, tmp_path: Path) -> None:
    """Greedy decoding of a fine-tuned model, with its own blank and silence; a config changed and saved again."""
    state = torch.load(folder / "finetuned.pt")
    state["cfg"]["task"]["_name"] = "audio_finetuning"
    torch.save(state, tmp_path / "model.pt")
    models, cfg, task = fairseq.checkpoint_utils.load_model_ensemble_and_task([str(tmp_path / "model.pt")])
    model, symbols = models[0].eval(), task.target_dictionary
    blank = symbols.index("<ctc_blank>") if "<ctc_blank>" in symbols.indices else symbols.bos()
    assert (blank, symbols.index("|"), len(symbols)) == (0, 4, 10)
    source = audio[0].unsqueeze(0)
    net_input = {"source": source, "padding_mask": torch.BoolTensor(source.size(1)).fill_(False).unsqueeze(0)}
    with torch.no_grad():
        emissions = model.get_logits(model(**net_input)).transpose(0, 1).float().cpu().contiguous()
    path = [int(key) for key, _ in groupby(emissions[0].argmax(-1).tolist())]
    pieces = symbols.string(torch.LongTensor([token for token in path if token != blank]).int().cpu())
    assert emissions.shape == (1, 49, 10) and set(pieces.replace(" ", "")) <= set("|ETAON<unk>spad/")


def read_like_torchaudio(model: Wav2Vec2Model) -> dict[str, Any]:
    """What its importer learns of a model from its modules."""
    encoder, convs = model.encoder, model.feature_extractor.conv_layers
    first = encoder.layers[0]
    return {
        "mode": "group_norm" if "GroupNorm" in convs[0][2].__class__.__name__ else "layer_norm",
        "conv": [(layer[0].out_channels, layer[0].kernel_size[0], layer[0].stride[0]) for layer in convs],
        "conv_bias": all(layer[0].bias is not None for layer in convs),
        "width": encoder.embedding_dim,
        "dropouts": (
            model.dropout_input.p,
            first.self_attn.dropout_module.p,
            first.dropout2.p,
            first.dropout3.p,
            encoder.layerdrop,
        ),
        "pos_conv": (encoder.pos_conv[0].kernel_size[0], encoder.pos_conv[0].groups),
        "blocks": (len(encoder.layers), first.self_attn.num_heads, first.fc1.out_features),
        "norm_first": (first.layer_norm_first, encoder.layer_norm_first),
    }


def test_dphubert_and_torchaudios_importer(folder: Path) -> None:
    for name, mode, first in (("pretrained", "group_norm", False), ("large", "layer_norm", True)):
        models, cfg, task = fairseq.checkpoint_utils.load_model_ensemble_and_task([str(folder / f"{name}.pt")])
        dropouts = (0.0, 0.1, 0.0, 0.0 if first else 0.1, 0.0)
        assert read_like_torchaudio(models[0]) == {
            "mode": mode,
            "conv": [(16, 10, 5)] + [(16, 3, 2)] * 3 + [(16, 2, 2)],
            "conv_bias": first,
            "width": 24,
            "dropouts": dropouts,
            "pos_conv": (8, 4),
            "blocks": (2, 3, 40),
            "norm_first": (first, first),
        }
        names = set(models[0].state_dict())
        assert {
            "encoder.pos_conv.0.weight_g",
            "encoder.pos_conv.0.weight_v",
            "post_extract_proj.weight",
            "mask_emb",
        } <= names


def test_torchaudios_fairseq_tests(audio: Tensor) -> None:
    """A config from JSON, an encoder of it without a task, a mask of floats, and layer=-1 for the outputs of all
    blocks.
    """
    config = {
        "_name": "wav2vec_ctc",
        "apply_mask": True,
        "freeze_finetune_updates": 10000,
        "w2v_path": "???",
        "normalize": False,
    }
    config["w2v_args"] = OmegaConf.create(
        {"model": {**SMALL, "_name": "wav2vec2"}, "task": {"_name": "audio_pretraining"}}
    )
    cfg = Wav2Vec2CtcConfig(**config)
    encoder = Wav2VecEncoder(cfg, 28).eval()
    assert type(encoder).__name__ == "Wav2VecEncoder" and Wav2VecCtc(cfg, encoder).w2v_encoder is encoder
    assert encoder(audio, torch.zeros_like(audio))["encoder_out"].transpose(0, 1).shape == (2, 49, 28)
    original = Wav2Vec2Model(Wav2Vec2Config(**SMALL, latent_temp=[2.0, 0.5, 0.999995])).eval()
    refs = original.extract_features(audio, padding_mask=torch.zeros_like(audio), layer=-1)
    assert [ref.shape for ref, _, _ in refs["layer_results"]] == [(49, 2, 24)] * 2 and refs["padding_mask"] is None
    assert torch.equal(refs["x"], refs["layer_results"][-1][0].transpose(0, 1))


@pytest.mark.parametrize("kind", ["pretrained", "finetuned"])
def test_espnet2(folder: Path, audio: Tensor, kind: str) -> None:
    """An encoder of its own around either kind; masked while it trains; lengths of the output from the padding
    mask, or none.
    """
    path = str(folder / f"{kind}.pt")
    models, _, _ = fairseq.checkpoint_utils.load_model_ensemble_and_task([path], arg_overrides={"data": str(folder)})
    model = models[0]
    if not isinstance(model, Wav2Vec2Model):
        model = model.w2v_encoder.w2v_model
    parameters = copy.deepcopy(model.state_dict())
    assert model.cfg.encoder_embed_dim == 24
    for lengths in (torch.tensor([4000, 2900]), torch.tensor([4000, 4000])):
        mask = torch.arange(4000) >= lengths.unsqueeze(1)
        for training in (True, False):
            model.train(training)
            outputs = model(audio, mask, mask=training, features_only=True)
            olens = torch.IntTensor([outputs["x"].shape[1]]).repeat(2)
            if outputs["padding_mask"] is not None:
                olens = (~outputs["padding_mask"]).sum(dim=1)
            assert olens.tolist() == model._get_feat_extract_output_lengths(lengths).tolist()
    assert outputs["padding_mask"] is None
    outputs["x"].sum().backward()
    model.load_state_dict(parameters)


def test_speech_translation_with_an_adaptor(path: str, audio: Tensor) -> None:
    """A decoder's project builds the encoder from its command line, which has `w2v_path` and lacks what came after
    2020.
    """
    args = Namespace(
        w2v_path=path,
        w2v_args=None,
        apply_mask=True,
        mask_prob=0.3,
        layerdrop=0.05,
        normalize=False,
        data="/gone",
        decoder_embed_dim=24,
        freeze_finetune_updates=0,
        adaptor_n_layers=3,
        arch="xm_transformer",
        task="speech_to_text",
    )
    encoder = Wav2VecEncoder(args).eval()
    assert encoder.w2v_model.encoder.embedding_dim == 24 and encoder.proj is None and encoder.w2v_model.mask_prob == 0.3
    out = encoder.forward(audio, torch.arange(4000) >= torch.tensor([[4000], [2900]]), tbc=True)
    assert out["encoder_out"].shape == (49, 2, 24) and out["padding_mask"].shape == (2, 49)
    assert encoder.reorder_encoder_out(out, torch.tensor([1, 1]))["encoder_out"].shape == (49, 2, 24)
    assert args.w2v_args.model.encoder_embed_dim == 24, "so that its own checkpoints open without the file"


def test_utterance_classification(path: str, audio: Tensor) -> None:
    """An encoder without an output layer, and a pooling layer over its blocks."""
    cfg = OmegaConf.structured(Wav2Vec2CtcConfig(w2v_path=path))
    encoder = Wav2VecEncoder(cfg, None).eval()
    layers = encoder.w2v_model.encoder.layers
    assert (layers[-1].embedding_dim, len(layers)) == (24, 2)
    out = encoder(source=audio, padding_mask=None)
    assert torch.equal(out["encoder_out"].transpose(0, 1), features(path, audio)) and len(out["layer_results"]) == 2


def test_scripts_that_prepare_models_for_inference(folder: Path, audio: Tensor) -> None:
    """Old recognition scripts call these before they transcribe; the model's outputs do not change."""
    for name in ("pretrained", "finetuned"):
        overrides = {"data": str(folder)}
        (model,), cfg, _ = fairseq.checkpoint_utils.load_model_ensemble_and_task(
            [str(folder / f"{name}.pt")], overrides
        )
        names = list(model.state_dict())
        for prepare in (
            lambda m=model: m.make_generation_fast_(beamable_mm_beam_size=5, need_attn=False),
            lambda m=model, c=cfg: m.prepare_for_inference_(c),
        ):
            model.train()
            prepare()
            assert not model.training and list(model.state_dict()) == names


def test_masks_set_after_loading(path: str, audio: Tensor) -> None:
    """As fine-tuning code does that wants no masks, or others than pre-training's."""
    model = fairseq.checkpoint_utils.load_model_ensemble_and_task([path])[0][0].eval()
    model.mask_prob, model.mask_channel_prob = 0.0, 0.0
    assert torch.equal(model(audio, mask=True, features_only=True)["x"], features(path, audio))
    model.mask_prob, model.mask_length = 0.5, 5
    assert not torch.equal(model(audio, mask=True, features_only=True)["x"], features(path, audio))


def test_transformers_conversion_scripts_after_a_plain_import(folder: Path) -> None:
    """A fresh process: `import fairseq` alone, a task of old arguments, the dictionary's indices, tensors by their
    path of attributes.
    """
    code = """
import argparse, fairseq
from fairseq.data import Dictionary
folder = FOLDER
task = fairseq.tasks.setup_task(argparse.Namespace(task="audio_pretraining"))
model, _, _ = fairseq.checkpoint_utils.load_model_ensemble_and_task([folder + "/pretrained.pt"], task=task)
tuned, _, _ = fairseq.checkpoint_utils.load_model_ensemble_and_task([folder + "/finetuned.pt"], arg_overrides={"data": folder})
symbols = Dictionary.load(folder + "/dict.ltr.txt")
print(symbols.bos_index, symbols.pad_index, symbols.eos_index, symbols.unk_index, len(symbols.indices), len(symbols.symbols))
for part in (model[0].eval(), tuned[0].eval()):
    for name, value in part.state_dict().items():
        pointer = part
        for attribute in name.split("."): pointer = getattr(pointer, attribute)
        assert pointer.shape == value.shape
print(sorted(name for name in tuned[0].state_dict() if "proj." in name and "w2v_model" not in name))
"""
    done = subprocess.run(
        [sys.executable, "-c", code.replace("FOLDER", repr(str(folder)))],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["0 1 2 3 10 10", "['w2v_encoder.proj.bias', 'w2v_encoder.proj.weight']"]
