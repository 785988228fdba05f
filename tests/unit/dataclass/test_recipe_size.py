"""What updates hold beside the published recipes."""

from __future__ import annotations

import pytest
from omegaconf import DictConfig

from fairseq.dataclass.initialize import resolve_config
from fairseq.dataclass.update_size import beside_the_recipe, update_size


def config(update_freq: list[int], max_tokens: int | None = 1_400_000, layers: int = 12) -> DictConfig:
    return resolve_config(
        {
            "optimization": {"update_freq": update_freq},
            "dataset": {"max_tokens": max_tokens},
            "model": {"_name": "wav2vec2", "encoder_layers": layers},
        }
    )


@pytest.mark.parametrize(("update_freq", "cards", "nodes"), [(64, 1, 1), (8, 8, 1), (4, 8, 2), (2, 8, 4)])
def test_the_recipes_four_sizes_are_one(update_freq: int, cards: int, nodes: int) -> None:
    cfg = config([update_freq])
    size = update_size(cfg, cards, nodes)
    assert size.batches == 64 and size.factors().endswith("= 64 batches")
    assert beside_the_recipe(cfg, size, 16000) is None


def test_a_forgotten_update_freq_is_named_with_what_it_should_be() -> None:
    cfg = config([64])
    told = beside_the_recipe(cfg, update_size(cfg, cards=8, nodes=2), 16000) or ""
    assert "8 processes x update_freq 64 x 2 nodes = 1024 batches of at most 87.5 seconds" in told
    assert "16 times" in told and told.endswith("optimization.update_freq=[4]")


def test_fewer_but_larger_batches_are_as_good() -> None:
    cfg = config([4], max_tokens=2_800_000)
    assert beside_the_recipe(cfg, update_size(cfg, cards=8, nodes=1), 16000) is None
    cfg = config([4], max_tokens=None)  # batches of so many utterances: only their number is known
    assert "update_freq=[8]" in (beside_the_recipe(cfg, update_size(cfg, cards=8, nodes=1), 16000) or "")


def test_large_has_a_size_of_its_own() -> None:
    cfg = config([16], max_tokens=1_200_000, layers=24)
    assert beside_the_recipe(cfg, update_size(cfg, cards=8, nodes=1), 16000) is None
    assert "the large recipe" in (beside_the_recipe(cfg, update_size(cfg, cards=1, nodes=1), 16000) or "")


def test_every_epoch_from_the_lists_end_on_has_its_last_number() -> None:
    cfg = config([1, 2])
    assert [update_size(cfg, 1, 1, epoch).batches for epoch in (1, 2, 3)] == [1, 2, 2]
