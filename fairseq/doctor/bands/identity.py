"""The values of a config that make a curve what it is: two runs with the same ones differ by chance only."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping

from fairseq.doctor.records import Records
from fairseq.logging.metrics_file import Json

# groups whose keys all count, except those that only say how something is computed or where it is found
GROUPS = ("model", "criterion", "optimizer", "lr_scheduler")
WITHOUT = frozenset(
    (
        "bf16",
        "checkpoint_activations",
        "crop_seq_to_multiple",
        "data",
        "ddp_backend",
        "fp16",
        "fp16_adam_stats",
        "log_keys",
        "min_params_to_wrap",
        "offload_activations",
        "report_accuracy",
        "required_seq_len_multiple",
        "tpu",
        "use_fused",
        "use_old_adam",
        "w2v_path",
    )
)
OTHERS = (
    "task._name",
    "task.sample_rate",
    "task.normalize",
    "task.max_sample_size",
    "task.min_sample_size",
    "task.labels",
    "optimization.lr",
    "optimization.clip_norm",
    "optimization.max_update",
    "optimization.sentence_avg",
)
SIZE = "samples_per_update"  # processes x update_freq x max_tokens
NEEDED = (
    "model._name",
    "criterion._name",
    "task._name",
    "optimization.lr",
    SIZE,
)  # a config without them matches nothing


def identity(config: Mapping[str, Json]) -> dict[str, Json]:
    """Return the values, by key; those that are off (null, false, 0) are left out: other versions' configs lack them.

    Args:
        config: a run's config, group by group.
    """
    found: dict[str, Json] = {}
    for group in GROUPS:
        values = config.get(group)
        for key, value in _flat(values, f"{group}.") if isinstance(values, dict) else ():
            if key.rpartition(".")[2] not in WITHOUT:
                found[key] = comparable(value)
    records = Records(config=config)
    for key in OTHERS:
        found[key] = comparable(records.setting(key))
    found[SIZE] = _size(records)
    return {key: value for key, value in found.items() if value}


def _flat(values: Mapping[str, Json], prefix: str) -> Iterator[tuple[str, Json]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def comparable(value: Json) -> Json:
    """A value in one form: `(0.9, 0.98)` and [0.9, 0.98], 1 and 1.0, `[(2,3)] * 4` and `[(2, 3)]*4` are the same."""
    if isinstance(value, str):
        try:
            literal = ast.literal_eval(value)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return value.replace(" ", "")
        return value if isinstance(literal, (str, bytes, dict, set, complex)) else comparable(literal)
    if isinstance(value, (list, tuple)):
        return [comparable(item) for item in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _size(records: Records) -> float | None:
    processes = records.setting("distributed_training.distributed_world_size")
    tokens = records.setting("dataset.max_tokens")
    frequency = records.setting("optimization.update_freq")
    if isinstance(frequency, list):
        frequency = frequency[-1] if frequency else 1
    if not all(isinstance(number, (int, float)) for number in (processes, tokens, frequency)):
        return None
    return float(processes) * float(tokens) * float(frequency)  # type: ignore[arg-type]


def differences(wanted: Mapping[str, Json], config: Mapping[str, Json]) -> list[str]:
    """The keys in which a config differs from an identity; keys that its version does not have do not count."""
    own, records = identity(config), Records(config=config)
    return [
        key
        for key in dict.fromkeys((*wanted, *own))
        if not _alike(key, wanted.get(key), own.get(key)) and (key in own or key in NEEDED or _has(records, key))
    ]


def _has(records: Records, key: str) -> bool:
    group, _, name = key.rpartition(".")
    values = records.setting(group)
    return isinstance(values, dict) and name in values


def _alike(key: str, wanted: Json, own: Json) -> bool:
    if key == SIZE and isinstance(wanted, float) and isinstance(own, float):
        return abs(own - wanted) <= 0.02 * wanted
    return wanted == own
