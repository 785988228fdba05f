"""How other projects load and call HuBERT, ContentVec, data2vec and adapters, in our words: after `import fairseq` alone,
in a fresh process, on files that fairseq wrote (`tests/parity/data/audio_models`).

Looked up in the projects' public sources; what they compute with the features afterwards is left out.
"""

from __future__ import annotations

import lzma
import subprocess
import sys
from pathlib import Path

import pytest

DATA = Path(__file__).resolve().parents[1] / "parity/data/audio_models"

CALLS = """
import sys
import torch
import torch.nn as nn
import fairseq

folder = sys.argv[1]
HUBERT, CTC, DATA2VEC, ADAPTERS = (folder + "/" + name for name in ("hubert_base.pt", "hubert_ctc.pt", "data2vec_base.pt", "adapters.pt"))
FRAMES, WIDTH, FINAL = 15, 12, 12  # two sets of labels, 6 each
audio = torch.randn(1, 5000)


def project(check):
    with torch.no_grad():
        check()
    print(check.__name__)


@project
def rvc():  # RVC v1 takes block 9 projected, v2 the last block
    models, saved_cfg, task = fairseq.checkpoint_utils.load_model_ensemble_and_task([HUBERT], suffix="")
    model = models[0].to("cpu").float().eval()
    padding_mask = torch.BoolTensor(audio.shape).fill_(False)
    for version, layer in (("v1", 9), ("v2", 12)):
        inputs = {"source": audio, "padding_mask": padding_mask, "output_layer": layer}
        logits = model.extract_features(**inputs)
        feats = model.final_proj(logits[0]) if version == "v1" else logits[0]
        assert feats.shape == (1, FRAMES, FINAL if version == "v1" else WIDTH)
    assert saved_cfg.task.normalize is False


@project
def so_vits_svc():  # encoder of content: vec256l9
    models, saved_cfg, task = fairseq.checkpoint_utils.load_model_ensemble_and_task([HUBERT], suffix="")
    model = models[0].eval()
    feats = audio.view(1, -1)
    padding_mask = torch.BoolTensor(feats.shape).fill_(False)
    logits = model.extract_features(source=feats, padding_mask=padding_mask, output_layer=9)
    assert model.final_proj(logits[0]).transpose(1, 2).shape == (1, FINAL, FRAMES)


@project
def contentvec():
    from fairseq import checkpoint_utils

    models, cfg, task = checkpoint_utils.load_model_ensemble_and_task([HUBERT])
    c, no_mask = models[0].extract_features(audio, padding_mask=None, mask=False, output_layer=12)
    assert c.shape == (1, FRAMES, WIDTH) and no_mask is None
    assert task.cfg.label_rate == 50 and task.dictionaries[0].symbols[4] == "0"


@project
def textless_units():  # HuBERT features for k-means: fairseq's dump_hubert_feature
    (model,), cfg, task = fairseq.checkpoint_utils.load_model_ensemble_and_task([HUBERT])
    if task.cfg.normalize:
        raise AssertionError
    chunks = [model.extract_features(source=audio[:, start : start + 2500], padding_mask=None, mask=False, output_layer=6)[0] for start in (0, 2500)]
    assert torch.cat(chunks, 1).shape[-1] == WIDTH


@project
def s3prl_hubert():  # an upstream: hooks on each block, normalised audio, padded batch
    from fairseq.models.hubert.hubert import HubertModel

    model, cfg, task = fairseq.checkpoint_utils.load_model_ensemble_and_task([HUBERT])
    model = model[0]
    assert isinstance(model, HubertModel)
    model.feature_grad_mult, model.encoder.layerdrop = 0.0, 0.0
    seen = []
    for layer in model.encoder.layers:
        layer.register_forward_hook(lambda module, inputs, output: seen.append(output[0].transpose(0, 1)))
    wavs = [audio[0], audio[0, :3000]]
    lengths = torch.tensor([len(wav) for wav in wavs])
    mask = ~torch.lt(torch.arange(5000).unsqueeze(0), lengths.unsqueeze(1))
    model.extract_features(nn.utils.rnn.pad_sequence(wavs, batch_first=True), padding_mask=mask, mask=None)
    assert len(seen) == 12 and seen[0].shape[0] == 2


@project
def s3prl_converts_hubert():  # builds the classes from the parts of the file
    from fairseq.models.hubert.hubert import HubertConfig, HubertModel
    from fairseq.tasks.hubert_pretraining import HubertPretrainingConfig

    model, cfg, task = fairseq.checkpoint_utils.load_model_ensemble_and_task([HUBERT])
    from fairseq.dataclass.utils import merge_with_parent

    own = HubertModel(merge_with_parent(HubertConfig(), cfg.model), merge_with_parent(HubertPretrainingConfig(), cfg.task), [["a"] * 9, ["b"] * 7])
    own.load_state_dict(model[0].state_dict())


@project
def torchaudio_importer():  # walks the model's parts
    model = fairseq.checkpoint_utils.load_model_ensemble_and_task([HUBERT])[0][0]
    assert model.encoder.pos_conv[0].kernel_size == (16,) and model.encoder.layers[0].self_attn.num_heads == 2
    assert model.feature_extractor.conv_layers[0][0].out_channels == 8
    assert tuple(model.label_embs_concat.shape) == (16, 6) and model.mask_emb.shape == (WIDTH,)


@project
def dphubert():
    model = fairseq.checkpoint_utils.load_model_ensemble_and_task([HUBERT])[0][0]
    model.remove_pretraining_modules()
    assert model.final_proj is None and "final_proj.weight" not in model.state_dict()


@project
def lip_sync_scores():  # a head of its own on a HuBERT that it fine-tunes
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.ssl = fairseq.checkpoint_utils.load_model_ensemble_and_task([HUBERT])[0][0]
            self.head = nn.Linear(WIDTH, 1)

        def forward(self, wav):
            return self.head(self.ssl(wav, mask=False, features_only=True)["x"].mean(1))

    net = Net()
    with torch.enable_grad():
        net(audio).sum().backward()
    assert net.ssl.encoder.layers[0].fc1.weight.grad.abs().sum() > 0


@project
def mos_prediction():  # UTMOS and its relatives, on another file than usual
    from fairseq import checkpoint_utils, utils

    assert utils is not None
    model = checkpoint_utils.load_model_ensemble_and_task([ADAPTERS])[0][0]
    res = model(audio, mask=False, features_only=True, corpus_key=[0])
    assert res["x"].shape == (1, FRAMES, WIDTH)


@project
def emotion2vec_like():  # data2vec features, frame by frame, averaged layers
    from examples.data2vec.models.data2vec_audio import Data2VecAudioModel

    (model,), cfg, task = fairseq.checkpoint_utils.load_model_ensemble_and_task([DATA2VEC])
    assert isinstance(model, Data2VecAudioModel)
    wav = torch.nn.functional.layer_norm(audio[0], audio[0].shape).view(1, -1)
    feats = model.extract_features(wav, padding_mask=None)
    assert feats["x"].shape == (1, FRAMES, WIDTH) and len(feats["layer_results"]) == 12
    stacked = torch.stack([result[2] for result in feats["layer_results"][-8:]]).mean(0)
    assert stacked.shape == (FRAMES, 1, WIDTH)


@project
def hubert_ctc_decoding():
    models, cfg, task = fairseq.checkpoint_utils.load_model_ensemble_and_task([CTC], arg_overrides={"data": "/gone"})
    out = models[0](source=audio, padding_mask=torch.zeros(1, 5000, dtype=torch.bool))
    lprobs = models[0].get_normalized_probs(out, log_probs=True)
    assert lprobs.shape == (FRAMES, 1, len(task.target_dictionary))


@project
def mms_switches_language():  # copies a language's parameters into the model by name
    (model,), cfg, task = fairseq.checkpoint_utils.load_model_ensemble_and_task([ADAPTERS])
    before = model.extract_features(audio, None, corpus_key=[1])["x"]
    for name, value in model.named_parameters():
        if "adapter_layer" in name:
            value.mul_(2)
    assert not torch.equal(before, model.extract_features(audio, None, corpus_key=[1])["x"])


@project
def pretraining_is_refused():
    model = fairseq.checkpoint_utils.load_model_ensemble_and_task([HUBERT])[0][0]
    try:
        model(audio, [torch.zeros(1, 15, dtype=torch.long)])
    except ValueError as error:
        assert "HuBERT's pre-training is not offered" in str(error)
    else:
        raise AssertionError
"""


@pytest.mark.process
def test_projects_run_in_a_fresh_process(tmp_path: Path) -> None:
    for name in ("hubert_base", "hubert_ctc", "data2vec_base", "adapters"):
        (tmp_path / f"{name}.pt").write_bytes(lzma.decompress((DATA / f"{name}.pt.xz").read_bytes()))
    done = subprocess.run(
        [sys.executable, "-c", CALLS, str(tmp_path)], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split()) == CALLS.count("@project") == 14
