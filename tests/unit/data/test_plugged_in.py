"""Data sets of fairseq's kind: samples, sizes and a collater, which the engine takes through an adapter."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fairseq.data import AddTargetDataset, FairseqDataset, FileAudioDataset
from fairseq.data.iterators import EpochBatchIterator
from fairseq.data.multi_corpus_dataset import MultiCorpusDataset
from fairseq.data.options import BatchLimits, LoaderOptions
from fairseq.data.plugged_in import PluggedInDataset, SampleDataset, as_audio_dataset
from fairseq.masks.batch import draw_masks
from fairseq.masks.positions import positions_of
from fairseq.tasks.fairseq_task import FairseqTask
from tests.unit.data.small_corpus import RATE, make_masks

SIZES = [900 + 130 * (number * 7 % 11) for number in range(11)]


class Noise:
    """The least that fairseq's data sets have: padded noise, drawn from numpy's generator."""

    def __len__(self) -> int:
        return len(SIZES)

    def size(self, index: int) -> int:
        return SIZES[index]

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"id": index, "source": torch.from_numpy(np.random.randn(SIZES[index]).astype(np.float32))}

    def collater(self, samples: list[dict[str, Any]]) -> dict[str, Any]:
        lengths = torch.tensor([len(sample["source"]) for sample in samples])
        source = torch.nn.utils.rnn.pad_sequence([sample["source"] for sample in samples], batch_first=True)
        source = source + torch.rand(1)  # a collater may draw too
        padding = torch.arange(source.size(1)) >= lengths[:, None]
        net_input = {"source": source, "padding_mask": padding}
        return {"id": torch.tensor([sample["id"] for sample in samples]), "net_input": net_input, "nsentences": 9}


class Ordered(Noise, FairseqDataset):
    """Of fairseq's base class, in an order that is drawn each epoch; sizes of source and target."""

    def __init__(self) -> None:
        self.epochs: list[int] = []

    def size(self, index: int) -> tuple[int, int]:  # type: ignore[override]
        return SIZES[index], 3

    def ordered_indices(self) -> np.ndarray:
        return np.random.permutation(len(self))

    def set_epoch(self, epoch: int) -> None:
        self.epochs.append(epoch)


def iterator(dataset: SampleDataset, masks: Any = None, epoch: int = 1, **options: Any) -> EpochBatchIterator:
    audio = as_audio_dataset(dataset)
    audio.set_masks(masks)
    limits = BatchLimits(max_tokens=5000)
    return EpochBatchIterator(audio, lambda number: audio.batches(number, limits), LoaderOptions(**options), epoch)


def read(batches: EpochBatchIterator) -> list[tuple[list[int], bytes]]:
    """The utterances and the audio of an epoch's batches."""
    made = [batch for update in batches.next_epoch_itr() for batch in update]
    return [(batch["id"].tolist(), batch["net_input"]["source"].numpy().tobytes()) for batch in made]


@pytest.mark.parametrize("make", [Noise, Ordered])
def test_an_epoch_holds_everything_once(make: Callable[[], SampleDataset]) -> None:
    batches = iterator(make())
    made = [batch for update in batches.next_epoch_itr() for batch in update]
    assert sorted(i for batch in made for i in batch["id"].tolist()) == list(range(len(SIZES)))
    assert sum(batch["num_samples"] for batch in made) == sum(SIZES) == batches.total_samples(1)
    for batch in made:
        assert batch["num_valid"] == len(batch["id"]) and batch["net_input"]["source"].numel() <= 5000
        assert (batch["few_masked"], batch["quarantined"], batch["whole"]) == (0, [], [True] * batch["num_valid"])
        assert batch["nsentences"] == 9 and batch["net_input"].keys() == {"source", "padding_mask"}
    assert [batch["micro"] for batch in made] == [0] * len(made)  # one batch an update


@pytest.mark.parametrize("make", [Noise, Ordered])
def test_what_it_draws_is_a_function_of_seed_epoch_and_index(make: Callable[[], SampleDataset]) -> None:
    first = read(iterator(make()))
    numpy_state, torch_state = np.random.get_state()[1].tolist(), torch.get_rng_state()
    assert read(iterator(make())) == read(iterator(make(), num_workers=2, buffer_size=4)) == first
    assert np.random.get_state()[1].tolist() == numpy_state and torch.equal(torch.get_rng_state(), torch_state)
    assert read(iterator(make(), epoch=2)) != first
    fixed = iterator(make(), evaluation=True)
    assert read(fixed) == read(fixed)


def test_a_resumed_epoch_continues_where_it_stopped() -> None:
    expected, broken = read(iterator(Ordered())), iterator(Ordered())
    next(broken.next_epoch_itr())
    resumed = iterator(Ordered())
    resumed.load_state_dict(broken.state_dict())
    assert read(resumed) == expected[1:]


def test_it_hears_of_epochs() -> None:
    dataset = Ordered()
    read(iterator(dataset, epoch=3))
    assert set(dataset.epochs) == {3}


def test_batches_that_do_not_suffice_for_all_processes_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    whole = len(iterator(Noise()).batches(1))
    assert whole % 4 == 2
    ranks = [read(iterator(Noise(), num_shards=4, shard_id=rank)) for rank in range(4)]
    assert [len(rank) for rank in ranks] == [whole // 4] * 4
    assert [record.getMessage() for record in caplog.records] == [  # by the first rank alone
        "batches left out per epoch: 2. This data set cannot create filler for 4 processes"
    ]
    with pytest.raises(ValueError, match=f"has {whole} batches, too few for 9 processes"):
        iterator(Noise(), num_shards=9).batches(1)


def test_masks_are_drawn_where_the_collater_made_none() -> None:
    masks = make_masks(channel=None)
    (first, *_), again = [list(iterator(Noise(), masks).next_epoch_itr())[0] for _ in range(2)]
    inputs = first["net_input"]
    positions, weights = positions_of(inputs["mask_indices"])
    assert torch.equal(inputs["masked_positions"][:, : positions.size(1)] * weights.long(), positions * weights.long())
    assert torch.equal(inputs["mask_indices"], again[0]["net_input"]["mask_indices"])
    frames = ((~inputs["padding_mask"]).sum(dim=1) - 105) // 80 + 1
    assert not inputs["mask_indices"][torch.arange(inputs["mask_indices"].size(1)) >= frames[:, None]].any()


def test_masks_are_drawn_for_the_rows_that_the_collater_made() -> None:
    drawn = []

    def spy(masks: Any, rows: Any) -> Any:
        drawn.append(rows)
        return draw_masks(masks, rows)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fairseq.data.plugged_in.draw_masks", spy)
        batches = iterator(Noise(), make_masks(), evaluation=True)
        (batch, *_) = next(batches.next_epoch_itr())
    (rows,) = drawn
    assert rows.evaluation and rows.num_valid == len(batch["id"])
    assert rows.lengths.tolist() == [SIZES[i] for i in batch["id"].tolist()]


def test_a_collater_without_audio_is_an_error_that_says_what_it_returned() -> None:
    class Broken(Noise):
        def collater(self, samples: list[dict[str, Any]]) -> dict[str, Any]:
            return {"waves": samples}

    with pytest.raises(ValueError, match=r"Broken.collater must return .* returned a dict of waves"):
        next(iterator(Broken()).next_epoch_itr())


def test_long_utterances_are_left_out() -> None:
    audio = as_audio_dataset(Noise())
    kept = audio.batches(1, BatchLimits(max_tokens=5000, max_size=1500)).indices.tolist()
    assert sorted(kept) == [i for i, size in enumerate(SIZES) if size <= 1500]
    with pytest.raises(ValueError, match="dataset.max_tokens is 1000"):
        audio.batches(1, BatchLimits(max_tokens=1000))


def test_its_own_way_to_cut_batches_is_used() -> None:
    class Named(Noise):
        def num_tokens(self, index: int) -> int:
            return SIZES[index]

    mixed = MultiCorpusDataset({"a": Named(), "b": Named()}, [0.5, 0.5], seed=1, batch_sample=True)
    batches = as_audio_dataset(mixed).batches(1, BatchLimits(max_tokens=6000))
    for number in range(len(batches)):
        plan = batches.plan(number, 1, 0)
        assert len({index >= len(SIZES) for index in plan.indices.tolist()}) == 1


def test_the_packages_own_data_sets_need_no_adapter_but_changed_ones_do(manifest: Path) -> None:
    class OtherCollater(FileAudioDataset):
        def collater(self, samples: list[dict[str, Any]]) -> dict[str, Any]:
            return {**super().collater(samples), "mine": True}

    class OtherSamples(FileAudioDataset):
        def __getitem__(self, index: int) -> dict[str, Any]:
            sample = super().__getitem__(index)
            return {**sample, "source": -sample["source"]}

    class OtherName(FileAudioDataset):
        def name(self, index: int) -> str:
            return "mine"

    plain = FileAudioDataset(str(manifest), RATE, pad=True)
    assert as_audio_dataset(plain) is plain
    assert isinstance(as_audio_dataset(OtherName(str(manifest), RATE)), OtherName)
    wrapper = AddTargetDataset.__new__(AddTargetDataset)
    assert as_audio_dataset(wrapper) is wrapper
    for make in (OtherCollater, OtherSamples):
        adapter = as_audio_dataset(make(str(manifest), RATE, pad=True))
        assert isinstance(adapter, PluggedInDataset) and as_audio_dataset(adapter) is adapter
        limits = BatchLimits(max_sentences=1)
        batch = adapter.collate_plan(adapter.batches(0, limits).plan(3, 0, 0))
        source = plain[batch["id"].item()]["source"]
        assert ("mine" in batch) == (make is OtherCollater)
        assert torch.equal(batch["net_input"]["source"][0], source if make is OtherCollater else -source)


def test_a_task_adapts_what_it_is_given() -> None:
    task = FairseqTask(None)
    batches = task.batch_iterator(Ordered(), BatchLimits(max_sentences=3, max_size=2000), LoaderOptions(seed=5))
    ids = [i for update in batches.next_epoch_itr() for batch in update for i in batch["id"].tolist()]
    assert sorted(ids) == [i for i, size in enumerate(SIZES) if size <= 2000] and batches.dataset.seed == 5
