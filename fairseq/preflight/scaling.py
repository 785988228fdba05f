"""Memory and traffic of a run for several strategies, numbers of cards, and sizes of cards."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import NamedTuple

from fairseq.dataclass.configs import DistributedTrainingConfig
from fairseq.distributed.costs import Costs, Weight, costs
from fairseq.preflight.memory import Activations
from fairseq.preflight.report import Section, gigabytes

STRATEGIES = ("pytorch_ddp", "flat", "fully_sharded")
MOST_CARDS = 1024  # looked at in search of the smallest number that fits
_RECOMPUTE = "model.checkpoint_activations=true"
_SHARD = "distributed_training.ddp_backend=fully_sharded"


class Demand(NamedTuple):
    """What the largest step of a run needs, for any number of cards."""

    weights: Sequence[Weight]
    averages: bool  # ema.store_ema
    optimizer_states: int  # tensors per parameter
    training: DistributedTrainingConfig  # config group
    cards: int  # of the run
    batches: int  # per update, all cards together
    activations: Activations
    recomputes: bool  # model.checkpoint_activations

    @property
    def strategy(self) -> str:
        """fairseq has several names for DDP."""
        backend = str(self.training.ddp_backend)
        return backend if backend in STRATEGIES else "pytorch_ddp"

    @property
    def trainings(self) -> dict[str, DistributedTrainingConfig]:
        """The config group for each strategy."""
        keys = {field.name: getattr(self.training, field.name) for field in fields(DistributedTrainingConfig)}
        return {name: DistributedTrainingConfig(**{**keys, "ddp_backend": name}) for name in STRATEGIES}

    @property
    def own(self) -> Costs:
        """Costs of the run as it is configured."""
        return self.costs(self.strategy, self.cards)

    def costs(self, strategy: str, cards: int) -> Costs:
        training = self.trainings[strategy]
        return costs(
            self.weights,
            training,
            cards,
            self.update_freq(cards),
            self.averages,
            bool(self.training.gradient_as_bucket_view),
            optimizer_states=self.optimizer_states,  # the activations contain autocast's copies of weights
        )

    def update_freq(self, cards: int) -> int:
        """Micro-batches per update and card that keep the audio of an update, rounded up."""
        return -(-self.batches // cards)

    def kept(self, recomputes: bool) -> int:
        """Bytes kept for backward."""
        other = self.activations.recomputed
        return other if recomputes and other is not None else self.activations.kept

    def need(self, strategy: str, cards: int, recomputes: bool) -> int:
        """Bytes of a card that a step needs at least."""
        return self.costs(strategy, cards).on_device + self.kept(recomputes)

    def smallest(self, strategy: str, limit: int, recomputes: bool) -> int | None:
        """The smallest number of cards of `limit` GB that a step fits into; None: not even MOST_CARDS are enough."""
        numbers = (*range(1, 64), *range(64, MOST_CARDS + 1, 8)) if strategy == "fully_sharded" else (1,)
        return next((n for n in numbers if fits(self.need(strategy, n, recomputes), limit)), None)


def fits(need: int, limit: int) -> bool:
    return need <= limit * 2**30


def describe(demand: Demand, cards: tuple[int, ...], memory: tuple[int, ...]) -> Section:
    """Make the table of strategies and numbers of cards, and that of the smallest number which fits.

    Args:
        cards: numbers of cards to show; the run's own is added.
        memory: sizes of cards in GB.
    """
    section = Section("Scaling: GB per card at least, and GB that a card sends in an update of the same audio")
    averaged = demand.averages
    table, values, kept = [], [], demand.kept(demand.recomputes)
    for strategy in STRATEGIES:
        for number in sorted({*cards, demand.cards}):
            found, need = demand.costs(strategy, number), demand.need(strategy, number, demand.recomputes)
            fitting = [size for size in memory if fits(need, size)]
            is_own = (strategy, number) == (demand.strategy, demand.cards)
            held = (found.parameters, found.gradients, found.optimizer, *((found.average,) if averaged else ()))
            table.append(
                [
                    strategy,
                    f"{number}{'*' if is_own else ''}",
                    str(demand.update_freq(number)),
                    *map(
                        gigabytes,
                        (*held, found.buffers + found.gathered, demand.kept(demand.recomputes), need, found.exchanged),
                    ),
                    str(min(fitting, default="-")),
                ]
            )
            values.append(
                {
                    "strategy": strategy,
                    "cards": number,
                    "update_freq": demand.update_freq(number),
                    **found._asdict(),
                    "activations": kept,
                    "bytes": need,
                    "fits": fitting,
                }
            )
    ema = ["EMA"] if averaged else []
    head = ["parameters", "gradients", "optimizer", *ema, "buffers", "activations", "all", "sent", "fits"]
    section.table(["", "cards", "update_freq", *head], table)
    sizes = ", ".join(map(str, memory))
    section.say("", f"* this run; fits: the smallest of the cards of {sizes} GB that has room, - if none has")
    _add_smallest(section, demand, memory)
    section.values["rows"] = values
    return section


def _add_smallest(section: Section, demand: Demand, memory: tuple[int, ...]) -> None:
    both = demand.activations.recomputed is not None
    other = f"; in brackets with model.checkpoint_activations={str(not demand.recomputes).lower()}" if both else ""
    section.say("smallest", f"number of cards that fits{other}")
    rows = []
    for limit in memory:
        cells = [f"{limit} GB"]
        for strategy in STRATEGIES:
            cell = _number(demand, strategy, limit, demand.recomputes)
            cells.append(f"{cell} ({_number(demand, strategy, limit, not demand.recomputes)})" if both else cell)
        rows.append(cells)
    section.table(["", *STRATEGIES], rows)
    section.values["smallest"] = {
        str(recomputes).lower(): {
            str(limit): {strategy: demand.smallest(strategy, limit, recomputes) for strategy in STRATEGIES}
            for limit in memory
        }
        for recomputes in ((False, True) if both else (demand.recomputes,))
    }


def _number(demand: Demand, strategy: str, limit: int, recomputes: bool) -> str:
    number = demand.smallest(strategy, limit, recomputes)
    if number is None:
        return "-"
    # DDP's buckets come with the second card
    alone = strategy != "fully_sharded" and not fits(demand.need(strategy, 2, recomputes), limit)
    return "1 only" if alone else str(number)


def changes(demand: Demand, limit: int, max_tokens: int | None) -> str:
    """Say what would make a run fit that does not.

    Args:
        limit: the card's memory in GB.
        max_tokens: dataset.max_tokens.
    """
    found = [*_by_keys(demand, limit), *_by_batch(demand, limit, max_tokens)]
    if not found:
        found = [f"Not even {MOST_CARDS} cards fit with {_SHARD}: use cards with more memory, or a smaller model"]
    return "; or ".join(found) + "."


def _by_keys(demand: Demand, limit: int) -> Iterator[str]:
    """Settings that help, those that change least first."""
    recomputing = demand.recomputes or demand.activations.recomputed is not None
    ways = [(False, ""), (True, f" and {_RECOMPUTE}")] if recomputing and not demand.recomputes else [(True, "")]
    if recomputing and not demand.recomputes:
        need = demand.need(demand.strategy, demand.cards, True)
        if fits(need, limit):
            yield f"{_RECOMPUTE} needs {gigabytes(need)} GB"
    for recomputes, also in ways:
        need = demand.need("fully_sharded", demand.cards, recomputes)
        if demand.strategy != "fully_sharded" and demand.cards > 1 and fits(need, limit):
            yield f"{_SHARD}{also} needs {gigabytes(need)} GB"
            return
    for recomputes, also in ways:
        number = demand.smallest("fully_sharded", limit, recomputes)
        if number is not None and number > demand.cards:
            need = demand.need("fully_sharded", number, recomputes)
            yield f"{_SHARD}{also} needs {number} cards, and then {gigabytes(need)} GB"


def _by_batch(demand: Demand, limit: int, max_tokens: int | None) -> Iterator[str]:
    """Smaller batches help if the rest fits; what autograd keeps is proportional to the batch."""
    room = limit * 2**30 - demand.own.on_device
    share = room / demand.kept(demand.recomputes)
    if 0.05 < share < 1:
        to = f" to at most {int(max_tokens * share):,}" if max_tokens else ""
        yield (
            f"lower dataset.max_tokens{to} (or dataset.batch_size), and raise optimization.update_freq by the same "
            "factor"
        )
