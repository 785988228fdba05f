"""The helpers kept by fairseq's names."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from omegaconf import OmegaConf

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
    params = [
        torch.nn.Parameter(torch.zeros(3)),
        torch.nn.Parameter(torch.zeros(4)),
        torch.nn.Parameter(torch.zeros(1)),
    ]
    params[0].grad, params[1].grad = torch.full((3,), 2.0), torch.full((4,), 1.0)  # norm 4
    assert utils.clip_grad_norm_(params, 0.0) == 4 and params[0].grad[0] == 2
    assert utils.clip_grad_norm_(params, 1.0) == 4
    assert utils.total_norm([params[0].grad, params[1].grad]).item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("text", "values"), [("(0.9,0.98)", [0.9, 0.98]), ("[1]", [1.0]), (5, [5.0]), ([1, 2], [1.0, 2.0])]
)
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
    (folder / "__init__.py").write_text(
        "import builtins\nCOUNT = getattr(builtins, '_count', 0) + 1\nbuiltins._count = COUNT\n"
    )
    monkeypatch.setattr(sys, "path", list(sys.path))
    for _ in range(2):
        utils.import_user_module(SimpleNamespace(user_dir=str(folder)))
    assert sys.modules["a_plug_in_of_this_test"].COUNT == 1
    with pytest.raises(ValueError, match="common.user_dir"):
        utils.import_user_module(SimpleNamespace(user_dir=str(tmp_path / "nowhere")))
    taken = tmp_path / "json"
    taken.mkdir()
    with pytest.raises(ValueError, match="is taken by"):
        import json  # noqa: F401

        utils.import_user_module(SimpleNamespace(user_dir=str(taken)))


def test_forced_forms_last_as_long_as_their_block() -> None:
    x = torch.zeros(1)
    usual = device.of(x).conv_form(512, torch.float32)
    assert not utils.is_hpu_tensor(x)
    with device.forced(conv_form="unfold", hpu_arms=True):
        assert device.of(x).conv_form(512, torch.float32) == "unfold" and utils.is_hpu_tensor(x)
    assert device.of(x).conv_form(512, torch.float32) == usual and not utils.is_hpu_tensor(x)


# -- fairseq's small functions -----------------------------------------------------------------------------------------


def test_strip_pad_leaves_what_is_not_padding() -> None:
    assert utils.strip_pad(torch.tensor([5, 1, 7, 1, 1]), 1).tolist() == [5, 7]


def test_aranges() -> None:
    assert utils.buffered_arange(3).tolist() == [0, 1, 2] and utils.buffered_arange(0).tolist() == []
    assert utils.buffered_arange(2).dtype == torch.int64
    assert utils.new_arange(torch.zeros(2, 3)).tolist() == [[0, 1, 2], [0, 1, 2]]
    assert utils.new_arange(torch.zeros(1), 2, 2).tolist() == [[0, 1], [0, 1]]


def test_positions_count_symbols_after_the_padding_index() -> None:
    assert utils.make_positions(torch.tensor([[4, 9, 1], [1, 1, 8]]), 1).tolist() == [[2, 3, 1], [1, 1, 2]]


def test_padding_moves_to_the_other_end() -> None:
    left, right = torch.tensor([[1, 4, 5], [7, 8, 9]]), torch.tensor([[4, 5, 1], [7, 8, 9]])
    assert torch.equal(utils.convert_padding_direction(left, 1, left_to_right=True), right)
    assert torch.equal(utils.convert_padding_direction(right, 1, right_to_left=True), left)
    assert torch.equal(utils.convert_padding_direction(right, 1, left_to_right=True), right)  # there already
    with pytest.raises(ValueError, match="exactly one"):
        utils.convert_padding_direction(left, 1)


def test_softmaxes_are_fp32_whatever_goes_in() -> None:
    x = torch.tensor([[0.0, 3.0]], dtype=torch.float16)
    assert utils.softmax(x, dim=-1).dtype == utils.log_softmax(x, dim=1).dtype == torch.float32
    assert utils.softmax(x, dim=-1)[0].tolist() == pytest.approx([0.047426, 0.952574], abs=1e-6)  # 1 / (1 + e^3)
    assert utils.log_softmax(x, dim=-1, onnx_trace=True)[0].tolist() == pytest.approx([-3.048587, -0.048587], abs=1e-6)


def test_infinite_fill_keeps_the_dtype() -> None:
    filled = utils.fill_with_neg_inf(torch.ones(2, dtype=torch.float16))
    assert filled.dtype == torch.float16 and filled.tolist() == [float("-inf")] * 2


def test_no_tensor_here_is_xlas() -> None:
    assert not utils.is_xla_tensor(torch.ones(1)) and not utils.is_xla_tensor("text")
    assert utils.is_xla_tensor(SimpleNamespace(device=None)) is False


@pytest.mark.parametrize(
    ("limits", "tightest"),
    [
        ((), None),
        ((None, None), None),
        ((None, 5), 5),
        ((7, 5.5, None), 5.5),
        ((1024, (512, 2048)), (512, 1024)),
        (((10, None), (None, 4)), (10, 4)),
        (({"a": 5, "b": 9}, 7), {"a": 5, "b": 7}),
        (({"a": 5}, {"a": 3, "b": 2}), {"a": 3, "b": 2}),
        (({"a": (8, 9)}, 4), {"a": (4, 4)}),
    ],
)
def test_the_tightest_of_several_limits(limits: tuple[object, ...], tightest: object) -> None:
    assert utils.resolve_max_positions(*limits) == tightest


def test_paths_are_split_at_the_separator_of_their_kind() -> None:
    assert utils.split_paths("/a.pt:/b.pt", ":") == ["/a.pt", "/b.pt"] and utils.split_paths("a.pt") == ["a.pt"]
    assert utils.split_paths("s3://x/a.pt|s3://x/b.pt", ":") == ["s3://x/a.pt", "s3://x/b.pt"]
    assert utils.split_paths("a\\b", separator="\\") == ["a", "b"]


def test_safe_attributes() -> None:
    thing, cfg = SimpleNamespace(a=1, b=None), OmegaConf.create({"a": 1, "b": None})
    OmegaConf.set_struct(cfg, True)
    assert utils.safe_hasattr(thing, "a") and not utils.safe_hasattr(thing, "b") and not utils.safe_hasattr(thing, "c")
    assert (
        utils.safe_getattr(thing, "a") == 1
        and utils.safe_getattr(thing, "b", 2) is None
        and utils.safe_getattr(thing, "c", 2) == 2
    )
    assert (
        utils.safe_getattr(cfg, "a", 2) == 1
        and utils.safe_getattr(cfg, "b", 2) == 2
        and utils.safe_getattr(cfg, "c", 2) == 2
    )


def test_literals_from_command_lines() -> None:
    assert utils.eval_str_dict("{'a': 1}") == {"a": 1} and utils.eval_str_dict(None) is None
    assert (
        utils.eval_bool("True") is True
        and utils.eval_bool("0") is False
        and utils.eval_bool(None, default=True) is True
    )
    with pytest.raises(ValueError):
        utils.eval_bool("__import__('os')")


def test_an_option_may_name_a_file_that_holds_its_value(tmp_path: Path) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--text", action=utils.FileContentsAction)
    (tmp_path / "value").write_text("from the file\n")
    assert parser.parse_args(["--text", str(tmp_path / "value")]).text == "from the file"
    assert parser.parse_args(["--text", "as typed"]).text == "as typed"


def test_a_model_is_in_evaluation_mode_for_a_block() -> None:
    model = torch.nn.Dropout(0.5)
    with utils.model_eval(model):
        assert not model.training
    assert model.training and not utils.has_parameters(model) and utils.has_parameters(torch.nn.Linear(1, 1))
