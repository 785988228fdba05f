"""wav2vec 2.0 (Baevski et al. 2020, arXiv:2006.11477).

    raw audio      B x S       feature_extractor   convolutions, one frame about every 20 ms
    latent frames  B x T x C   quantizer           codewords of the masked frames: the targets, B x M
         |                     masking             spans of frames become mask_emb
         v
    context        B x T x C   encoder             positional_convolution, then transformer or conformer_encoder
         |
         v                     contrastive         find each masked frame's target among N negatives
    logits         (1+N) x B x M

Letters, here and in every docstring of the package:
    B utterances    S audio samples    T frames    C channels    M masked positions per row    N negatives
    G codebook groups    V codewords per group    D codeword width    H attention heads    U label length
"""

from fairseq.models.wav2vec.classification import Wav2Vec2ClassificationConfig, Wav2VecClassification
from fairseq.models.wav2vec.config import Wav2Vec2Config
from fairseq.models.wav2vec.wav2vec2 import Wav2Vec2Model
from fairseq.models.wav2vec.wav2vec2_asr import Wav2Vec2CtcConfig, Wav2VecCtc

__all__ = [
    "Wav2Vec2ClassificationConfig",
    "Wav2Vec2Config",
    "Wav2Vec2CtcConfig",
    "Wav2Vec2Model",
    "Wav2VecClassification",
    "Wav2VecCtc",
]
