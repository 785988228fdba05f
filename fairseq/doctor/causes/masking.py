"""The share of frames that is masked, compared with what the config asks for."""

from __future__ import annotations

import contextlib
import math
from types import SimpleNamespace
from typing import cast

import numpy as np

from fairseq.doctor.findings import Finding, cause
from fairseq.doctor.pretraining import number
from fairseq.doctor.records import Records
from fairseq.doctor.trends import series
from fairseq.frames import parse_conv_layers
from fairseq.masks.settings import MaskConfig, SpanFields, time_masks
from fairseq.masks.spans import common_count

_FAR = 1.4  # times, either way; utterances of different lengths change it by less than 1.15
_UTTERANCES = 100  # spans of fewer are few, and their share is a matter of chance
_KEYS = (
    "mask_prob",
    "mask_length",
    "mask_selection",
    "mask_other",
    "no_mask_overlap",
    "mask_min_space",
)


@cause("masked-share", updates=20)
def masked_share(records: Records) -> Finding | None:
    """Find a share of masked frames that is far from the config's, in pre-training."""
    measured = _measured(records)
    if measured is None:
        return None
    masks, frames, share = measured
    expected = common_count(frames, masks._replace(same_count=True)) / frames
    if expected <= 0 or share <= 0 or 1 / _FAR < share / expected < _FAR:
        return None
    rows = records.training
    seconds = frames / _frame_rate(records)
    return Finding(
        "masked-share",
        "warning",
        f"Far {'fewer' if share < expected else 'more'} frames are masked than the config asks for.",
        (
            f"{100 * share:.0f} % of the frames are masked; {100 * expected:.0f} % are expected with model.mask_prob="
            f"{masks.prob:g}, model.mask_length={masks.length} and utterances of {seconds:.1f} s.",
        ),
        "Check that this is the config you mean, the code that draws masks, and the utterances' lengths: short ones "
        "have at least two spans (task.min_sample_size leaves them out).",
        int(rows.updates[0]),
        int(rows.updates[-1]),
        badness=abs(math.log(share / expected)),
        metric="masked_share" if rows.has("masked_share") else "wpb",
    )


def _measured(records: Records) -> tuple[MaskConfig, int, float] | None:
    """Return the settings, the frames of a mean utterance, and the share of them that is masked."""
    if records.setting("model._name") != "wav2vec2":
        return None
    model = {key: records.setting(f"model.{key}") for key in _KEYS}
    seconds, rows = series(records.training, "audio_s_per_update"), series(records.training, "bsz")
    masked = series(records.training, "wpb")
    if (
        any(value is None for value in model.values())
        or min(len(seconds.values), len(rows.values), len(masked.values)) < 2
    ):
        return None
    if records.setting("model.require_same_masks") is False:
        return None
    try:
        masks = time_masks(
            cast(SpanFields, SimpleNamespace(**model)), number(records.setting("model.mask_dropout"), 0.0)
        )
    except ValueError:
        return None
    audio, batch = float(np.mean(seconds.values)), float(np.mean(rows.values))
    if audio <= 0 or batch * records.covered < _UTTERANCES:
        return None
    frames = max(1, round(audio / batch * _frame_rate(records)))
    given = series(records.training, "masked_share").values
    share = (
        float(np.mean(given)) / 100 if len(given) else float(np.mean(masked.values)) / (audio * _frame_rate(records))
    )
    return masks, frames, share


def _frame_rate(records: Records) -> float:
    """Return frames per second of audio."""
    layers = records.setting("model.conv_feature_layers")
    stride = 320
    if isinstance(layers, str):
        with contextlib.suppress(ValueError):
            stride = math.prod(layer.stride for layer in parse_conv_layers(layers))
    return number(records.setting("task.sample_rate"), 16000.0) / stride
