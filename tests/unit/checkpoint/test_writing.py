"""Copies of a state on the host, and writes on a thread."""

from __future__ import annotations

import threading

import pytest
import torch

from fairseq.checkpoint.writing import HostCopies, SaveResult, Writer


def test_copies_keep_their_values_and_use_their_memory_again() -> None:
    synchronized: list[bool] = []
    copies = HostCopies(pinned=False, synchronize=lambda: synchronized.append(True))
    weight, step = torch.arange(6.0).view(2, 3), torch.tensor(1)
    live = {"weight": weight.t(), "counts": [1, {"step": step}], "same": weight}
    first = copies.copy(live)
    weight.zero_()
    step += 1
    live["counts"][1]["more"] = 2
    assert first["weight"].tolist() == [[0, 3], [1, 4], [2, 5]] and first["same"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert first["counts"] == [1, {"step": torch.tensor(1)}] and synchronized == [True]
    second = copies.copy({**live, "same": weight[:1]})
    assert second["weight"].data_ptr() == first["weight"].data_ptr() and second["weight"].sum() == 0
    assert second["same"].shape == (1, 3) and second["counts"][1]["step"] == 2
    assert copies.copy({"weight": weight.t()})["weight"].data_ptr() == first["weight"].data_ptr()


def test_steady_tensors_are_copied_by_another_thread() -> None:
    copies = HostCopies(pinned=False, synchronize=lambda: None)
    weight, buffer = torch.ones(2, 3), torch.ones(3)
    copied = copies.copy({"weight": weight.t(), "buffer": buffer}, steady=[weight])
    assert copied["buffer"].tolist() == [1, 1, 1] and not copies.is_complete
    buffer.zero_()
    weight.fill_(2)  # still before the step
    thread = threading.Timer(0.05, copies.complete)
    thread.start()
    copies.wait()
    assert copies.is_complete and copied["buffer"].tolist() == [1, 1, 1]
    weight.zero_()
    assert copied["weight"].tolist() == [[2, 2], [2, 2], [2, 2]]
    copies.copy({"buffer": buffer}, steady=[weight])
    assert copies.is_complete, "nothing is left to copy"


def test_a_write_in_the_background_is_waited_for_and_its_error_raised() -> None:
    writer, gate = Writer(in_background=True), threading.Event()

    def write() -> SaveResult:
        assert gate.wait(10)
        return SaveResult(["a"])

    writer.start(write)
    assert writer.is_writing
    with pytest.raises(AssertionError, match="take the last result"):
        writer.start(write)
    gate.set()
    assert writer.wait() == SaveResult(["a"]) and not writer.is_writing and writer.wait() is None

    def fail() -> SaveResult:
        raise KeyError("ours")

    writer.start(fail)
    with pytest.raises(KeyError, match="ours"):
        writer.wait()
    assert writer.wait() is None
