"""fairseq-convert: there and back again, with the other tools' own models beside ours."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fairseq import checkpoint_utils
from fairseq.checkpoint import io
from fairseq.conversion import convert, foreign, hf_folder, huggingface, names, portable_model
from fairseq.decoding import GreedyDecoder, Tokens
from fairseq.models.wav2vec import Wav2Vec2Model, pretrained
from fairseq_cli.convert import cli_main

SYMBOLS = ["<s>", "<pad>", "</s>", "<unk>", "|", "E", "T", "A", "Ä"]
BASE = {
    "_name": "wav2vec2",
    "conv_feature_layers": "[(24,10,5)] + [(24,3,2)]*4 + [(24,2,2)]*2",
    "encoder_layers": 2,
    "encoder_embed_dim": 48,
    "encoder_ffn_embed_dim": 96,
    "encoder_attention_heads": 4,
    "final_dim": 24,
    "latent_vars": 12,
    "quantize_targets": True,
    "conv_pos": 16,
    "conv_pos_groups": 4,
    "feature_grad_mult": 0.1,
    "mask_other": 2.0,
    "encoder_layerdrop": 0.05,
    "logit_temp": 0.2,
}
LARGE = {
    **BASE,
    "extractor_mode": "layer_norm",
    "layer_norm_first": True,
    "conv_bias": True,
    "latent_temp": [2.0, 0.1, 0.999995],
}
CONFORMER = {
    **BASE,
    "layer_type": "conformer",
    "attn_type": "espnet",
    "pos_enc_type": "rel_pos",
    "layer_norm_first": True,
    "depthwise_conv_kernel_size": 7,
}
FORMS = {
    "base": BASE,
    "large": LARGE,
    "conformer": CONFORMER,
    "rotary conformer": {**CONFORMER, "pos_enc_type": "rope"},
    "as wide as the extractor": {**BASE, "encoder_embed_dim": 24, "latent_dim": 16, "activation_fn": "gelu_fast"},
    "no masks": {**BASE, "mask_prob": 0.0, "dropout": 0.0},
}
BOTH_WAYS = [(name, fine_tuned) for name in FORMS for fine_tuned in (False, True)]


@pytest.fixture(autouse=True)
def short_audio(monkeypatch):
    monkeypatch.setattr(convert, "WAVEFORM_SECONDS", 0.5)


def write(
    path: Path,
    config: dict[str, Any],
    fine_tuned: bool = False,
    symbols: list[str] | None = SYMBOLS,
    **fine_tuning: Any,
) -> str:
    """A checkpoint of random weights, its batch statistics and norms too."""
    torch.manual_seed(3)
    model = Wav2Vec2Model({**config})
    if fine_tuned:
        model.remove_pretraining_modules()
    weights = model.state_dict()
    for name, tensor in weights.items():
        if name.endswith(
            (
                "norm.weight",
                "norm.bias",
                "running_mean",
                "running_var",
                "pos_bias_u",
                "pos_bias_v",
                "2.weight",
                "2.bias",
            )
        ):
            tensor.copy_(torch.rand(tensor.shape) + 0.5)
    task = {"_name": "audio_pretraining", "normalize": config.get("layer_norm_first", False)}
    cfg = {"model": config, "task": task}
    state: dict[str, Any] = {"args": None, "cfg": cfg, "model": weights}
    if fine_tuned:
        settings = {
            "_name": "wav2vec_ctc",
            "w2v_path": "/gone/x.pt",
            "w2v_args": cfg,
            "apply_mask": True,
            "final_dropout": 0.1,
        }
        settings |= fine_tuning
        state["cfg"] = {"model": settings, "task": {**task, "_name": "audio_finetuning", "labels": "ltr"}}
        state["model"] = {pretrained.ENCODER + name: tensor for name, tensor in weights.items()}
        head = torch.nn.Linear(config["encoder_embed_dim"], len(symbols or SYMBOLS))
        state["model"] |= {pretrained.HEAD + name: tensor for name, tensor in head.state_dict().items()}
        if symbols is not None:
            state["task_state"] = {"target_symbols": portable_model.dictionary_from(symbols).state_dict()}
    io.save(state, path)
    return str(path)


def assert_same_weights(one: str, other: str, left_out: tuple[str, ...] = ()) -> None:
    first, second = io.load(one)["model"], io.load(other)["model"]
    assert list(first) == list(second)
    for name, tensor in first.items():
        if not name.removeprefix(pretrained.ENCODER).startswith(left_out or ("none",)):
            assert tensor.dtype == second[name].dtype and torch.equal(tensor, second[name]), name


# -- transformers ------------------------------------------------------------------------------------------------------


@pytest.mark.needs("transformers")
@pytest.mark.parametrize(("form", "fine_tuned"), BOTH_WAYS)
def test_transformers_there_and_back(form, fine_tuned, tmp_path):
    path = write(tmp_path / "a.pt", FORMS[form], fine_tuned)
    there, back = str(tmp_path / "there"), str(tmp_path / "back.pt")
    assert convert.convert(path, there, "hf") <= 1e-5
    assert convert.convert(there, back, "fairseq") <= 1e-5
    assert_same_weights(path, back)
    before, after = io.load(path)["cfg"], io.load(back)["cfg"]
    if fine_tuned:
        for key in ("apply_mask", "final_dropout"):
            assert after["model"][key] == before["model"][key]
        assert io.load(back)["task_state"] == io.load(path)["task_state"]
        before, after = (cfg["model"]["w2v_args"] for cfg in (before, after))
    assert {key: after["model"][key] for key in before["model"]} == before["model"]
    assert after["task"]["normalize"] == before["task"]["normalize"]
    assert sorted(os.listdir(tmp_path)) == ["a.pt", "back.pt", "there"]
    models, cfg, task = checkpoint_utils.load_model_ensemble_and_task([back])
    assert len(models) == 1 and cfg.task._name == ("audio_finetuning" if fine_tuned else "audio_pretraining")
    if fine_tuned:
        assert task.target_dictionary.symbols == SYMBOLS


@pytest.mark.needs("transformers")
def test_transformers_processor_reads_the_folder(tmp_path):
    import transformers

    convert.convert(write(tmp_path / "a.pt", LARGE, fine_tuned=True), str(tmp_path / "there"), "hf")
    tokenizer = transformers.Wav2Vec2CTCTokenizer.from_pretrained(tmp_path / "there")
    assert (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.unk_token_id, len(tokenizer)) == (
        0,
        1,
        3,
        len(SYMBOLS),
    )
    rows = [0, 6, 6, 0, 5, 0, 5, 4, 4, 7, 0, 8]
    assert tokenizer.decode(rows) == "TEE AÄ"
    extractor = transformers.Wav2Vec2FeatureExtractor.from_pretrained(tmp_path / "there")
    assert (extractor.do_normalize, extractor.sampling_rate, extractor.return_attention_mask) == (True, 16000, True)
    assert transformers.AutoModelForCTC.from_pretrained(tmp_path / "there").config.vocab_size == len(SYMBOLS)


@pytest.mark.needs("transformers")
@pytest.mark.parametrize("spelling", ["weight_g", "parametrizations"])
@pytest.mark.parametrize("kind", ["safetensors", "bin", "sharded"])
def test_spellings_and_files_of_weights(spelling, kind, tmp_path):
    """As several versions of transformers wrote them."""
    safetensors = pytest.importorskip("safetensors.torch")
    path, there = write(tmp_path / "a.pt", BASE), tmp_path / "there"
    convert.convert(path, str(there), "hf")
    weights = names.one_spelling(safetensors.load_file(there / "model.safetensors"))
    if spelling == "parametrizations":
        parts = {"weight_g": "parametrizations.weight.original0", "weight_v": "parametrizations.weight.original1"}
        weights = {
            next((n.replace(a, b) for a, b in parts.items() if n.endswith(a)), n): tensor
            for n, tensor in weights.items()
        }
    os.remove(there / "model.safetensors")
    if kind == "safetensors":
        safetensors.save_file(weights, there / "model.safetensors", metadata={"format": "pt"})
    elif kind == "bin":
        torch.save(weights, there / "pytorch_model.bin")
    else:
        halves = {f"model-0000{i}-of-00002.safetensors": dict(list(weights.items())[i - 1 :: 2]) for i in (1, 2)}
        for file, part in halves.items():
            safetensors.save_file(part, there / file, metadata={"format": "pt"})
        index = {"weight_map": {name: file for file, part in halves.items() for name in part}}
        (there / "model.safetensors.index.json").write_text(json.dumps(index))
    state = portable_model.to_checkpoint(huggingface.read(there, io.read))
    original = io.load(path)["model"]
    assert all(torch.equal(original[name], tensor) for name, tensor in state["model"].items())


@pytest.mark.needs("transformers")
def test_a_model_made_by_transformers(tmp_path, caplog):
    """Letters first, the padding token last; no mask embedding; and a plain encoder."""
    import transformers

    torch.manual_seed(0)
    fields = {
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 48,
        "conv_dim": (16, 16),
        "conv_kernel": (10, 3),
        "conv_stride": (5, 2),
        "num_conv_pos_embeddings": 8,
        "num_conv_pos_embedding_groups": 2,
        "vocab_size": 5,
        "pad_token_id": 4,
        "mask_time_prob": 0.0,
        "mask_feature_prob": 0.0,
    }
    config = transformers.Wav2Vec2Config(**fields)
    folder = tmp_path / "made"
    transformers.Wav2Vec2ForCTC(config).save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps({"|": 0, "b": 1, "a": 2, "[UNK]": 3, "[PAD]": 4}))
    (folder / "tokenizer_config.json").write_text(json.dumps({"pad_token": "[PAD]", "unk_token": {"content": "[UNK]"}}))
    with caplog.at_level(logging.INFO):
        source = foreign.read(folder, io.read)
    assert "mask_emb" in caplog.text and source.output.symbols == ["<s>", "<pad>", "</s>", "<unk>", "|", "b", "a"]
    audio = convert.waveform(16000)
    (ours,), (theirs,) = (
        portable_model.outputs(portable_model.build(source), audio),
        huggingface.outputs(folder, audio, "ForCTC"),
    )
    assert (ours[..., [4, 5, 6, 3, 0]] - theirs).abs().max() < 1e-5
    assert convert.convert(str(folder), str(tmp_path / "made.pt"), "fairseq") < 1e-5

    encoder = tmp_path / "encoder"
    transformers.Wav2Vec2Model(config).save_pretrained(encoder)
    assert convert.convert(str(encoder), str(tmp_path / "encoder.pt"), "fairseq") < 1e-5
    checkpoint_utils.load_model_ensemble_and_task([str(tmp_path / "encoder.pt")])


@pytest.mark.needs("transformers")
def test_w2v_path_may_be_a_folder(tmp_path):
    path = write(tmp_path / "a.pt", BASE)
    convert.convert(path, str(tmp_path / "there"), "hf")
    from_file, from_folder = pretrained.load(path), pretrained.load(str(tmp_path / "there"))
    assert from_folder.w2v_args["model"] == {**from_folder.w2v_args["model"], **from_file.w2v_args["model"]}
    assert all(torch.equal(from_file.encoder[name], tensor) for name, tensor in from_folder.encoder.items())
    tuned = write(tmp_path / "b.pt", BASE, fine_tuned=True)
    convert.convert(tuned, str(tmp_path / "tuned"), "hf")
    assert pretrained.load(str(tmp_path / "tuned")).symbols == SYMBOLS
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"w2v_path.*without config\.json"):
        pretrained.load(str(tmp_path / "empty"))


def test_a_damaged_folder_is_named(tmp_path, capsys):
    """In converting and where training opens it; transformers is not needed."""
    save = pytest.importorskip("safetensors.torch").save
    folder = tmp_path / "there"
    folder.mkdir()
    config = {
        "model_type": "wav2vec2",
        "architectures": ["Wav2Vec2Model"],
        "conv_dim": [8],
        "conv_kernel": [10],
        "conv_stride": [5],
        "feat_extract_norm": "group",
        "do_stable_layer_norm": False,
        "hidden_act": "gelu",
    }
    (folder / "model.safetensors").write_bytes(save({"a": torch.zeros(100)})[:200])
    lacking = {key: value for key, value in config.items() if key not in ("conv_dim", "hidden_act")}
    for settings, named in (
        (config, "model.safetensors is damaged or truncated"),
        (lacking, "config.json lacks conv_dim, hidden_act"),
        (
            {**config, "conv_kernel": [10, 3]},
            "config.json: conv_dim, conv_kernel and conv_stride must be lists of the same length",
        ),
    ):
        (folder / "config.json").write_text(json.dumps(settings))
        assert cli_main([str(folder), str(tmp_path / "b.pt"), "--to", "fairseq"]) == 1
        assert f"{folder}/{named}" in capsys.readouterr().err
        with pytest.raises(ValueError, match=named):
            pretrained.load(str(folder))


@pytest.mark.needs("transformers")
@pytest.mark.parametrize(
    ("units", "rows", "text"),
    [
        (["\u2581A", "B", "\u2581", "C\u2581D"], [4, 4, 0, 5, 0, 5, 6, 5, 7, 0, 4], "ABB BC D A"),
        (["aa", "t\u02b0", "sil"], [4, 4, 0, 4, 5, 6], "aa aa t\u02b0 sil"),
        (["YES", "NO"], [5, 0, 4, 4], "NO YES"),
    ],
)
def test_units_that_are_not_letters_are_joined_as_here(units, rows, text, tmp_path):
    import transformers

    symbols = [*SYMBOLS[:4], *units]
    path = write(tmp_path / "a.pt", BASE, True, symbols)
    convert.convert(path, str(tmp_path / "there"), "hf")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "there")
    assert tokenizer.decode(rows) == text
    log_probs = np.log(np.eye(len(symbols), dtype=np.float32)[rows] + 1e-3)
    assert GreedyDecoder(Tokens.from_symbols(symbols)).decode(log_probs)[0].text.replace("\u2581", " ") == text
    processor = transformers.AutoProcessor.from_pretrained(tmp_path / "there")
    assert processor.batch_decode(torch.tensor([rows]))[0] == text
    convert.convert(str(tmp_path / "there"), str(tmp_path / "back.pt"), "fairseq")
    assert io.load(tmp_path / "back.pt")["task_state"]["target_symbols"]["symbols"] == symbols
    assert_same_weights(path, str(tmp_path / "back.pt"))


def preprocessing(folder, **contents):
    """A folder with these files, and what `read` says of it."""
    for name in ("processor_config", "preprocessor_config"):
        (folder / f"{name}.json").unlink(missing_ok=True)
        if name in contents:
            (folder / f"{name}.json").write_text(json.dumps(contents[name]))
    return foreign.read(folder, io.read).task


@pytest.mark.needs("transformers")
def test_preprocessing_is_read_where_each_version_of_transformers_keeps_it(tmp_path, caplog):
    folder = tmp_path / "there"
    convert.convert(write(tmp_path / "a.pt", LARGE, fine_tuned=True), str(folder), "hf")
    plain, loud = {"do_normalize": False, "sampling_rate": 16000}, {"do_normalize": True, "sampling_rate": 8000}
    kind = {"feature_extractor_type": "Wav2Vec2FeatureExtractor", "feature_size": 1, "padding_value": 0.0}
    nested = {"processor_class": "Wav2Vec2Processor", "feature_extractor": {**plain, **kind}}
    assert preprocessing(folder, processor_config=nested) == {"normalize": False, "sample_rate": 16000}
    convert.convert(str(folder), str(tmp_path / "b.pt"), "fairseq")
    assert io.load(tmp_path / "b.pt")["cfg"]["task"]["normalize"] is False
    assert preprocessing(folder, processor_config=nested, preprocessor_config=loud)["normalize"] is False
    huggingface.check_preprocessing(folder)  # transformers gives them the same order
    assert (
        preprocessing(folder, processor_config={"processor_class": "x"}, preprocessor_config=loud)["sample_rate"]
        == 8000
    )
    assert "does not set do_normalize" not in caplog.text
    assert preprocessing(folder)["normalize"] is True and f"{folder} does not set do_normalize" in caplog.text


@pytest.mark.needs("transformers")
def test_preprocessing_that_was_read_wrongly_stops_the_conversion(tmp_path, monkeypatch):
    convert.convert(write(tmp_path / "a.pt", LARGE, fine_tuned=True), str(tmp_path / "there"), "hf")
    monkeypatch.setattr(hf_folder, "preprocessing", lambda folder: {"normalize": False, "sample_rate": 16000})
    with pytest.raises(ValueError, match="transformers preprocesses audio for .* with {'normalize': True"):
        convert.convert(str(tmp_path / "there"), str(tmp_path / "b.pt"), "fairseq")
    assert not (tmp_path / "b.pt").exists()


@pytest.mark.needs("transformers")
@pytest.mark.parametrize("kind", ["ForCTC", "ForPreTraining", "Model"])
def test_a_config_without_architectures_is_one_of_what_its_tensors_say(kind, tmp_path):
    import transformers

    folder = tmp_path / "there"
    convert.convert(write(tmp_path / "a.pt", BASE, kind == "ForCTC"), str(folder), "hf")
    if kind == "Model":
        transformers.Wav2Vec2Model.from_pretrained(folder).save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    del config["architectures"]
    (folder / "config.json").write_text(json.dumps(config))
    assert convert.convert(str(folder), str(tmp_path / "b.pt"), "fairseq") < 1e-5
    assert_same_weights(
        str(tmp_path / "a.pt"),
        str(tmp_path / "b.pt"),
        ("quantizer", "project_q", "final_proj") if kind == "Model" else (),
    )


def test_shards_that_are_missing_are_named(tmp_path):
    folder = tmp_path / "there"
    folder.mkdir()
    names = [f"model-{number}-of-3.safetensors" for number in (1, 2, 3)]
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": dict(zip("abc", names, strict=True))})
    )
    (folder / names[1]).write_bytes(b"")
    with pytest.raises(
        ValueError, match="there lacks model-1-of-3.safetensors, model-3-of-3.safetensors of the 3 files in model.safe"
    ):
        hf_folder.weights(str(folder), io.read)


# -- torchaudio --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("fine_tuned", [False, True])
@pytest.mark.parametrize("form", ["base", "large", "as wide as the extractor"])
def test_torchaudio_there_and_back(form, fine_tuned, tmp_path):
    path = write(tmp_path / "a.pt", {**FORMS[form], "activation_fn": "gelu"}, fine_tuned)
    there, back = str(tmp_path / "there"), str(tmp_path / "back.pt")
    assert convert.convert(path, there, "torchaudio") <= 1e-5
    assert convert.convert(there, back, "fairseq") <= 1e-5
    assert_same_weights(path, back, left_out=("mask_emb", *pretrained.PRETRAINING_ONLY))
    if fine_tuned:
        assert io.load(back)["task_state"] == io.load(path)["task_state"]


def torchaudio_folder(tmp_path, labels):
    """A folder whose output layer has torchaudio's rows: as many as labels, none for the special symbols."""
    convert.convert(
        write(tmp_path / "a.pt", {**BASE, "activation_fn": "gelu"}, fine_tuned=True),
        str(tmp_path / "there"),
        "torchaudio",
    )
    about, weights = (
        json.loads((tmp_path / "there" / "wav2vec2_model.json").read_text()),
        io.read(str(tmp_path / "there" / "model.pt")),
    )
    for name in ("aux.weight", "aux.bias"):
        weights[name] = weights[name][: len(labels)].clone()
    about["arguments"]["aux_num_out"], about["labels"] = len(labels), labels
    torch.save(weights, tmp_path / "there" / "model.pt")
    (tmp_path / "there" / "wav2vec2_model.json").write_text(json.dumps(about))
    return str(tmp_path / "there"), weights


@pytest.mark.slow
@pytest.mark.parametrize("labels", [["-", "|", "E", "T", "A", "O"], ["-", "|"], ["<pad>", "<unk>", "|", "E", "T"]])
def test_torchaudios_own_labels(labels, tmp_path):
    """The blank first, and no row for what the dictionary begins with: rows are added that never win."""
    there, weights = torchaudio_folder(tmp_path, labels)
    assert convert.convert(there, str(tmp_path / "b.pt"), "fairseq") <= 1e-5
    (model,), _, task = checkpoint_utils.load_model_ensemble_and_task([str(tmp_path / "b.pt")])
    dictionary, head = task.target_dictionary, model.w2v_encoder.proj
    ordinary = [label for label in labels[1:] if label != "<unk>"]
    assert dictionary.symbols == ["<s>", "<pad>", "</s>", "<unk>", *ordinary]
    assert dictionary.string([dictionary.index(label) for label in ordinary]) == " ".join(ordinary)
    assert torch.equal(head.bias[dictionary.bos()], weights["aux.bias"][0])
    assert all(
        torch.equal(head.weight[dictionary.index(label)], weights["aux.weight"][labels.index(label)])
        for label in ordinary
    )
    assert head.bias[dictionary.eos()] == -1e4


@pytest.mark.parametrize(
    ("labels", "named"),
    [(["-", "E", "E"], "'E' occurs twice"), (["-", "<s>", "<pad>"], "also have <s> and <pad>"), ([1, 2], "must have")],
)
def test_labels_that_no_dictionary_can_have(labels, named, tmp_path):
    there, _ = torchaudio_folder(tmp_path, labels)
    with pytest.raises(ValueError, match=rf"wav2vec2_model\.json.*{named}"):
        convert.load(there)


@pytest.mark.slow
def test_torchaudio_names(tmp_path):
    """As `torchaudio.models.wav2vec2_model(...).state_dict()` of torchaudio 2.11 has them, in either spelling of
    the weight norm.
    """
    convert.convert(write(tmp_path / "a.pt", BASE, fine_tuned=True), str(tmp_path / "there"), "torchaudio")
    weights = io.read(str(tmp_path / "there" / "model.pt"))
    block = "encoder.transformer.layers.0."
    parts = (
        "attention.k_proj",
        "attention.v_proj",
        "attention.q_proj",
        "attention.out_proj",
        "layer_norm",
        "final_layer_norm",
    )
    expected = {f"{block}{part}" for part in (*parts, "feed_forward.intermediate_dense", "feed_forward.output_dense")}
    expected |= {f"feature_extractor.conv_layers.0.{part}" for part in ("conv", "layer_norm")}
    expected |= {f"encoder.feature_projection.{part}" for part in ("layer_norm", "projection")}
    expected |= {"encoder.transformer.pos_conv_embed.conv", "encoder.transformer.layer_norm", "aux"}
    found = {name.rpartition(".")[0] for name in weights}
    assert expected <= found and not any(name.startswith(("quantizer", "mask")) for name in found)
    renamed = {
        name.replace("weight_g", "parametrizations.weight.original0").replace(
            "weight_v", "parametrizations.weight.original1"
        ): tensor
        for name, tensor in weights.items()
    }
    torch.save(renamed, tmp_path / "there" / "model.pt")
    assert convert.convert(str(tmp_path / "there"), str(tmp_path / "b.pt"), "fairseq") == 0


# -- ONNX --------------------------------------------------------------------------------------------------------------


def frames_alike(session, model, sources, lengths) -> None:
    """Each row, padded in a batch, has the logits that the model has for it alone."""
    padded = np.zeros((len(lengths), max(lengths)), dtype=np.float32)
    for row, source, length in zip(padded, sources, lengths, strict=True):
        row[:length] = source[0, :length]
    logits, frames = session.run(None, {"source": padded, "lengths": np.array(lengths)})
    for found, count, source, length in zip(logits, frames, sources, lengths, strict=True):
        alone = portable_model.outputs(model, source[:, :length])[0][0].numpy()
        assert len(alone) == count and np.abs(found[:count] - alone).max() <= 2e-5


@pytest.mark.slow
@pytest.mark.parametrize("form", ["base", "large", "conformer"])
def test_onnx_of_any_length_and_padding(form, tmp_path):
    onnx = pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    config = CONFORMER if form == "conformer" else FORMS[form]
    path, there = write(tmp_path / "a.pt", config, fine_tuned=True), str(tmp_path / "a.onnx")
    assert convert.convert(path, there, "onnx") <= 2e-5
    session = onnxruntime.InferenceSession(there, providers=["CPUExecutionProvider"])
    model = portable_model.build(convert.load(path).model)
    for lengths in ([7777], [20_001, 9000, 400]):
        frames_alike(session, model, [torch.randn(1, 20_001) for _ in lengths], lengths)
    told = {entry.key: json.loads(entry.value) for entry in onnx.load(there).metadata_props}
    assert told["symbols"] == SYMBOLS and told["sample_rate"] == 16000


@pytest.mark.slow
def test_onnx_in_int8_and_for_sherpa(tmp_path):
    """onnxruntime quantizes the products; sherpa-onnx takes a folder with the tokens, the blank first."""
    onnxruntime, onnx = pytest.importorskip("onnxruntime"), pytest.importorskip("onnx")
    path = write(tmp_path / "a.pt", FORMS["large"], fine_tuned=True)
    convert.convert(path, str(tmp_path / "a.int8.onnx"), "onnx-int8")
    convert.convert(path, str(tmp_path / "sherpa"), "sherpa-onnx")
    assert sorted(os.listdir(tmp_path / "sherpa")) == ["model.int8.onnx", "model.onnx", "tokens.txt"]
    assert (tmp_path / "sherpa" / "tokens.txt").read_text().splitlines()[0] == "<blk> 0"
    source = torch.randn(1, 16_000)
    ours = portable_model.outputs(portable_model.build(convert.load(path).model), source)[0].numpy()
    for place, feed in (("a.int8.onnx", {"lengths": np.array([16_000])}), ("sherpa/model.int8.onnx", {})):
        session = onnxruntime.InferenceSession(str(tmp_path / place), providers=["CPUExecutionProvider"])
        found = session.run(None, {"source": source.numpy(), **feed})[0]
        assert 0 < np.abs(found - ours).max() <= 0.1 * np.abs(ours).max()
        products = [n.op_type for n in onnx.load(tmp_path / place).graph.node if n.op_type.startswith("MatMul")]
        assert "MatMulInteger" in products and products[-1] == "MatMul"  # the output layer stays fp32
    with pytest.raises(ValueError, match="sherpa-onnx gives its models normalised audio"):
        convert.convert(write(tmp_path / "b.pt", BASE, fine_tuned=True), str(tmp_path / "out"), "sherpa-onnx")


def test_onnx_is_for_fine_tuned_models(tmp_path):
    with pytest.raises(ValueError, match="fine-tuned"):
        convert.convert(write(tmp_path / "a.pt", BASE, fine_tuned=False), str(tmp_path / "out"), "onnx")
    assert os.listdir(tmp_path) == ["a.pt"]


# -- checkpoints -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_an_old_checkpoint_gets_its_dictionary(tmp_path):
    path = write(tmp_path / "a.pt", BASE, fine_tuned=True, symbols=None)
    with pytest.raises(ValueError, match=r"a\.pt is fine-tuned but has no dictionary: give one with --dict"):
        convert.convert(path, str(tmp_path / "b.pt"), "fairseq")
    (tmp_path / "dict.ltr.txt").write_text("".join(f"{symbol} 1\n" for symbol in SYMBOLS[4:]))
    assert convert.convert(path, str(tmp_path / "b.pt"), "fairseq", str(tmp_path / "dict.ltr.txt")) == 0
    assert_same_weights(path, str(tmp_path / "b.pt"))
    assert io.load(tmp_path / "b.pt")["task_state"]["target_symbols"]["symbols"] == SYMBOLS
    (tmp_path / "short.txt").write_text("A 1\n")
    with pytest.raises(ValueError, match="5 symbols.*9 rows"):
        convert.convert(path, str(tmp_path / "c.pt"), "fairseq", str(tmp_path / "short.txt"))


def test_half_precision_and_tall_convolutions(tmp_path):
    """The Gaudi fork's 4-D weights, in fp16."""
    path = write(tmp_path / "a.pt", BASE)
    state = io.load(path)
    half = {name: tensor.half() for name, tensor in state["model"].items()}
    tall = {
        name: tensor.unsqueeze(2) if "conv_layers" in name and tensor.dim() == 3 else tensor
        for name, tensor in half.items()
    }
    torch.save({**state, "model": tall}, tmp_path / "tall.pt")
    convert.convert(str(tmp_path / "tall.pt"), str(tmp_path / "there"), "torchaudio")
    weights = io.read(str(tmp_path / "there" / "model.pt"))
    name = "feature_extractor.conv_layers.0.{}.weight"
    assert torch.equal(weights[name.format("conv")], state["model"][name.format("0")].half().float())


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"pos_conv_depth": 5}, "pos_conv_depth=5"),
        ({"quantize_input": True}, "quantize_input=True"),
        ({"target_glu": True}, "target_glu=True"),
        ({"quantizer_depth": 2}, "quantizer_depth=2"),
        ({"crop_seq_to_multiple": 2}, "crop_seq_to_multiple=2"),
        ({"quantize_targets": False}, "quantize_targets=False"),
        ({"activation_fn": "relu_squared"}, "activation_fn='relu_squared'"),
        ({"layer_type": "conformer", "attn_type": "", "pos_enc_type": "abs"}, "layer_type='conformer'"),
        ({**CONFORMER, "layer_norm_first": False}, "layer_norm_first=False"),
    ],
)
def test_what_has_no_counterpart_is_named(change, named, tmp_path):
    path = write(tmp_path / "a.pt", {**BASE, **change})
    with pytest.raises(ValueError, match=f"no counterpart in transformers.*{named}"):
        convert.convert(path, str(tmp_path / "there"), "hf")
    assert os.listdir(tmp_path) == ["a.pt"]


def test_other_kinds_of_models_are_named(tmp_path):
    for kind in ("wav2vec_seq2seq", "data2vec_text", "wav2vec"):
        io.save({"cfg": {"model": {"_name": kind}}, "model": {}}, tmp_path / "a.pt")
        with pytest.raises(ValueError, match=f"has model._name='{kind}'"):
            convert.convert(str(tmp_path / "a.pt"), str(tmp_path / "b"), "hf")
    (tmp_path / "there").mkdir()
    for config, named in (
        ({"model_type": "wavlm"}, "'wavlm'.*wav2vec2, wav2vec2-conformer, hubert, data2vec-audio"),
        (
            {"model_type": "wav2vec2", "add_adapter": True, "adapter_attn_dim": 16, "do_stable_layer_norm": False},
            "add_adapter.*do_stable_layer_norm",
        ),
    ):
        (tmp_path / "there" / "config.json").write_text(json.dumps(config))
        with pytest.raises(ValueError, match=named):
            convert.convert(str(tmp_path / "there"), str(tmp_path / "b.pt"), "fairseq")
    path = write(tmp_path / "c.pt", BASE, fine_tuned=True, blank_weight=1.0)
    with pytest.raises(ValueError, match=r"blank_weight=1\.0"):
        convert.convert(path, str(tmp_path / "b"), "hf")


@pytest.mark.slow
def test_nothing_appears_unless_it_is_right(tmp_path, monkeypatch, capsys):
    path = write(tmp_path / "a.pt", BASE, fine_tuned=True)
    real = portable_model.outputs
    calls: list[int] = []

    def wrong(*args: Any) -> list[torch.Tensor]:
        calls.append(1)
        return [output + 0.1 * (len(calls) > 1) for output in real(*args)]

    monkeypatch.setattr(portable_model, "outputs", wrong)
    assert cli_main([path, str(tmp_path / "b.pt"), "--to", "fairseq"]) == 1
    assert "outputs differ by 0.1" in capsys.readouterr().err
    monkeypatch.undo()
    monkeypatch.setattr("fairseq.conversion.torchaudio_model.json.dumps", lambda *args, **kwargs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cli_main([path, str(tmp_path / "b"), "--to", "torchaudio"])
    assert os.listdir(tmp_path) == ["a.pt"]
    monkeypatch.undo()
    assert cli_main([path, str(tmp_path / "b"), "--to", "torchaudio"]) == 0
    assert "largest difference" in capsys.readouterr().out
    assert cli_main([path, str(tmp_path / "b"), "--to", "torchaudio"]) == 1
    assert "already exists" in capsys.readouterr().err


def test_without_transformers_it_is_asked_for(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    path = write(tmp_path / "a.pt", BASE)
    assert cli_main([path, str(tmp_path / "b"), "--to", "hf"]) == 1
    assert "pip install 'transformers>=4.46' safetensors" in capsys.readouterr().err and os.listdir(tmp_path) == [
        "a.pt"
    ]


@pytest.mark.needs("transformers")
def test_a_transformers_that_does_not_take_this_torch_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("transformers.utils.is_torch_available", lambda: False)
    path = write(tmp_path / "a.pt", BASE)
    assert cli_main([path, str(tmp_path / "b"), "--to", "hf"]) == 1
    assert "does not support torch" in capsys.readouterr().err and os.listdir(tmp_path) == ["a.pt"]


def test_the_waveform_is_the_same_every_time():
    audio = convert.waveform(16000)
    assert audio.shape == (1, 8000) and torch.equal(audio, convert.waveform(16000))
    assert np.isclose(audio.std(), 1, atol=1e-3)
