"""The table of strategies and cards, and what is said to a run that cannot fit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from fairseq.dataclass.configs import DistributedTrainingConfig
from fairseq.distributed.costs import Weight, weights_of
from fairseq.models.wav2vec import Wav2Vec2Model
from fairseq.preflight.memory import Activations
from fairseq.preflight.scaling import Demand, changes, describe
from tests.conftest import REPOSITORY

GB = 2**30
MEMORY = (24, 80, 96, 128, 141)
# kept by a batch of whole crops of 20 s (6, 3 and 2 of them) in bf16, with a GPU's forms: MemoryMeter on these configs
KEPT = {
    "xlsr_300m": Activations(7_857_297_232, 3_028_917_280),
    "xlsr_1b": Activations(9_105_435_188, 1_832_488_988),
    "xlsr_2b": Activations(11_087_071_104, 1_507_457_904),
}


def sizes_of(name: str) -> list[Weight]:
    cfg = OmegaConf.load(REPOSITORY / f"examples/wav2vec/config/pretraining/{name}.yaml").model
    cfg.checkpoint_activations = True
    with torch.device("meta"):
        model = Wav2Vec2Model(cfg)
    return weights_of(model)


@pytest.fixture(scope="module")
def sizes() -> dict[str, list[Weight]]:
    return {name: sizes_of(name) for name in KEPT}


def demand(sizes: list[Weight], name: str, cards: int = 1, recomputes: bool = False, **keys: Any) -> Demand:
    return Demand(sizes, False, 2, DistributedTrainingConfig(**keys), cards, 200, KEPT[name], recomputes)


@pytest.mark.parametrize(
    ("name", "all_on_one_card", "smallest_of_24_gb", "recomputing"),
    [("xlsr_300m", 12.0, 1, 1), ("xlsr_1b", 22.9, 1, 1), ("xlsr_2b", 42.6, 7, 3)],
)
def test_table(
    sizes: dict[str, list[Weight]], name: str, all_on_one_card: float, smallest_of_24_gb: int, recomputing: int
) -> None:
    section = describe(demand(sizes[name], name, cards=8), (1, 8, 32, 256), MEMORY)
    rows = {(row["strategy"], row["cards"]): row for row in section.values["rows"]}
    assert list(rows) == [(s, n) for s in ("pytorch_ddp", "flat", "fully_sharded") for n in (1, 8, 32, 256)]
    parameters = sum(weight.bytes for weight in sizes[name])
    for (strategy, cards), row in rows.items():
        shards = cards if strategy == "fully_sharded" else 1
        assert parameters <= row["parameters"] * shards < 1.25 * parameters  # shards are uneven
        assert row["update_freq"] == {1: 200, 8: 25, 32: 7, 256: 1}[cards]
        assert row["bytes"] == row["activations"] + sum(
            row[part] for part in ("parameters", "gradients", "optimizer", "average", "buffers", "gathered")
        )
        assert row["fits"] == [size for size in MEMORY if row["bytes"] <= size * GB]
    assert rows["pytorch_ddp", 1]["bytes"] / GB == pytest.approx(all_on_one_card, abs=0.05)
    assert rows["fully_sharded", 256]["bytes"] < rows["fully_sharded", 8]["bytes"] < rows["flat", 8]["bytes"]
    # the price of shards with several micro-batches per update: whole gradients, and weights gathered for each
    assert rows["fully_sharded", 8]["gradients"] > parameters
    assert rows["fully_sharded", 8]["exchanged"] > 20 * rows["flat", 8]["exchanged"]
    smallest = section.values["smallest"]
    assert smallest["false"]["24"]["fully_sharded"] == smallest_of_24_gb
    assert smallest["true"]["24"]["fully_sharded"] == recomputing
    assert all(number == 1 for number in smallest["false"]["80"].values())
    lines = section.lines
    assert max(map(len, lines)) <= 120
    assert sum("8*" in line for line in lines) == 1 and next(line for line in lines if "8*" in line).startswith(
        "  pytorch_ddp"
    )


def test_a_running_average_has_a_column(sizes: dict[str, list[Weight]]) -> None:
    section = describe(demand(sizes["xlsr_1b"], "xlsr_1b")._replace(averages=True), (1, 8), MEMORY)
    assert "EMA" in section.lines[0] and max(map(len, section.lines)) <= 120


def test_ddp_can_fit_one_card_and_no_more(sizes: dict[str, list[Weight]]) -> None:
    """From two cards on it has buckets, as large as the gradients."""
    section = describe(demand(sizes["xlsr_2b"], "xlsr_2b"), (1, 8), (44,))
    row = next(line for line in section.lines if "44 GB" in line and "(" in line)
    assert row.split(maxsplit=2)[2].split("  ")[0].strip() == "1 only (1)", row
    assert section.values["smallest"]["false"]["44"] == {"pytorch_ddp": 1, "flat": 1, "fully_sharded": 1}


@pytest.mark.parametrize(
    ("name", "keys", "said"),
    [
        # recomputing is enough
        ("xlsr_1b", {"cards": 8}, "model.checkpoint_activations=true needs 19.7 GB; or "),
        # shards are needed; the run's own cards are enough
        ("xlsr_2b", {"cards": 256}, "distributed_training.ddp_backend=fully_sharded needs 11.1 GB."),
        ("xlsr_2b", {"cards": 4}, "distributed_training.ddp_backend=fully_sharded and model.checkpoint_activations=true needs 18.1 GB."),
        # more cards
        ("xlsr_2b", {"cards": 1}, "distributed_training.ddp_backend=fully_sharded needs 7 cards, and then 23.6 GB; or distributed_training.ddp_backend=fully_sharded and model.checkpoint_activations=true needs 3 cards, and then 20.8 GB."),
        ("xlsr_2b", {"cards": 1, "recomputes": True}, "distributed_training.ddp_backend=fully_sharded needs 3 cards, and then 20.8 GB."),
        # sharded already
        ("xlsr_2b", {"cards": 4, "ddp_backend": "fully_sharded"}, "model.checkpoint_activations=true needs 18.1 GB; or "),
    ],
)  # fmt: skip
def test_runs_that_cannot_fit_24_gb(sizes: dict[str, list[Weight]], name: str, keys: dict[str, Any], said: str) -> None:
    run = demand(sizes[name], name, **keys)
    assert run.need(run.strategy, run.cards, run.recomputes) > 24 * GB
    assert changes(run, 24, 800_000).startswith(said)


def test_a_smaller_batch_is_offered_where_the_rest_fits(sizes: dict[str, list[Weight]]) -> None:
    run = demand(sizes["xlsr_2b"], "xlsr_2b", cards=4, ddp_backend="fully_sharded")
    text = changes(run, 24, 800_000)
    tokens = int(text.partition("max_tokens to at most ")[2].split(" ")[0].replace(",", ""))
    share = tokens / 800_000
    assert (
        run.own.on_device + share * KEPT["xlsr_2b"].kept
        <= 24 * GB
        < run.own.on_device + 1.01 * share * KEPT["xlsr_2b"].kept
    )
    assert "max_tokens" not in changes(demand(sizes["xlsr_2b"], "xlsr_2b"), 24, 800_000)  # the weights alone are 32 GB


def test_a_run_that_no_number_of_cards_can_hold() -> None:
    small = [Weight(torch.Size([10]), 4, True, None)]
    run = Demand(small, False, 2, DistributedTrainingConfig(), 1, 1, Activations(50 * GB, None), False)
    assert changes(run, 24, None).startswith("lower dataset.max_tokens (or dataset.batch_size)")
    huge = run._replace(weights=[Weight(torch.Size([GB * 100]), 4, True, None)])
    assert "use cards with more memory, or a smaller model" in changes(huge, 24, None)
