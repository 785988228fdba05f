"""HuBERT, data2vec and models with adapters: random models of transformers, read here, and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from fairseq import checkpoint_utils
from fairseq.checkpoint import io
from fairseq.conversion import convert, foreign, hf_config, hf_folder, hf_kinds, huggingface, names, portable_model
from fairseq.inference.model import SpeechModel
from fairseq.models import build_model
from fairseq.models.wav2vec import pretrained
from fairseq.models.wav2vec.audio_model import AudioModel
from fairseq.models.wav2vec.wav2vec2_asr import Wav2VecCtc

SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "conv_dim": [16] * 3,
    "conv_kernel": [10, 3, 2],
    "conv_stride": [5, 4, 4],
    "num_conv_pos_embedding_groups": 4,
    "vocab_size": 7,
}
STACK = {"num_conv_pos_embeddings": 3, "conv_pos_kernel_size": 5}
BASE = {**SMALL, "num_conv_pos_embeddings": 16, "feat_extract_norm": "group", "do_stable_layer_norm": False}
LARGE = {**BASE, "feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
FORMS = {
    "hubert base": ("Hubert", BASE),
    "hubert large": ("Hubert", LARGE),
    "hubert with batch norm": ("Hubert", {**BASE, "conv_pos_batch_norm": True}),
    "data2vec": ("Data2VecAudio", {**SMALL, **STACK}),
    "adapters": ("Wav2Vec2", {**LARGE, "adapter_attn_dim": 8}),
}
TOKENS = ["<pad>", "<s>", "</s>", "<unk>", "|", "E", "T"]


@pytest.fixture(autouse=True)
def short_audio(monkeypatch):
    monkeypatch.setattr(convert, "WAVEFORM_SECONDS", 0.3)


def made(folder: Path, form: str, head: str) -> Any:
    """A folder with a random model of transformers, and the model."""
    import transformers

    torch.manual_seed(0)
    name, fields = FORMS[form]
    model = getattr(transformers, name + head)(getattr(transformers, f"{name}Config")(**fields)).eval()
    for key, tensor in model.state_dict().items():
        if "norm" in key and tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape) + 0.5)
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({"do_normalize": True, "sampling_rate": 16_000}))
    if head == "ForCTC":
        (folder / "vocab.json").write_text(json.dumps({token: row for row, token in enumerate(TOKENS)}))
    return model


@pytest.mark.needs("transformers")
@pytest.mark.parametrize("head", ["Model", "ForCTC"])
@pytest.mark.parametrize("form", FORMS)
def test_there_and_back(form, head, tmp_path):
    theirs = made(tmp_path / "made", form, head)
    one, there, two = (str(tmp_path / name) for name in ("one.pt", "there", "two.pt"))
    assert convert.convert(str(tmp_path / "made"), one, "fairseq") <= 1e-5
    assert convert.convert(one, there, "hf") <= 1e-5
    assert convert.convert(there, two, "fairseq") <= 1e-5
    first, second = io.load(one), io.load(two)
    assert list(first["model"]) == list(second["model"])
    assert all(torch.equal(tensor, second["model"][name]) for name, tensor in first["model"].items())
    assert first["cfg"] == second["cfg"] and first["task_state"] == second["task_state"]

    (model,), cfg, task = checkpoint_utils.load_model_ensemble_and_task([one])
    model.eval()
    encoder = cast(AudioModel, model.w2v_encoder.w2v_model if isinstance(model, Wav2VecCtc) else model)
    name = {"Hubert": "hubert", "Data2VecAudio": "data2vec_audio", "Wav2Vec2": "wav2vec2"}[FORMS[form][0]]
    assert encoder.cfg._name == name and task.cfg.normalize is True
    audio = convert.waveform(16_000)
    with torch.no_grad():
        found = theirs(audio, output_hidden_states=True)
        blocks = [encoder.encode(audio, features_only=True, layer=block).context for block in range(2)]
    assert torch.allclose(blocks[0], found.hidden_states[1], atol=1e-5)
    if head == "ForCTC":
        assert cfg.model._name == ("hubert_ctc" if name == "hubert" else "wav2vec_ctc")
        assert task.target_dictionary.symbols == ["<s>", "<pad>", "</s>", "<unk>", "|", "E", "T"]
        ours = model(source=audio, padding_mask=None)["encoder_out"].transpose(0, 1)
        assert torch.allclose(ours, found.logits, atol=1e-5)


@pytest.mark.needs("transformers")
def test_one_of_several_languages(tmp_path, caplog):
    """Its adapters, output layer and vocabulary are read; other languages' are left out."""
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "made"
    made(folder, "adapters", "ForCTC")
    own = {name: t for name, t in load_file(folder / "model.safetensors").items() if hf_folder.is_of_language(name)}
    french = {name: 0.1 * torch.rand_like(tensor) for name, tensor in own.items()}
    for name in ("lm_head.weight", "lm_head.bias"):
        french[name] = torch.cat([french[name], french[name][:2]])  # two symbols more
    save_file(french, folder / "adapter.fra.safetensors", metadata={"format": "pt"})
    torch.save(own, folder / "adapter.eng.bin")
    english = json.loads((folder / "vocab.json").read_text())
    (folder / "vocab.json").write_text(json.dumps({"eng": english, "fra": {**english, "É": 7, "À": 8}}))
    (folder / "tokenizer_config.json").write_text(json.dumps({"target_lang": "eng"}))

    assert convert.convert(str(folder), str(tmp_path / "fra.pt"), "fairseq", language="fra") <= 1e-5
    weights = io.load(tmp_path / "fra.pt")["model"]
    name = "encoder.layers.1.adapter_layer."
    assert torch.equal(weights[f"w2v_encoder.w2v_model.{name}W_a"][0], french[f"wav2vec2.{name}linear_1.weight"])
    assert list(SpeechModel.load(tmp_path / "fra.pt").dictionary().symbols[7:]) == ["É", "À"]
    assert convert.convert(str(tmp_path / "fra.pt"), str(tmp_path / "back"), "hf", language="fra") <= 1e-5
    again = load_file(tmp_path / "back" / "adapter.fra.safetensors")
    assert set(again) == set(french) and all(torch.equal(again[name], tensor) for name, tensor in french.items())
    assert list(json.loads((tmp_path / "back" / "vocab.json").read_text())) == ["fra"]
    # the default: the tokenizer's language, with the weights of the model; and a file of the older form
    assert convert.convert(str(folder), str(tmp_path / "default.pt"), "fairseq") <= 1e-5
    by_name = foreign.read(folder, io.read, "eng")
    for key, tensor in foreign.read(folder, io.read).encoder.items():
        assert torch.equal(tensor, by_name.encoder[key])

    for language, named in (
        ("deu", "no adapter.deu.safetensors for --language deu.*It has: eng, fra"),
        ("../x", "the language is '../x'"),
    ):
        with pytest.raises(ValueError, match=named):
            foreign.read(folder, io.read, language)
    (folder / "tokenizer_config.json").unlink()
    with pytest.raises(ValueError, match="the language is None. It must be one of: eng, fra"):
        foreign.read(folder, io.read)
    save_file({"lm_head.bias": torch.zeros(9)}, folder / "adapter.fra.safetensors")
    with pytest.raises(ValueError, match=r"adapter\.fra\.safetensors must have the tensors"):
        foreign.read(folder, io.read, "fra")


@pytest.mark.parametrize("form", FORMS)
def test_every_kind_is_recognised_on_both_sides(form):
    """And a table that lacks a setting of a kind is noticed without transformers."""
    name, fields = FORMS[form]
    types = {"Hubert": "hubert", "Data2VecAudio": "data2vec-audio", "Wav2Vec2": "wav2vec2"}
    kind = hf_kinds.of_theirs({"model_type": types[name], **fields})
    assert kind is not None and kind.class_name == name
    assert hf_kinds.of_ours(portable_model.complete_config(kind.ours | {"adp_num": 1})) is kind


def test_a_language_where_there_is_none(tmp_path):
    (tmp_path / "wav2vec2_model.json").write_text("{}")
    with pytest.raises(ValueError, match="--language is fra, but .* one model without adapters"):
        foreign.read(tmp_path, io.read, "fra")


DEEP = {"extractor_mode": "layer_norm", "layer_norm_first": True, "conv_bias": True}
CODEWORDS = {"quantize_targets": True, "latent_vars": 320, "final_dim": 1024}


def size(layers: int, width: int) -> dict[str, int]:
    widths = {"encoder_embed_dim": width, "encoder_ffn_embed_dim": 4 * width}
    return {"encoder_layers": layers, "encoder_attention_heads": 16, **widths}


@pytest.mark.needs("transformers")
@pytest.mark.parametrize(
    ("millions", "settings"),
    [
        (317, {**DEEP, **CODEWORDS, **size(24, 1024), "final_dim": 768}),
        (965, {**DEEP, **CODEWORDS, **size(48, 1280)}),
        (2162, {**DEEP, **CODEWORDS, **size(48, 1920)}),
        (967, {**DEEP, **CODEWORDS, **size(48, 1280), "layer_type": "trf_adp", "adp_num": 1, "adp_dim": 16}),
        (964, {**DEEP, **size(48, 1280), "_name": "hubert", "conv_bias": False}),
    ],
    ids=["300M", "1B", "2B", "MMS 1B", "HuBERT xlarge"],
)
def test_published_sizes_convert_without_memory(millions, settings):
    """On the meta device: every tensor has its place on the other side, with its shape, and back."""
    import transformers

    config = portable_model.complete_config(settings)
    with torch.device("meta"):
        model = build_model(config)
    here = model.state_dict()
    assert abs(sum(tensor.numel() for tensor in here.values()) / 1e6 - millions) < 3
    source = portable_model.PortableModel(config, {"normalize": True, "sample_rate": 16_000}, here)
    kind, fields = hf_config.kind_of(source), hf_config.to_huggingface(source)
    with torch.device("meta"):
        theirs = getattr(transformers, kind.class_name + kind.pretrained_class)(
            getattr(transformers, f"{kind.class_name}Config")(**fields)
        )
    theirs.load_state_dict(huggingface._their_weights(source, kind, theirs), strict=True, assign=True)
    written = {**fields, "model_type": kind.model_type}
    same_kind, values = hf_config.from_huggingface(json.loads(json.dumps(written)), "x")
    assert same_kind is kind and values == config
    weights = names.one_spelling(theirs.state_dict())
    if not kind.has_heads:
        weights = {kind.names.model + name: tensor for name, tensor in weights.items()}
    back, _, left_over = portable_model.encoder_of(values, False, weights, kind.names.of, "x", kind.has_heads)
    assert not left_over and {name: tensor.shape for name, tensor in back.items()} == {
        name: tensor.shape for name, tensor in here.items()
    }


@pytest.mark.needs("transformers")
def test_a_model_of_the_hub_is_opened_by_its_id(tmp_path, monkeypatch):
    """From the cache, as --path, model.w2v_path and the source of a conversion."""
    constants = pytest.importorskip("huggingface_hub.constants")
    commit, cached = "0" * 40, tmp_path / "hub" / "models--someone--small"
    made(cached / "snapshots" / commit, "hubert base", "ForCTC")
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    assert list(SpeechModel.load("someone/small").dictionary().symbols[4:]) == ["|", "E", "T"]
    assert pretrained.load("someone/small").w2v_args["model"]["_name"] == "hubert"
    assert convert.load("someone/small").model.is_fine_tuned
