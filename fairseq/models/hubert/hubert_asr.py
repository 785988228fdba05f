"""HuBERT with an output layer over a dictionary's symbols, as fairseq's `hubert_ctc` files hold it."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig
from torch import Tensor

from fairseq.models import register_model
from fairseq.models.wav2vec.asr_config import Wav2Vec2AsrConfig, Wav2Vec2CtcConfig
from fairseq.models.wav2vec.stages import Encoded, GivenMasks
from fairseq.models.wav2vec.wav2vec2_asr import HasTargetDictionary, Wav2VecCtc, Wav2VecEncoder

__all__ = ["HubertAsrConfig", "HubertCtc", "HubertCtcConfig", "HubertEncoder"]


@dataclass
class HubertAsrConfig(Wav2Vec2AsrConfig):
    """Fine-tuning settings, the same as wav2vec 2.0's."""


@dataclass
class HubertCtcConfig(Wav2Vec2CtcConfig, HubertAsrConfig):
    """Settings of `hubert_ctc`."""

    @staticmethod
    def only_opens() -> str:
        return "it opens and transcribes. To fine-tune a HuBERT, set model=wav2vec_ctc and model.w2v_path=FILE."


class HubertEncoder(Wav2VecEncoder):
    """The pre-trained HuBERT without its label embeddings, and an output layer.

    Args:
        cfg: fields of HubertAsrConfig in any form; see Wav2VecEncoder.
        task: only its `target_dictionary` is used; None: no output layer.
    """

    def __init__(
        self,
        cfg: Wav2Vec2AsrConfig | DictConfig | Namespace | dict[str, Any],
        task: HasTargetDictionary | None = None,
    ) -> None:
        dictionary = None if task is None else task.target_dictionary
        super().__init__(cfg, None if dictionary is None else len(dictionary))

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride] - fairseq's argument names
        self, source: Tensor, padding_mask: Tensor | None = None, tbc: bool = True, **kwargs: Any
    ) -> dict[str, Any]:
        """Encode; see Wav2VecEncoder. The padding of frames is fairseq's for HuBERT: see HubertModel.

        Args:
            source: raw audio, B x S.
            padding_mask: B x S, nonzero where a sample is padding; None: no padding.
            tbc: return logits as T x B x V; false: B x T x V.
            kwargs: as in Wav2VecEncoder.
        Returns:
            encoder_out, padding_mask and layer_results, and the padding again as encoder_padding_mask.
        """
        found = super().forward(source, padding_mask, **kwargs)
        if not tbc:
            found["encoder_out"] = found["encoder_out"].transpose(0, 1)
        return {**found, "encoder_padding_mask": found["padding_mask"]}

    def encode(
        self,
        source: Tensor,
        padding_mask: Tensor | None,
        given: GivenMasks | None,
        corpus_key: Sequence[int] | None = None,
    ) -> Encoded:
        frame_padding = self.w2v_model.frame_padding(source, padding_mask)
        return self.w2v_model.encode(source, padding_mask, given, True, None, corpus_key, frame_padding)

    def upgrade_state_dict_named(self, state_dict: dict[str, Any], name: str) -> dict[str, Any]:
        """Leave out what fairseq keeps of the pre-training's objective: label embeddings."""
        prefix = f"{name}.w2v_model." if name else "w2v_model."
        for key in [key for key in state_dict if key.startswith(prefix)]:
            if self.w2v_model.is_pretraining_only(key.removeprefix(prefix)):
                del state_dict[key]
        return state_dict


@register_model("hubert_ctc", dataclass=HubertCtcConfig)
class HubertCtc(Wav2VecCtc):
    """Predict a symbol per frame."""

    config_class = HubertCtcConfig

    @classmethod
    def build_encoder(cls, cfg: DictConfig, task: HasTargetDictionary) -> HubertEncoder:
        return HubertEncoder(cfg, task)
