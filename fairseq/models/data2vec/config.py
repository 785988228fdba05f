"""Configuration of data2vec on audio: fairseq's fields and defaults. Those of its pre-training have no effect."""

from dataclasses import dataclass, field
from typing import Optional

from omegaconf import II

from fairseq.models.wav2vec.audio_config import help_text
from fairseq.models.wav2vec.config import Wav2Vec2Config

_PRETRAINING = help_text("of the pre-training, which is not offered")


@dataclass
class Data2VecAudioConfig(Wav2Vec2Config):
    """Audio model and regression of a teacher's layers."""

    loss_beta: float = field(default=0, metadata=_PRETRAINING)
    loss_scale: Optional[float] = field(default=None, metadata=_PRETRAINING)
    average_top_k_layers: int = field(default=8, metadata=_PRETRAINING)
    layer_norm_target_layer: bool = field(default=False, metadata=_PRETRAINING)
    instance_norm_target_layer: bool = field(default=False, metadata=_PRETRAINING)
    instance_norm_targets: bool = field(default=False, metadata=_PRETRAINING)
    layer_norm_targets: bool = field(default=False, metadata=_PRETRAINING)
    batch_norm_target_layer: bool = field(default=False, metadata=_PRETRAINING)
    group_norm_target_layer: bool = field(default=False, metadata=_PRETRAINING)
    ema_decay: float = field(default=0.999, metadata=_PRETRAINING)
    ema_end_decay: float = field(default=0.9999, metadata=_PRETRAINING)
    ema_anneal_end_step: int = field(default=II("optimization.max_update"), metadata=_PRETRAINING)
    ema_transformer_only: bool = field(default=True, metadata=_PRETRAINING)
    ema_layers_only: bool = field(default=True, metadata=_PRETRAINING)
    max_update: int = field(default=II("optimization.max_update"), metadata=_PRETRAINING)
    min_target_var: float = field(default=0.1, metadata=_PRETRAINING)
    min_pred_var: float = field(default=0.01, metadata=_PRETRAINING)

    @staticmethod
    def only_opens() -> Optional[str]:
        return "it opens, gives features, and is fine-tuned. Set model=wav2vec_ctc and model.w2v_path=FILE."
