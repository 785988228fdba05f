"""Much of what the device computes is padding."""

from __future__ import annotations

from fairseq.doctor.findings import Finding, Severity, cause
from fairseq.doctor.records import Records
from fairseq.doctor.windows import Windows, mean, number

# Batches of sorted utterances have 1 to 5 % padding, seven buckets of LibriSpeech about 10 %. At 30 %, tighter batches
# make a run 1.4 times as fast.
MUCH, SOME = 30.0, 20.0  # % of the samples sent
GOOD_BUCKETS = 7


@cause("padding")
def padding(records: Records) -> Finding | None:
    """A large share of the samples in batches is padding."""
    windows = Windows(records)
    shares = windows.means("padding")
    severity: Severity = "warning"
    stretch = windows.longest(shares >= MUCH)
    if stretch is None:
        severity, stretch = "note", windows.longest(shares >= SOME)
    if stretch is None:
        return None
    share = mean(shares, stretch)
    begin, end = int(windows.begin[stretch.first]), int(windows.end[stretch.last])
    evidence = [
        f"{share:.0f} % of the samples in batches were padding in the updates {begin:,} to {end:,}: without it, an "
        f"update would take {100 - share:.0f} % of its time."
    ]
    return Finding(
        "padding",
        severity,
        "Much of what the device computes is padding.",
        evidence + _settings(records),
        _change(records),
        begin,
        end,
        badness=share / MUCH,
        metric="padding",
    )


def _settings(records: Records) -> list[str]:
    names = (
        "task.num_batch_buckets",
        "task.max_sample_size",
        "dataset.max_tokens",
        "dataset.batch_size",
        "dataset.required_batch_size_multiple",
    )
    known = [f"{name}={value}" for name in names if (value := records.setting(name)) is not None]
    return [f"Settings: {', '.join(known)}."] if known else []


def _change(records: Records) -> str:
    buckets = number(records.setting("task.num_batch_buckets"))
    change: list[str] = []
    if buckets and buckets < GOOD_BUCKETS:
        change.append(f"Set task.num_batch_buckets={GOOD_BUCKETS}: an utterance is padded to the length of its bucket.")
    elif buckets:
        change.append(
            "Each bucket ends an epoch with a batch that is filled up; with little data, set fewer "
            "task.num_batch_buckets or a smaller dataset.max_tokens."
        )
    if records.setting("task.max_sample_size") is None:
        change.append("Set task.max_sample_size=250000 (15.6 s), so that a few long utterances do not set the length.")
    else:
        change.append("Lower task.max_sample_size if few utterances are that long.")
    if not buckets:
        change.append(
            "Lower dataset.required_batch_size_multiple or dataset.batch_size: smaller batches have more equal lengths."
        )
    if not records.setting("task.labels") and records.setting("task.enable_padding") and not buckets:
        change.append("Pre-training can crop instead of pad: task.enable_padding=false.")
    return " ".join(change)
