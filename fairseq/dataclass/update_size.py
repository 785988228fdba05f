"""How much audio an update uses, compared with the published recipes.

An update has `cards of a node x update_freq x nodes` batches of up to `max_tokens` samples.
"""

from __future__ import annotations

from typing import NamedTuple

from omegaconf import DictConfig


class Recipe(NamedTuple):
    """Batches per update and audio samples per batch of a published model."""

    name: str
    batches: int
    max_tokens: int


# Baevski et al. 2020, section 4.2, as in fairseq's YAMLs; Gaudi's recipe keeps the 64 batches of base
BASE = Recipe("base", 64, 1_400_000)
LARGE = Recipe("large", 128, 1_200_000)
_LARGE_LAYERS = 24
# excludes half and double, the most common mistakes; XLS-R's 0.3B model, which is as large, has 1.6 times as much
_NEAR = (0.75, 1.75)


class UpdateSize(NamedTuple):
    """The number of batches in an update, by its factors."""

    cards: int  # processes of a node
    update_freq: int
    nodes: int
    max_tokens: int | None  # audio samples per batch

    @property
    def batches(self) -> int:
        return self.cards * self.update_freq * self.nodes

    def factors(self) -> str:
        """The product as text: cards x update_freq x nodes = batches."""
        nodes = f" x {self.nodes} nodes" if self.nodes > 1 else ""
        cards = "1 process" if self.cards == 1 else f"{self.cards} processes"
        return f"{cards} x update_freq {self.update_freq}{nodes} = {self.batches} batches"


def update_size(cfg: DictConfig, cards: int, nodes: int, epoch: int = 1) -> UpdateSize:
    """The size of an epoch's updates; the last `optimization.update_freq` applies to all later epochs."""
    frequencies = cfg.optimization.update_freq
    return UpdateSize(cards, frequencies[min(epoch, len(frequencies)) - 1], nodes, cfg.dataset.max_tokens)


def beside_the_recipe(cfg: DictConfig, size: UpdateSize, sample_rate: int) -> str | None:
    """How to match the recipe if updates hold far less or more audio than the published model's; None if they are near.

    Also None if the run continues another model's pre-training: no recipe was published for that. Too little audio
    per update shows as a flat loss; too much means fewer optimizer steps in the same time.
    """
    if cfg.checkpoint.continue_pretraining:
        return None
    layers = cfg.model.encoder_layers if isinstance(cfg.model, DictConfig) and "encoder_layers" in cfg.model else 0
    recipe = LARGE if layers >= _LARGE_LAYERS else BASE
    tokens = size.max_tokens or recipe.max_tokens
    ratio = size.batches * tokens / (recipe.batches * recipe.max_tokens)
    if _NEAR[0] <= ratio <= _NEAR[1]:
        return None
    wanted = max(1, round(size.update_freq / ratio))
    return (
        f"{size.factors()} of at most {tokens / sample_rate:.4g} seconds per update: {ratio:.3g} times the audio of "
        f"the {recipe.name} recipe ({recipe.batches} batches of {recipe.max_tokens / sample_rate:.4g} seconds). "
        f"To match the recipe, set optimization.update_freq=[{wanted}]"
    )
