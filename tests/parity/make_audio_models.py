"""Write `tests/parity/data/audio_models`: checkpoints and features of small random models, made by fairseq.

    PYTHONPATH=fairseq_fixed-0.12.3.1 python tests/parity/make_audio_models.py FOLDER

runs fairseq-fixed 0.12.3.1 (the unpacked source distribution, in an environment with torch 2.13.0), not this package.
Depths and norms are those of the published base and large models; widths are 8 and 12. fp32, eval mode, seed 7. Each NAME.pt.xz is
a file as fairseq's trainer writes it, each NAME.npz holds the outputs for the audio in audio.npz.
"""

# pyright: reportMissingImports=false, reportAttributeAccessIssue=false, reportArgumentType=false
from __future__ import annotations

import io
import lzma
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fairseq.examples.data2vec.models.data2vec_audio import Data2VecAudioConfig, Data2VecAudioModel
from omegaconf import OmegaConf, open_dict

from fairseq.data import Dictionary
from fairseq.dataclass.configs import FairseqConfig
from fairseq.models.hubert.hubert import HubertConfig, HubertModel
from fairseq.models.hubert.hubert_asr import HubertCtc, HubertCtcConfig
from fairseq.models.wav2vec.wav2vec2 import Wav2Vec2Config, Wav2Vec2Model
from fairseq.models.wav2vec.wav2vec2_asr import Wav2Vec2CtcConfig, Wav2VecCtc
from fairseq.tasks.audio_finetuning import AudioFinetuningConfig, AudioFinetuningTask
from fairseq.tasks.audio_pretraining import AudioPretrainingConfig
from fairseq.tasks.hubert_pretraining import HubertPretrainingConfig, HubertPretrainingTask

SMALL: dict[str, Any] = {
    "conv_feature_layers": "[(8, 10, 5)] + [(8, 3, 2)] * 4 + [(8, 2, 2)] * 2",
    "encoder_embed_dim": 12,
    "encoder_ffn_embed_dim": 16,
    "encoder_attention_heads": 2,
    "conv_pos": 16,
    "conv_pos_groups": 2,
}
BASE: dict[str, Any] = {**SMALL, "encoder_layers": 12}
LARGE: dict[str, Any] = {**SMALL, "encoder_layers": 24, "extractor_mode": "layer_norm", "layer_norm_first": True}


def whole(model: Any, name: str, task: Any, task_name: str) -> Any:
    """A whole config with these groups, as hydra composes it."""
    cfg = OmegaConf.structured(FairseqConfig())
    with open_dict(cfg):
        cfg.model = OmegaConf.structured(model)
        cfg.model._name = name
        cfg.task = OmegaConf.structured(task)
        cfg.task._name = task_name
    return cfg


def dictionary(size: int) -> Dictionary:
    found = Dictionary()
    for number in range(size):
        found.add_symbol(str(number))
    return found


def perturbed(model: torch.nn.Module) -> Any:
    """The model in eval mode, with no parameter at its usual initial value."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
        for name, buffer in model.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                buffer.add_(torch.rand_like(buffer))
    return model.eval()


def write(
    folder: Path, name: str, cfg: Any, model: Any, task_state: Any, arrays: dict[str, torch.Tensor], **more: Any
) -> None:
    state = {
        **more,
        "args": None,
        "cfg": OmegaConf.to_container(cfg, resolve=True, enum_to_str=True),  # as its trainer
        "model": model.state_dict(),
        "criterion": None,
        "optimizer_history": [{"num_updates": 3, "criterion_name": "X", "optimizer_name": "Y"}],
        "task_state": task_state,
        "extra_state": {"epoch": 1},
        "last_optimizer_state": None,
    }
    file = io.BytesIO()
    torch.save(state, file)
    (folder / f"{name}.pt.xz").write_bytes(lzma.compress(file.getvalue(), preset=9))
    np.savez_compressed(folder / f"{name}.npz", **{key: value.detach().numpy() for key, value in arrays.items()})
    print(name, (folder / f"{name}.pt.xz").stat().st_size, (folder / f"{name}.npz").stat().st_size)


def audio() -> tuple[torch.Tensor, torch.Tensor]:
    """Two utterances of 5,000 samples, the second with 1,300 of padding."""
    source = torch.randn(2, 5000, generator=torch.Generator().manual_seed(7)).half().float()
    padding = torch.zeros(2, 5000, dtype=torch.bool)
    padding[1, 3700:] = True
    source[padding] = 0
    return source, padding


def hubert_task(**changes: Any) -> HubertPretrainingTask:
    cfg = HubertPretrainingConfig(data="/nowhere", labels=["km", "kn"], label_rate=50.0, **changes)
    task = HubertPretrainingTask(cfg)
    task.load_state_dict({"dictionaries": [dictionary(5), dictionary(3)]})
    return task


def hubert(folder: Path, name: str, **settings: Any) -> tuple[Any, HubertModel, HubertPretrainingTask]:
    task = hubert_task(normalize=settings.get("extractor_mode") == "layer_norm")
    config = HubertConfig(label_rate=50.0, **settings)
    model = perturbed(HubertModel(config, task.cfg, task.dictionaries))
    source, padding = audio()
    layers = range(1, settings["encoder_layers"] + 1)
    with torch.no_grad():
        x, frames = model.extract_features(source.clone(), padding)
        arrays = {
            "x": model.extract_features(source.clone())[0],
            "layers": torch.stack([model.extract_features(source.clone(), output_layer=n)[0] for n in layers]),
            "padded_x": x,
            "padded_frames": frames,
            "padded_layers": torch.stack(
                [model.extract_features(source.clone(), padding, output_layer=n)[0] for n in layers]
            ),
            "conv": model.extract_features(source.clone(), padding, ret_conv=True)[0],
            "projected": model.final_proj(x),
        }
    cfg = whole(config, "hubert", task.cfg, "hubert_pretraining")
    write(folder, name, cfg, model, task.state_dict(), arrays)
    return cfg, model, task


def hubert_ctc(folder: Path) -> None:
    pretraining, _, pretraining_task = hubert(
        folder, "hubert_batch_norm", **(SMALL | {"encoder_layers": 2}), conv_pos_batch_norm=True
    )
    with open_dict(pretraining):
        pretraining.model.conv_pos_batch_norm = False
    task = HubertPretrainingTask(HubertPretrainingConfig(data="/nowhere", labels=["ltr"], fine_tuning=True))
    # fairseq's fine-tuning task shares the state of the pre-training's
    task.load_state_dict({"target_dictionary": dictionary(6), "dictionaries": pretraining_task.dictionaries})
    config = OmegaConf.structured(
        HubertCtcConfig(w2v_path="/nowhere/hubert.pt", w2v_args=pretraining, normalize=False, data="/nowhere")
    )
    with open_dict(config):
        config.autoregressive = False
    model = perturbed(HubertCtc.build_model(config, task))
    source, padding = audio()
    with torch.no_grad():
        out = model(source=source.clone(), padding_mask=padding)
        plain = model(source=source.clone(), padding_mask=None)
        arrays = {
            "logits": plain["encoder_out"],
            "padded_logits": out["encoder_out"],
            "padded_frames": out["encoder_padding_mask"],
            "log_probs": model.get_normalized_probs(plain, log_probs=True),
        }
    cfg = whole(
        HubertCtcConfig(w2v_path="/nowhere/hubert.pt", normalize=False, data="/nowhere"),
        "hubert_ctc",
        task.cfg,
        "hubert_pretraining",
    )
    with open_dict(cfg):
        cfg.model.w2v_args = pretraining
    write(folder, "hubert_ctc", cfg, model, {"target_dictionary": task.target_dictionary}, arrays)


def data2vec(folder: Path, name: str, **settings: Any) -> None:
    config = Data2VecAudioConfig(**settings, ema_anneal_end_step=10, max_update=10)
    model = perturbed(Data2VecAudioModel(config))
    model.set_num_updates(1)  # makes the teacher
    source, padding = audio()
    layers = range(settings["encoder_layers"])
    with torch.no_grad():
        plain = model.extract_features(source.clone(), None)
        padded = model.extract_features(source.clone(), padding)
        arrays = {
            "x": plain["x"],
            "layers": torch.stack([model.extract_features(source.clone(), None, layer=n)["x"] for n in layers]),
            "layer_results": torch.stack([result[0] for result in plain["layer_results"]]),
            "padded_x": padded["x"],
            "padded_frames": padded["padding_mask"],
        }
    cfg = whole(config, "data2vec_audio", AudioPretrainingConfig(data="/nowhere"), "audio_pretraining")
    write(folder, name, cfg, model, {}, arrays)


def adapters(folder: Path) -> None:
    settings = {**LARGE, "encoder_layers": 4, "layer_type": "trf_adp", "adp_num": 3, "adp_dim": 5, "adp_trf_idx": "1:4"}
    config = Wav2Vec2Config(**settings, quantize_targets=True, final_dim=8, latent_vars=5)
    model = perturbed(Wav2Vec2Model(config))
    source, padding = audio()
    with torch.no_grad():
        arrays = {}
        for key in (0, 2):
            plain = model.extract_features(source.clone(), None, corpus_key=[key, key])
            padded = model.extract_features(source.clone(), padding, corpus_key=[key, key])
            arrays |= {f"x_{key}": plain["x"], f"padded_x_{key}": padded["x"], "padded_frames": padded["padding_mask"]}
            arrays[f"layer_results_{key}"] = torch.stack([result[0] for result in plain["layer_results"]])
    cfg = whole(config, "wav2vec2", AudioPretrainingConfig(data="/nowhere", normalize=True), "audio_pretraining")
    write(folder, "adapters", cfg, model, {}, arrays)


def adapters_ctc(folder: Path) -> None:
    """A fine-tuned model with adapters and, as MMS' files have them, two languages in the entry `adapter`."""
    torch.manual_seed(8)
    encoder = Wav2Vec2Config(**(LARGE | {"encoder_layers": 3}), quantize_targets=True, final_dim=8, latent_vars=5)
    task_cfg = AudioPretrainingConfig(data="/nowhere", normalize=True)
    pretraining = OmegaConf.create(
        OmegaConf.to_container(
            whole(encoder, "wav2vec2", task_cfg, "audio_pretraining"), resolve=True, enum_to_str=True
        )
    )
    added = {"layer_type": "trf_adp", "adp_num": 1, "adp_dim": 5, "adp_trf_idx": "all"}
    settings = {"w2v_path": "/nowhere/w2v.pt", "normalize": True, "data": "/nowhere", **added}
    task = AudioFinetuningTask(AudioFinetuningConfig(data="/nowhere", labels="ltr", normalize=True))
    task.load_state_dict({"target_dictionary": dictionary(6)})
    model = perturbed(
        Wav2VecCtc.build_model(OmegaConf.structured(Wav2Vec2CtcConfig(**settings, w2v_args=pretraining)), task)
    )
    own = {name: value.clone() for name, value in model.state_dict().items()}
    source, padding = audio()
    arrays, languages = {}, {}
    for language, size in ((None, 10), ("aaa", 12), ("bbb-script_x", 9)):
        if language is not None:  # as the published inference: another output layer, and parameters replaced by name
            model.w2v_encoder.proj = torch.nn.Linear(12, size)
            names = [name for name in model.state_dict() if ".adapter_layer." in name or ".proj." in name]
            changed = {name: torch.randn_like(model.state_dict()[name]) for name in names}
            languages[language] = {"model": changed, "task_state": {"target_dictionary": dictionary(size - 4)}}
            model.load_state_dict(changed, strict=False)
        with torch.no_grad():
            out = model(source=source.clone(), padding_mask=None, corpus_key=[0, 0])
            padded = model(source=source.clone(), padding_mask=padding, corpus_key=[0, 0])
        arrays |= {f"logits_{language}": out["encoder_out"], f"padded_logits_{language}": padded["encoder_out"]}
    arrays["padded_frames"] = padded["padding_mask"]
    model.w2v_encoder.proj = torch.nn.Linear(12, 10)
    model.load_state_dict(own)
    cfg = whole(Wav2Vec2CtcConfig(**settings), "wav2vec_ctc", task.cfg, "audio_finetuning")
    with open_dict(cfg):
        cfg.model.w2v_args = pretraining
    write(folder, "adapters_ctc", cfg, model, {"target_dictionary": task.target_dictionary}, arrays, adapter=languages)


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    source, padding = audio()
    np.savez_compressed(folder / "audio.npz", source=source.half().numpy(), padding=padding.numpy())
    torch.manual_seed(7)
    stacked = {"pos_conv_depth": 5, "conv_pos": 95}
    hubert(folder, "hubert_base", **BASE, final_dim=6, untie_final_proj=True)
    hubert(folder, "hubert_large", **LARGE, final_dim=6, target_glu=True, skip_nomask=True)
    hubert_ctc(folder)
    data2vec(folder, "data2vec_base", **(BASE | stacked))
    data2vec(folder, "data2vec_large", **(LARGE | stacked | {"layer_norm_first": False}))
    adapters(folder)
    adapters_ctc(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
