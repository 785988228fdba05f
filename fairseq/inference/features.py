"""Features from any depth of the model: the extractor, an encoder block, or the quantizer."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from fairseq.frames import frame_centres
from fairseq.inference.audio import AudioSource
from fairseq.inference.model import SpeechModel
from fairseq.inference.transcribe import read_windows
from fairseq.inference.windows import WindowSettings

NAMED = ("extractor", "projected", "context", "quantized", "codes")


def checked(model: SpeechModel, features: Sequence[str]) -> list[str]:
    """Return `features` without duplicates, with block numbers in plain form ("00" is 0).

    Raises:
        ValueError: see `check_feature`.
    """
    return list(dict.fromkeys(check_feature(model, feature) for feature in features))


def check_feature(model: SpeechModel, feature: str) -> str:
    """Return a feature's name; for a block, its number in plain form.

    Args:
        feature: the number of a block (0: output of the first block), or a name: extractor (output of the convolutions,
            layer-normed), projected (input of the encoder), context (output of the encoder, after the final norm of a
            pre-norm model), quantized (codewords), codes (codeword indices by group).
    Raises:
        ValueError: the feature does not exist, or the model has no quantizer.
    """
    blocks = len(model.encoder.encoder.layers)
    if feature.isdecimal():
        if int(feature) >= blocks:
            raise ValueError(f"block {feature} does not exist: this model has {blocks} blocks, 0 to {blocks - 1}")
        return str(int(feature))
    if feature not in NAMED:
        raise ValueError(
            f"the feature {feature!r} is not known; it must be a block number (0 to {blocks - 1}) or one of: "
            f"{', '.join(NAMED)}"
        )
    if feature in ("quantized", "codes") and model.encoder.quantizer is None:
        raise ValueError(
            f"{feature!r} needs a quantizer, which this model does not have (fine-tuning drops it): use the "
            "pre-trained checkpoint"
        )
    return feature


@torch.inference_mode()
def extract(model: SpeechModel, waves: Sequence[np.ndarray], features: Sequence[str]) -> list[dict[str, np.ndarray]]:
    """Compute features of each waveform in one forward pass, which stops at the deepest block needed.

    Args:
        waves: each long enough for one frame.
    Returns:
        For each waveform, name -> T x C float32; for `codes`, T x G int64.
    Raises:
        ValueError: see `check_feature`.
    """
    features = checked(model, features)
    source, padding_mask = model.batch(waves)
    with model.device.autocast(model.dtype):
        found = _of_batch(model, source, padding_mask, features)
    arrays = {
        feature: (values if feature == "codes" else values.float()).cpu().numpy() for feature, values in found.items()
    }
    frames = [model.num_frames(len(wave)) for wave in waves]
    return [{feature: values[row, :count] for feature, values in arrays.items()} for row, count in enumerate(frames)]


def _of_batch(
    model: SpeechModel, source: Tensor, padding_mask: Tensor | None, features: Sequence[str]
) -> dict[str, Tensor]:
    """Compute features of a batch: B x T x C each (codes: B x T x G), including padding."""
    encoder = model.encoder
    found: dict[str, Tensor] = {}
    blocks = [int(feature) for feature in features if feature.isdecimal()]
    if blocks or "context" in features:
        last = None if "context" in features else max(blocks)
        result = encoder.encode(source, padding_mask, features_only=True, layer=last)
        latents = result.unmasked
        found = {str(block): result.layer_results[block][0].transpose(0, 1) for block in blocks}
        found["context"] = result.context
    else:
        latents = encoder.latents(source, padding_mask)
    found["extractor"] = latents
    if "projected" in features:
        found["projected"] = encoder.project_latents(latents)
    if encoder.quantizer is not None and ("quantized" in features or "codes" in features):
        found["quantized"], found["codes"] = encoder.quantizer.forward_idx(latents)
    return {feature: found[feature] for feature in features}


def extract_source(
    model: SpeechModel,
    source: AudioSource,
    features: Sequence[str],
    settings: WindowSettings,
    tick: Callable[[], None] | None = None,
) -> dict[str, np.ndarray]:
    """Compute features of a whole source, window by window, each frame once; `tick` is called after each window.

    Raises:
        ValueError: the source is shorter than one frame's receptive field, or cannot be read.
    """
    if model.num_frames(source.num_samples) == 0:
        raise ValueError(f"the audio has {source.num_samples} samples, fewer than the receptive field of one frame")
    features = checked(model, features)
    parts: dict[str, list[np.ndarray]] = {feature: [] for feature in features}
    for window, wave in read_windows(model, source, settings):
        for feature, values in extract(model, [wave], features)[0].items():
            parts[feature].append(values[window.keep])
        if tick is not None:
            tick()
    return {feature: np.concatenate(pieces) for feature, pieces in parts.items()}


def frame_seconds(model: SpeechModel, num_frames: int) -> np.ndarray:
    """Return the time of each frame's centre in seconds, T float64; (320 i + 199.5) / 16000 for base."""
    return np.asarray(frame_centres(num_frames, model.conv_layers)) / model.sample_rate
