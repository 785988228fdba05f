"""The trainer on HPU, with the stand-in for the vendor's package, in this process."""

from __future__ import annotations

import copy
import logging
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from fairseq import checkpoint_utils, tasks
from fairseq import device as device_layer
from fairseq.data.iterators import EpochBatchIterator
from fairseq.dataclass.initialize import resolve_config
from fairseq.logging import metrics
from fairseq.trainer import Trainer
from tests.host_reads import HostReads
from tests.integration.conftest import TINY

HPU = {"common": {"cpu": False, "hpu": True}}
NO_DROPOUT = {
    "dropout": 0.0,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
    "dropout_input": 0.0,
    "dropout_features": 0.0,
}


def make(corpus: Path, folder: Path, *changes: dict[str, Any]) -> tuple[Trainer, EpochBatchIterator]:
    """A trainer of the small config with two micro-batches an update, with its training iterator."""
    cfg = OmegaConf.merge(
        OmegaConf.create(TINY),
        {"task": {"data": str(corpus)}, "checkpoint": {"save_dir": str(folder)}, "dataset": {"num_workers": 0}},
        {"optimization": {"clip_norm": 1.0, "update_freq": [2]}},
        *changes,
    )
    cfg = resolve_config(cfg)
    task = tasks.setup_task(cfg.task)
    torch.manual_seed(0)
    trainer = Trainer(cfg, task, task.build_model(cfg.model), task.build_criterion(cfg.criterion))
    return trainer, trainer.get_train_iterator(1)


def train(trainer: Trainer, batches: Any, updates: int) -> None:
    for _ in range(updates):
        trainer.train_step(next(batches))


def flush(trainer: Trainer) -> dict[str, float]:
    with metrics.aggregate(new_root=True) as aggregator:
        trainer.flush_statistics()
    return aggregator.get_smoothed_values()


# -- graphs ------------------------------------------------------------------------------------------------------------


def test_where_a_step_hands_over_its_graph(
    fake_habana: ModuleType, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer, updates = make(corpus, tmp_path, HPU, {"optimizer": {"use_fused": False}})
    batches, events = updates.next_epoch_itr(), []
    monkeypatch.setattr(trainer.device._core, "mark_step", lambda: events.append("mark"))
    seed, step = torch.manual_seed, trainer.optimizer.step
    monkeypatch.setattr(torch, "manual_seed", lambda number: (events.append("seed"), seed(number)))
    monkeypatch.setattr(trainer.optimizer, "step", lambda **given: (events.append("step"), step(**given)))
    trainer.unwrapped_model.final_proj.weight.register_hook(lambda grad: events.append("backward"))
    train(trainer, batches, 1)
    micro_batch = ["mark", "seed", "backward", "mark"]
    assert events == [*micro_batch, *micro_batch, "step", "mark"]
    events.clear()
    trainer.task.load_dataset("valid")
    trainer.validate(trainer.get_valid_iterator("valid").next_epoch_itr(shuffle=False))
    assert len(events) >= 3 and events == ["mark", "seed", "mark"] * (len(events) // 3)


def test_eager_mode_hands_over_nothing(fake_habana: ModuleType, corpus: Path, tmp_path: Path) -> None:
    trainer, updates = make(
        corpus, tmp_path, HPU, {"common": {"hpu_lazy_mode": False}, "optimizer": {"use_fused": False}}
    )
    train(trainer, updates.next_epoch_itr(), 1)
    assert fake_habana.count("mark_step") == 0


@pytest.mark.parametrize(("lazy", "seeds"), [(True, 4), (False, 2)])
def test_eager_mode_seeds_once_an_update(
    fake_habana: ModuleType, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lazy: bool, seeds: int
) -> None:
    """Two updates of two micro-batches; each seed makes the host wait for the card in eager mode."""
    trainer, updates = make(corpus, tmp_path, HPU, {"common": {"hpu_lazy_mode": lazy}})
    given: list[int] = []
    seed = torch.manual_seed
    monkeypatch.setattr(torch, "manual_seed", lambda number: (given.append(number), seed(number)))
    train(trainer, updates.next_epoch_itr(), 2)
    assert len(given) == len(set(given)) == seeds


def test_graphs_that_are_compiled_late_are_warned_of(
    fake_habana: ModuleType, corpus: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One batch again and again; then with another number in a fill each time."""
    trainer, updates = make(corpus, tmp_path, HPU)
    batch = next(updates.next_epoch_itr())
    warnings = []
    for interval in range(5):
        for update in range(2):
            trainer.train_step(batch)
            if interval >= 3:
                trainer.unwrapped_model.mask_emb.data.fill_(interval + update / 2)
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            flush(trainer)
        warnings.append("graphs were compiled" in caplog.text)
    assert warnings == [False, False, False, True, True]


@pytest.mark.parametrize("lazy", [True, False])
def test_lazy_mode_zeroes_gradients_in_place(fake_habana: ModuleType, corpus: Path, tmp_path: Path, lazy: bool) -> None:
    trainer, updates = make(corpus, tmp_path, HPU, {"common": {"hpu_lazy_mode": lazy}})
    batches = updates.next_epoch_itr()
    train(trainer, batches, 1)
    before = [p.grad for p in trainer.unwrapped_model.parameters()]
    train(trainer, batches, 1)
    same = [p.grad is old for p, old in zip(trainer.unwrapped_model.parameters(), before, strict=True)]
    assert all(same) if lazy else not any(same)


@pytest.mark.parametrize("fused", [True, False])
def test_an_update_reads_nothing(fake_habana: ModuleType, corpus: Path, tmp_path: Path, fused: bool) -> None:
    trainer, updates = make(corpus, tmp_path, HPU, {"common": {"hmp": True}, "optimizer": {"use_fused": fused}})
    batches = updates.next_epoch_itr()
    train(trainer, batches, 1)  # makes the optimizer's state
    second, third = next(batches), next(batches)
    with HostReads() as reads:
        trainer.train_step(second)
        trainer.train_step(third)
    assert reads.operators > 500 and reads.found == []
    with HostReads() as reads:
        flush(trainer)
    assert len(reads.found) <= 1
    assert fake_habana.count("FusedAdamW.step") == fake_habana.count("FusedClipNorm.clip_norm") == (3 if fused else 0)


def test_dropped_blocks_are_computed_and_undone_on_one_card(
    fake_habana: ModuleType, corpus: Path, tmp_path: Path
) -> None:
    trainer, updates = make(corpus, tmp_path, HPU, {"model": {"encoder_layerdrop": 0.9}})
    assert trainer.unwrapped_model.encoder.static_layerdrop
    train(trainer, updates.next_epoch_itr(), 1)
    assert all(p.grad is not None for p in trainer.unwrapped_model.parameters())


# -- kernels of the vendor's -------------------------------------------------------------------------------------------


def test_the_log_has_the_cards_figures(fake_habana: ModuleType, corpus: Path, tmp_path: Path) -> None:
    trainer, updates = make(corpus, tmp_path, HPU)
    train(trainer, updates.next_epoch_itr(), 1)
    logged = flush(trainer)
    assert logged["hpu_graph_compilations"] > 0 and logged["hpu_cpu_fallbacks"] == 0 and logged["gb_free"] == 86
    assert logged["graphs"] == logged["hpu_graph_compilations"] and logged["cpu_fallbacks"] == 0
    assert logged["device_gb"] == logged["gb_peak"]


def test_vendors_kernels_train_what_plain_operations_do(fake_habana: ModuleType, corpus: Path, tmp_path: Path) -> None:
    results = {}
    for fused in (True, False):
        trainer, updates = make(corpus, tmp_path, HPU, {"optimizer": {"use_fused": fused}, "model": NO_DROPOUT})
        train(trainer, updates.next_epoch_itr(), 3)
        logged = flush(trainer)
        results[fused] = (
            logged["loss"],
            logged["gnorm"],
            torch.cat([p.detach().flatten() for p in trainer.unwrapped_model.parameters()]),
        )
    assert results[True][:2] == pytest.approx(results[False][:2], rel=1e-4)
    moved = results[False][2]
    assert (results[True][2] - moved).norm() < 1e-4 * moved.norm()
    assert fake_habana.count("FusedSDPA") > 0


def test_a_bad_update_is_skipped_on_the_device(
    fake_habana: ModuleType, corpus: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer, updates = make(corpus, tmp_path, HPU)
    batches = updates.next_epoch_itr()
    train(trainer, batches, 2)
    weights = [p.detach().clone() for p in trainer.unwrapped_model.parameters()]
    states = trainer.optimizer.optimizer.state.values()
    averages = [entry["exp_avg"].clone() for entry in states]
    bad = next(batches)
    bad[0]["net_input"]["source"][0, 100] = float("nan")
    trainer.train_step(bad)
    assert all(torch.equal(p, before) for p, before in zip(trainer.unwrapped_model.parameters(), weights, strict=True))
    assert all(torch.equal(entry["exp_avg"], before) for entry, before in zip(states, averages, strict=True))
    with caplog.at_level(logging.WARNING):
        flush(trainer)
    assert "update 3 was skipped" in caplog.text
    assert {int(entry["step"]) for entry in trainer.optimizer.state_dict()["state"].values()} == {2}


# -- out of memory -----------------------------------------------------------------------------------------------------


def test_out_of_memory_names_the_shape_and_ends_the_run(
    fake_habana: ModuleType, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer, updates = make(corpus, tmp_path, HPU)
    batches = updates.next_epoch_itr()
    train(trainer, batches, 1)

    def fail() -> None:
        raise RuntimeError("FATAL ERROR :: MODULE:PT_DEVMEM Allocation failed for size::2147483648 (2048)MB")

    too_large = next(batches)
    shape = "x".join(map(str, too_large[0]["net_input"]["source"].shape))
    monkeypatch.setattr(trainer.device, "mark_step", fail)  # where a recorded graph runs, its errors come up
    with pytest.raises(
        RuntimeError, match=f"{shape}.*gb_free 86.*the run ends; its last checkpoint is intact.*fairseq-preflight"
    ):
        trainer.train_step(too_large)
    assert trainer.out_of_memory_updates == 0 and trainer.get_num_updates() == 1


# -- compiled ----------------------------------------------------------------------------------------------------------


def test_hpu_graphs_get_the_model_and_the_number_of_shapes(
    fake_habana: ModuleType, corpus: Path, tmp_path: Path
) -> None:
    buckets = {"task": {"num_batch_buckets": 3, "enable_padding": True}, "dataset": {"batch_size": 4}}
    trainer, updates = make(corpus, tmp_path, HPU, {"common": {"hpu_compile": "hpu_graphs"}}, buckets)
    train(trainer, updates.next_epoch_itr(), 2)
    ((_, given),) = [call for call in fake_habana.calls if call[0] == "ModuleCacher"]
    assert given["model"] is trainer.unwrapped_model and given["max_graphs"] == 6
    assert given["inplace"] and given["allow_unused_input"] and given["have_grad_accumulation"]
    assert 1 <= fake_habana.count("graph_captured") <= 3 and fake_habana.count("graph_evicted") == 0


def test_a_number_that_changes_is_no_constant_of_a_kept_graph(
    fake_habana: ModuleType, corpus: Path, tmp_path: Path
) -> None:
    trainer, _ = make(corpus, tmp_path, HPU, {"model": {"latent_temp": [2.0, 0.5, 0.5]}})
    quantizer = trainer.unwrapped_model.quantizer
    held = quantizer.temperature
    trainer.unwrapped_model.set_num_updates(1)
    assert quantizer.temperature is held and held.item() == quantizer.curr_temp == 1.0
    assert "quantizer.temperature" not in trainer.unwrapped_model.state_dict()


def test_compile_calls_the_backend_once_a_shape(fake_habana: ModuleType, corpus: Path, tmp_path: Path) -> None:
    import torch._dynamo

    buckets = {"task": {"num_batch_buckets": 1, "enable_padding": True}, "dataset": {"batch_size": 4}}
    settings = {"common": {"hpu_compile": "compile", "hpu_lazy_mode": False}, "model": {"encoder_layers": 1}}
    torch._dynamo.reset()
    trainer, updates = make(corpus, tmp_path, HPU, settings, buckets)
    with torch._dynamo.config.patch(error_on_recompile=True):
        train(trainer, updates.next_epoch_itr(), 2)
    assert fake_habana.count("hpu_backend") == 1  # no graph break, and no compilation for another temperature
    torch._dynamo.reset()


# -- checkpoints -------------------------------------------------------------------------------------------------------

# what makes a CPU compute as the stand-in's HPU does, so that nothing but the state tells two runs apart
AS_ON_HPU = {"conv_form": "conv2d", "pos_conv_form": "conv1d", "attention_form": "matmul", "hpu_arms": True}
CPU = {"common": {"cpu": True, "hpu": False}}
PLAIN = {"optimizer": {"use_fused": False}, "model": {**NO_DROPOUT, "encoder_layerdrop": 0.0}}


def run_of(trainer: Trainer) -> dict[str, Any]:
    flush(trainer)
    return copy.deepcopy(trainer.state_dict())  # on the CPU it shares the memory of what goes on training


def assert_equal_states(one: dict[str, Any], other: dict[str, Any]) -> None:
    for name, value in one["model"].items():
        assert torch.equal(value, other["model"][name]), name
    for index, entry in one["last_optimizer_state"]["state"].items():
        for key, value in entry.items():
            assert torch.equal(
                torch.as_tensor(value), torch.as_tensor(other["last_optimizer_state"]["state"][index][key])
            ), (index, key)


@pytest.mark.parametrize("begins_on", ["hpu", "cpu"])
def test_a_checkpoint_goes_on_elsewhere_bit_for_bit(
    fake_habana: ModuleType, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begins_on: str
) -> None:
    monkeypatch.setattr("fairseq.device.hpu.HpuDevice._attention_form", lambda self, dtype: "matmul")

    def on(kind: str, folder: str) -> tuple[Trainer, Any]:
        trainer, updates = make(corpus, tmp_path / folder, HPU if kind == "hpu" else CPU, PLAIN)
        assert trainer.device.type == kind
        return trainer, updates.next_epoch_itr()

    other = "cpu" if begins_on == "hpu" else "hpu"
    with device_layer.forced(**AS_ON_HPU):
        first, batches = on(begins_on, "one")
        train(first, batches, 2)
        saved = run_of(first)
        checkpoint_utils.torch_persistent_save(saved, str(tmp_path / "moved.pt"))
        train(first, batches, 1)
        unbroken = run_of(first)
        moved, batches = on(other, "two")
        moved.load_state_dict(checkpoint_utils.load_checkpoint_to_cpu(str(tmp_path / "moved.pt")))
        assert_equal_states(saved, run_of(moved))
        for _ in range(2):
            next(batches)
        train(moved, batches, 1)
        assert_equal_states(unbroken, run_of(moved))


def test_the_fused_state_is_exchanged_exactly(fake_habana: ModuleType, corpus: Path, tmp_path: Path) -> None:
    """Weights and averages arrive bit for bit; from there on rounding of two kernels tells the runs apart: 1e-4 of
    a weight's norm.
    """
    fused = {**PLAIN, "optimizer": {"use_fused": True}}
    first, updates = make(corpus, tmp_path, HPU, fused)
    batches = updates.next_epoch_itr()
    train(first, batches, 2)
    saved = run_of(first)
    train(first, batches, 1)
    second, updates = make(corpus, tmp_path, CPU, PLAIN)
    second.load_state_dict(saved)
    assert_equal_states(saved, run_of(second))
    batches = updates.next_epoch_itr()
    for _ in range(2):
        next(batches)
    train(second, batches, 1)
    for p, q in zip(first.unwrapped_model.parameters(), second.unwrapped_model.parameters(), strict=True):
        assert (p - q).norm() <= 1e-4 * p.norm() + 1e-6


def test_the_gaudi_forks_4d_weights_and_averages_load(corpus: Path, tmp_path: Path) -> None:
    """Its feature extractor's weights, and Adam's averages of them, are C' x C x 1 x K; any width, and from the
    CPU's path too.
    """
    trainer, updates = make(corpus, tmp_path, CPU, PLAIN)
    train(trainer, updates.next_epoch_itr(), 2)
    saved = run_of(trainer)
    fork = {**saved, "model": dict(saved["model"])}
    averages = {index: dict(entry) for index, entry in saved["last_optimizer_state"]["state"].items()}
    names = [name for name, _ in trainer.unwrapped_model.named_parameters()]
    for index, name in enumerate(names):
        if name.startswith("feature_extractor") and saved["model"][name].dim() == 3:
            fork["model"][name] = saved["model"][name].unsqueeze(2)
            for key in ("exp_avg", "exp_avg_sq"):
                averages[index][key] = averages[index][key].unsqueeze(2)
    fork["last_optimizer_state"] = {**saved["last_optimizer_state"], "state": averages}
    resumed, _ = make(corpus, tmp_path, CPU, PLAIN)
    resumed.load_state_dict(fork)
    assert_equal_states(saved, run_of(resumed))
