"""How much audio an update learns from, beside the published recipes: `cards of a node x update_freq x nodes`
batches of `max_tokens`.
"""

from __future__ import annotations

from typing import NamedTuple

from omegaconf import DictConfig


class Recipe(NamedTuple):
    """Batches an update and audio samples a batch that a model was published with."""

    name: str
    batches: int
    max_tokens: int


# Baevski et al. 2020, section 4.2, as fairseq's YAMLs have it; Gaudi's recipe keeps base's 64
BASE = Recipe("base", 64, 1_400_000)
LARGE = Recipe("large", 128, 1_200_000)
_LARGE_LAYERS = 24
_NEAR = (0.75, 1.5)  # between half and double, the commonest slips


class UpdateSize(NamedTuple):
    """The batches of an update, and where they come from."""

    cards: int  # processes of a node
    update_freq: int
    nodes: int
    max_tokens: int | None  # audio samples a batch

    @property
    def batches(self) -> int:
        return self.cards * self.update_freq * self.nodes

    def factors(self) -> str:
        """The recipe's sum, spelt out."""
        nodes = f" x {self.nodes} nodes" if self.nodes > 1 else ""
        return f"{self.cards} process(es) x update_freq {self.update_freq}{nodes} = {self.batches} batches"


def update_size(cfg: DictConfig, cards: int, nodes: int, epoch: int = 1) -> UpdateSize:
    """The size of an epoch's updates; every epoch from the end of `optimization.update_freq` on has its last number."""
    frequencies = cfg.optimization.update_freq
    return UpdateSize(cards, frequencies[min(epoch, len(frequencies)) - 1], nodes, cfg.dataset.max_tokens)


def beside_the_recipe(cfg: DictConfig, size: UpdateSize, sample_rate: int) -> str | None:
    """What to change where updates may hold far less or more audio than the published model's did; None where they are
    near.

    A flat loss is what too little audio an update looks like; too much costs time and memory of optimizer steps not
    taken.
    """
    layers = cfg.model.encoder_layers if isinstance(cfg.model, DictConfig) and "encoder_layers" in cfg.model else 0
    recipe = LARGE if layers >= _LARGE_LAYERS else BASE
    tokens = size.max_tokens or recipe.max_tokens
    ratio = size.batches * tokens / (recipe.batches * recipe.max_tokens)
    if _NEAR[0] <= ratio <= _NEAR[1]:
        return None
    wanted = max(1, round(size.update_freq / ratio))
    return (
        f"{size.factors()} of at most {tokens / sample_rate:.4g} seconds an update: {ratio:.3g} times the audio of "
        f"the recipe for {recipe.name} ({recipe.batches} batches of {recipe.max_tokens / sample_rate:.4g} seconds). "
        f"Its size here: optimization.update_freq=[{wanted}]"
    )
