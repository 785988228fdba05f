"""Two ways to shorten the loss plateau at chance: a falling logit temperature and a small mask embedding.

See docs/stuck-at-6.658.md.
"""

from __future__ import annotations

from fairseq.models.wav2vec.config import Wav2Vec2Config

_SMALL_MASK_EMB = 0.1


def logit_temperature(cfg: Wav2Vec2Config, num_updates: int) -> float:
    """Logit temperature at an update: `logit_temp`, or a geometric decay to it from `logit_temp_start`."""
    if cfg.logit_temp_start is None or num_updates >= cfg.logit_temp_updates:
        return cfg.logit_temp
    return cfg.logit_temp_start * (cfg.logit_temp / cfg.logit_temp_start) ** (num_updates / cfg.logit_temp_updates)


def mask_emb_bound(cfg: Wav2Vec2Config) -> float:
    """Upper bound of the initial values of `mask_emb`; the lower one is 0.

    With the temperature schedule, a small vector shortens the plateau at chance. Probable reason: at fairseq's 1 it
    outweighs what the positional convolution adds from neighbouring frames, so masked frames look alike.
    """
    if cfg.mask_emb_init is not None:
        return cfg.mask_emb_init
    return 1.0 if cfg.logit_temp_start is None else _SMALL_MASK_EMB
