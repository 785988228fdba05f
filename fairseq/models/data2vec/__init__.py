"""data2vec (Baevski et al. 2022) on audio: opening, features and fine-tuning."""

from fairseq.models.data2vec.data2vec_audio import Data2VecAudioConfig, Data2VecAudioModel

__all__ = ["Data2VecAudioConfig", "Data2VecAudioModel"]
