"""The Gumbel softmax's temperature."""

from __future__ import annotations

import math

from fairseq.doctor.findings import Finding, cause
from fairseq.doctor.pretraining import chance, info_nce, is_pretraining, number, numbers, warmup
from fairseq.doctor.records import Records
from fairseq.doctor.trends import series

_EARLY = 0.02  # of the run; the paper's floor is reached after 69 % of it


@cause("temperature-too-fast", updates=20)
def temperature_too_fast(records: Records) -> Finding | None:
    """Find a temperature that reaches its floor before the codebook has learned anything."""
    settings = numbers(records.setting("model.latent_temp"))
    curve, temps = info_nce(records), series(records.training, "temp")
    if len(settings) != 3 or len(temps.values) == 0 or not is_pretraining(records):
        return None
    first, floor, factor = settings
    if not (0 < floor < first and 0 < factor < 1):
        return None
    reached = math.ceil(math.log(floor / first) / math.log(factor))
    end = int(temps.updates[-1])
    if end < reached or temps.values[-1] > 1.01 * floor:
        return None
    length = number(records.setting("optimization.max_update"), 0.0)
    before_warmup = reached < warmup(records)
    guessing = len(curve.values) > 0 and curve.at(max(reached, int(curve.updates[0]))) > chance(records) - 0.1
    if not (before_warmup or reached < _EARLY * length or (guessing and reached < 0.2 * length)):
        return None
    codes = series(records.training, "code_perplexity")
    evidence = [f"The temperature fell from {first:g} to its floor, {floor:g}, by update {reached:,} of {length:,.0f}."]
    if before_warmup:
        evidence.append(f"The learning rate still rose then, until update {warmup(records):,.0f}.")
    if guessing:
        evidence.append("InfoNCE was still at chance then, so codes are fixed before the model knows what they mean.")
    if len(codes.values):
        evidence.append(f"Code perplexity is {codes.values[-1]:.0f} at update {codes.updates[-1]:,}.")
    slower = math.exp(math.log(floor / first) / (0.7 * max(length, 1)))
    return Finding(
        "temperature-too-fast",
        "warning",
        "The Gumbel temperature falls too fast: codes become hard choices before the model has learned.",
        evidence,
        f"Set model.latent_temp=[{first:g},{floor:g},{slower:.7g}]: the floor is then reached after 70 % of the run, "
        "as in the paper.",
        reached,
        end,
        metric="temp",
    )
