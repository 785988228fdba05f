"""Parameter-efficient fine-tuning: a small part of the encoder is trained, all else stays as it was pre-trained."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from fairseq.models.wav2vec.audio_model import AudioModel
from fairseq.modules.lora import LoRASettings, add_lora, merge_state

logger = logging.getLogger(__name__)

# the choice of `model.tuning` -> the parameters that it trains
TRAINED = {
    "adapters": re.compile(r"(^|\.)adapter_layer\."),
    "lora": re.compile(r"\.lora_[AB]$"),
    "bias": re.compile(r"(^|\.)bias$|\.b_[ab]$|\.ln_b$"),  # BitFit (Ben Zaken et al. 2021)
}


Config = Mapping[Any, Any]  # fields of Wav2Vec2AsrConfig; a DictConfig, or plain values


def lora_settings(cfg: Config) -> LoRASettings | None:
    """The updates that a fine-tuning config asks for; None: none."""
    if str(cfg.get("tuning", "all")) != "lora":
        return None
    return LoRASettings(int(cfg["lora_rank"]), float(cfg["lora_alpha"]), float(cfg["lora_dropout"]))


def add_parts(encoder: AudioModel, cfg: Config) -> None:
    """Add low-rank updates to an encoder, if the config asks for them.

    Raises:
        ValueError: `model.lora_targets` matches no layer.
    """
    settings = lora_settings(cfg)
    if settings is not None:
        add_lora(encoder.encoder.layers, cfg["lora_targets"], settings)


def freeze_others(encoder: AudioModel, tuning: str) -> None:
    """Freeze what this choice of `model.tuning` does not train.

    Raises:
        ValueError: the encoder has nothing that it would train.
    """
    if tuning == "all":
        return
    trained = [name for name, _ in encoder.named_parameters() if TRAINED[tuning].search(name)]
    if not trained:
        raise ValueError(
            f"model.tuning={tuning}, but the encoder has no such parameters. To add adapters, set "
            "model.layer_type=trf_adp, model.adp_num=1 and model.adp_dim."
        )
    chosen = set(trained)
    for name, parameter in encoder.named_parameters():
        parameter.requires_grad_(name in chosen)
    count = sum(p.numel() for name, p in encoder.named_parameters() if name in chosen)
    whole = sum(p.numel() for p in encoder.parameters())
    logger.info("model.tuning=%s: %s of the encoder's %s parameters are trained", tuning, f"{count:,}", f"{whole:,}")


def is_added(name: str) -> bool:
    """Whether a parameter belongs to what fine-tuning adds to an encoder, so that a pre-trained model may lack it."""
    return any(TRAINED[kind].search(name) for kind in ("adapters", "lora"))


def is_adapter(name: str) -> bool:
    """Whether a parameter belongs to the adapters of a block."""
    return TRAINED["adapters"].search(name) is not None


def with_added(weights: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """A pre-trained encoder's weights, with the model's own initial values of what fine-tuning adds."""
    return {name: value for name, value in model.state_dict().items() if is_added(name)} | dict(weights)


def merged(weights: Mapping[str, Tensor], cfg: Config) -> dict[str, Tensor]:
    """Weights of a fine-tuned model with its low-rank updates merged, if its config has some."""
    settings = lora_settings(cfg)
    return dict(weights) if settings is None else merge_state(weights, settings.alpha / settings.rank)
