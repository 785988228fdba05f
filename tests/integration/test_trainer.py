"""The trainer by itself, in this process."""

from __future__ import annotations

import copy
import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from fairseq.logging import metrics
from tests.integration.conftest import make_trainer


def fail_once(trainer: Any, monkeypatch: pytest.MonkeyPatch, message: str) -> None:
    """Let the criterion raise at its next call, and work again after it."""
    forward, calls = trainer.criterion.forward, []

    def failing(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == 1:
            raise RuntimeError(message)
        return forward(*args, **kwargs)

    monkeypatch.setattr(trainer.criterion, "forward", failing)


def test_out_of_memory_leaves_the_update_out_and_names_its_shape(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    trainer, updates = make_trainer(corpus, tmp_path)
    batches = updates.next_epoch_itr()
    trainer.train_step(next(batches))
    before = {name: value.clone() for name, value in trainer.unwrapped_model.state_dict().items()}
    fail_once(
        trainer, monkeypatch, "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 byte"
    )
    too_large = next(batches)
    with caplog.at_level(logging.WARNING):
        trainer.train_step(too_large)
    shape = "x".join(map(str, too_large[0]["net_input"]["source"].shape))
    assert shape in caplog.text and "dataset.max_tokens" in caplog.text and "checkpoint_activations" in caplog.text
    assert trainer.get_num_updates() == 1
    assert all(torch.equal(value, before[name]) for name, value in trainer.unwrapped_model.state_dict().items())
    trainer.train_step(next(batches))
    assert trainer.get_num_updates() == 2
    with metrics.aggregate(new_root=True):
        trainer.flush_statistics()


def test_other_errors_are_not_taken_for_out_of_memory(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer, updates = make_trainer(corpus, tmp_path)
    fail_once(trainer, monkeypatch, "shapes do not match")
    with pytest.raises(RuntimeError, match="shapes do not match"):
        trainer.train_step(next(updates.next_epoch_itr()))


def test_the_learning_rate_of_an_update_is_the_schedules_at_the_count_before_it(corpus: Path, tmp_path: Path) -> None:
    trainer, updates = make_trainer(corpus, tmp_path)
    batches = updates.next_epoch_itr()
    rates = []
    for _ in range(3):
        rates.append(trainer.get_lr())
        trainer.train_step(next(batches))
    assert rates == [0.0, 0.00025, 0.0005]  # a warm-up of 4 updates to 0.001 begins at 0, as in fairseq


def test_validation_twice_gives_equal_figures_and_leaves_training_alone(corpus: Path, tmp_path: Path) -> None:
    trainer, _ = make_trainer(corpus, tmp_path)
    trainer.task.load_dataset("valid")
    iterator = trainer.get_valid_iterator("valid")
    first, second = (trainer.validate(iterator.next_epoch_itr(shuffle=False)) for _ in range(2))
    assert first == second and first["count"] > 0
    assert trainer.get_num_updates() == 0 and not trainer.statistics.names


def test_a_feature_extractor_without_gradient_stays_as_it_is(corpus: Path, tmp_path: Path) -> None:
    """`feature_grad_mult` 0: neither weight decay nor Adam's count touches it."""
    trainer, iterator = make_trainer(corpus, tmp_path, feature_grad_mult=0.0)
    extractor = trainer.unwrapped_model.feature_extractor
    before = copy.deepcopy(extractor.state_dict())
    for _, samples in zip(range(3), iterator.next_epoch_itr(), strict=False):
        trainer.train_step(samples)
    assert trainer.get_num_updates() == 3 and trainer.cfg.optimizer.weight_decay > 0
    assert all(torch.equal(before[name], tensor) for name, tensor in extractor.state_dict().items())
    others = len(list(trainer.unwrapped_model.parameters())) - len(before)
    assert len(trainer.optimizer.state_dict()["state"]) == others


CONFORMER = {"layer_type": "conformer", "attn_type": "espnet", "pos_enc_type": "rel_pos"}


@pytest.mark.parametrize("model", [{}, CONFORMER], ids=["transformer", "conformer"])
def test_a_save_may_copy_the_steady_tensors_until_the_step(corpus: Path, tmp_path: Path, model: dict[str, str]) -> None:
    """Everything else in the state, such as the conformer's batch statistics, may change before it."""
    trainer, updates = make_trainer(corpus, tmp_path, **model)
    batches = updates.next_epoch_itr()
    trainer.train_step(next(batches))
    steady = list(trainer.only_steps_change())
    before = [tensor.detach().clone() for tensor in steady]
    called: list[bool] = []

    def compare() -> None:
        called.append(all(torch.equal(tensor, old) for tensor, old in zip(steady, before, strict=True)))

    trainer.before_step = compare
    trainer.train_step(next(batches))
    assert called == [True]
    changed = [not torch.equal(tensor, old) for tensor, old in zip(steady, before, strict=True)]
    count = len(list(trainer.unwrapped_model.parameters()))
    assert len(steady) >= 3 * count and sum(changed) > 2 * count, "weights, and the optimizer's two averages"
    held = {tensor.untyped_storage().data_ptr() for tensor in steady}
    assert held.isdisjoint(buffer.untyped_storage().data_ptr() for buffer in trainer.unwrapped_model.buffers())
