"""HuBERT (Hsu et al. 2021): opening, features and fine-tuning; ContentVec's legacy files have its form."""

from fairseq.models.hubert.hubert import HubertConfig, HubertModel
from fairseq.models.hubert.hubert_asr import HubertAsrConfig, HubertCtc, HubertCtcConfig, HubertEncoder

__all__ = ["HubertAsrConfig", "HubertConfig", "HubertCtc", "HubertCtcConfig", "HubertEncoder", "HubertModel"]
