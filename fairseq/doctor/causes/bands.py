"""A run outside of its config's reference band."""

from __future__ import annotations

from fairseq.doctor.bands import band_of
from fairseq.doctor.findings import Finding, cause
from fairseq.doctor.records import Records


@cause("below-band")
def below_band(records: Records) -> Finding | None:
    """Another seed of this config would be better, beyond chance."""
    band = band_of(records.config, records.data)
    if band is None:
        return None
    rows = band.rows(records)
    place = band.place(rows)
    if place.where != "worse":
        return None
    limit = place.low if band.higher_is_better else place.high
    width = max(abs(place.high - place.low), 1e-9)
    split = band.split if rows is records.training else next(iter(records.validation))
    return Finding(
        "below-band",
        "note" if band.by_chance else "warning",
        "The curve is worse than other seeds of this config reach.",
        [f"It is {band.say(place)}.", f"The band: {band.seeds} seeds, {band.source}."],
        "If the data is the band's, compare its preparation (sampling rate, normalisation, duplicates), the audio per "
        "update, and the precision with the band's source.",
        place.since,
        place.update,
        badness=1 + abs(limit - place.value) / width,
        metric=band.metric,
        split=split,
    )
