"""The helpers kept by fairseq's names."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from fairseq import device, utils


def test_keyed_seed_is_a_function_of_its_key_alone() -> None:
    assert utils.keyed_seed(1, 2, 3) == utils.keyed_seed(1, 2, 3)
    keys = [(1, 2, 3), (1, 3, 2), (1, 2), (0, 1, 2), (1, 2, 4)]
    seeds = {utils.keyed_seed(*key) for key in keys}
    assert len(seeds) == len(keys) and all(0 <= seed < 2**63 for seed in seeds)


def test_apply_to_sample_keeps_the_nest() -> None:
    sample = {"a": torch.ones(2), "b": [torch.zeros(1), "text"], "c": (3, {"d": torch.ones(1)})}
    doubled = utils.apply_to_sample(lambda t: t * 2, sample)
    assert doubled["a"].tolist() == [2, 2] and doubled["b"][1] == "text" and doubled["c"][1]["d"].tolist() == [2]
    assert sample["a"].tolist() == [1, 1]


def test_index_put_writes_where_the_mask_is_true() -> None:
    x = torch.zeros(2, 3, 4)
    mask = torch.tensor([[True, False, False], [False, True, False]])
    value = torch.arange(4.0)
    written = utils.index_put(x, mask, value)
    assert torch.equal(written[mask], value.expand(2, 4)) and written[~mask].abs().sum() == 0


def test_clip_grad_norm_scales_to_the_limit_and_tells_the_norm_before() -> None:
    params = [torch.nn.Parameter(torch.zeros(3)), torch.nn.Parameter(torch.zeros(4)), torch.nn.Parameter(torch.zeros(1))]
    params[0].grad, params[1].grad = torch.full((3,), 2.0), torch.full((4,), 1.0)  # norm 4
    assert utils.clip_grad_norm_(params, 0.0) == 4 and params[0].grad[0] == 2
    assert utils.clip_grad_norm_(params, 1.0) == 4
    assert utils.total_norm([params[0].grad, params[1].grad]).item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(("text", "values"), [("(0.9,0.98)", [0.9, 0.98]), ("[1]", [1.0]), (5, [5.0]), ([1, 2], [1.0, 2.0])])
def test_lists_are_parsed_as_literals(text: object, values: list[float]) -> None:
    assert utils.eval_str_list(text) == values


def test_text_is_not_run() -> None:
    with pytest.raises((ValueError, SyntaxError)):
        utils.eval_str_list("__import__('os').getcwd()")


def test_an_unknown_activation_is_named_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="'gelo'.*gelu"):
        utils.get_activation_fn("gelo")


def test_user_dir_is_imported_once_and_its_absence_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "a_plug_in_of_this_test"
    folder.mkdir()
    (folder / "__init__.py").write_text("import builtins\nCOUNT = getattr(builtins, '_count', 0) + 1\nbuiltins._count = COUNT\n")
    monkeypatch.setattr(sys, "path", list(sys.path))
    for _ in range(2):
        utils.import_user_module(SimpleNamespace(user_dir=str(folder)))
    assert sys.modules["a_plug_in_of_this_test"].COUNT == 1
    with pytest.raises(ValueError, match="common.user_dir"):
        utils.import_user_module(SimpleNamespace(user_dir=str(tmp_path / "nowhere")))
    taken = tmp_path / "json"
    taken.mkdir()
    with pytest.raises(ValueError, match="belongs to"):
        import json  # noqa: F401

        utils.import_user_module(SimpleNamespace(user_dir=str(taken)))


def test_forced_forms_last_as_long_as_their_block() -> None:
    x = torch.zeros(1)
    usual = device.of(x).conv_form(512, torch.float32)
    assert not utils.is_hpu_tensor(x)
    with device.forced(conv_form="unfold", hpu_arms=True):
        assert device.of(x).conv_form(512, torch.float32) == "unfold" and utils.is_hpu_tensor(x)
    assert device.of(x).conv_form(512, torch.float32) == usual and not utils.is_hpu_tensor(x)
