"""What the columns and the config of a wav2vec 2.0 run mean: chance, the codebook's size, the rate's path."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from fairseq.doctor.records import Records
from fairseq.doctor.trends import Series, series
from fairseq.logging.metrics_file import Json

# Updates of a trial, too few to learn anything: each run is at chance in them, and a CTC model says only blanks. The
# smallest models here leave the plateau after 80 to 200.
TRIAL = 100

PAPER_SECONDS = 1.6 * 3600  # of audio per update: Baevski et al. 2020, section 4.2
PAPER_RATE, PAPER_WIDTH = 0.0005, 768  # the base model's peak learning rate and width

# times the rate of the recipe for this audio and width: no model learns, and no warm-up helps. A small model that
# learned six files had 24; at 300 one collapsed at once
FAR_OVER = 64.0


def number(value: Json, default: float = float("nan")) -> float:
    """Return a config value as a number; the default if it is something else, such as an interpolation."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return default
    return float(value)


def numbers(value: Json) -> list[float]:
    """Return a config list as numbers; a single number is a list of one."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [number(one) for one in value]
    return [] if math.isnan(number(value)) else [number(value)]


def is_pretraining(records: Records) -> bool:
    """Say whether the run predicts masked frames, by its config, or by its columns if that is not known."""
    model = records.setting("model._name")
    if isinstance(model, str):
        return model == "wav2vec2"
    return records.training.has("accuracy") or records.training.has("code_perplexity")


def starts_from_scratch(records: Records) -> bool:
    """Say whether the config names no weights to begin with."""
    keys = ("checkpoint.continue_pretraining", "checkpoint.finetune_from_model")
    return not any(bool(records.setting(key)) for key in keys)


def hours_heard(records: Records) -> Series:
    """Return the hours of audio of all updates so far, at each row."""
    seconds = series(records.training, "audio_s_per_update")
    return Series(seconds.updates, np.cumsum(np.diff(seconds.updates, prepend=0) * seconds.values) / 3600)


def chance(records: Records) -> float:
    """Return the InfoNCE of guessing, in bits: log2(1 + negatives)."""
    keys = ("num_negatives", "cross_sample_negatives", "codebook_negatives")
    defaults = (100.0, 0.0, 0.0)
    negatives = sum(number(records.setting(f"model.{key}"), value) for key, value in zip(keys, defaults, strict=True))
    return math.log2(1 + negatives)


def info_nce(records: Records, split: str | None = None) -> Series:
    """Return InfoNCE in bits: loss_0, or the loss itself where it has no other parts.

    Args:
        split: rows of a validation set; None: of training.
    """
    rows = records.training if split is None else records.rows(split)
    if not is_pretraining(records):
        return series(rows, "-")
    return series(rows, "loss_0" if rows.has("loss_0") or rows.has("loss_1") else "loss")


def loss_weights(records: Records) -> tuple[float, float] | None:
    """Return the weights of the diversity term and the feature penalty; None if the config is not known."""
    weights = numbers(records.setting("criterion.loss_weights"))
    if len(weights) == 1:
        weights *= 2
    return (weights[0], weights[1]) if len(weights) == 2 else None


def penalty_column(records: Records) -> str:
    """Return the column of the feature penalty: extra losses of weight 0 have none."""
    weights = loss_weights(records)
    return "loss_1" if weights is not None and weights[0] == 0 else "loss_2"


def groups(records: Records) -> float:
    """Return G, the codebook's groups: the lowest perplexity that it can have."""
    return number(records.setting("model.latent_groups"), 2.0)


def codewords(records: Records) -> float:
    """Return G x V, the highest perplexity that the codebook can have."""
    return groups(records) * number(records.setting("model.latent_vars"), 320.0)


def peak_rate(records: Records) -> float:
    """Return the config's highest learning rate, or the highest that was logged; NaN if neither is known."""
    rates = [rate for rate in numbers(records.setting("optimization.lr")) if not math.isnan(rate)]
    seen = series(records.training, "lr").values
    return max(rates) if rates else float(seen.max()) if len(seen) else float("nan")


def warmup(records: Records) -> float:
    """Return the updates over which the rate rises; 0 if the config does not say.

    tri_stage may give it as a share of the run.
    """
    updates = number(
        records.setting("lr_scheduler.warmup_updates"), number(records.setting("lr_scheduler.warmup_steps"), 0)
    )
    ratio = numbers(records.setting("lr_scheduler.phase_ratio"))
    if updates == 0 and ratio:
        updates = ratio[0] * number(records.setting("optimization.max_update"), 0.0)
    return updates


def path(records: Records) -> Series:
    """Return the sum of the learning rates of all updates so far, at each row.

    Adam moves a weight by about the learning rate in an update, so this is how far it can have gone.
    """
    rates = series(records.training, "lr")
    steps = np.diff(rates.updates, prepend=0)
    before = np.concatenate([[0.0], rates.values[:-1]]) if len(rates.values) else rates.values
    return Series(rates.updates, np.cumsum(steps * (rates.values + before) / 2))


def whole_path(records: Records) -> float:
    """Return an upper bound of the sum of the learning rates of the whole run; NaN if its length is not known."""
    length, peak, warm = number(records.setting("optimization.max_update"), 0.0), peak_rate(records), warmup(records)
    return peak * (length - min(warm, length) / 2) if length > 0 else float("nan")


def rate_over_recipe(records: Records) -> float:
    """Return how many times too high the peak rate is for the audio of an update, by the base model's recipe.

    With Adam, a rate goes with the root of the batch (Malladi et al. 2022) and with 1 / width (Yang et al. 2021); with
    layer_norm_first a model bears about 4 times as much. The demo has 4, the base model on one card without
    accumulation 8.

    Returns:
        NaN where the audio per update is not known.
    """
    seconds = series(records.training, "audio_s_per_update").values
    width = number(records.setting("model.encoder_embed_dim"), PAPER_WIDTH)
    bears = 4.0 if records.setting("model.layer_norm_first") is True else 1.0
    if len(seconds) == 0 or np.median(seconds) <= 0:
        return float("nan")
    recipe = PAPER_RATE * math.sqrt(float(np.median(seconds)) / PAPER_SECONDS) * PAPER_WIDTH / width * bears
    return peak_rate(records) / recipe
