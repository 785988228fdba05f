"""Reference bands: which config has one, where a run lies, and bands of your own runs."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf

import fairseq.criterions
import fairseq.models
import fairseq.optim
import fairseq.tasks  # noqa: F401  register the groups of the stock config
from fairseq.dataclass.initialize import resolve_config
from fairseq.dataclass.utils import config_to_container
from fairseq.doctor import bands
from fairseq.doctor.bands import Band, band_of, make, save
from fairseq.doctor.bands.identity import comparable
from fairseq.doctor.bands.making import limit
from fairseq.doctor.causes.bands import below_band
from fairseq.doctor.records import Records, Rows

STOCK = Path(__file__).resolve().parents[4] / "examples/wav2vec/config/pretraining/wav2vec2_base_librispeech.yaml"
# NVIDIA's eight seeds, from 50,000 to 400,000 updates: mean, smallest and largest
MEAN = [0.491, 0.537, 0.564, 0.580, 0.599, 0.610, 0.619, 0.629]
SMALLEST = [0.471, 0.518, 0.544, 0.558, 0.586, 0.589, 0.607, 0.614]
LARGEST = [0.514, 0.550, 0.577, 0.589, 0.607, 0.622, 0.634, 0.636]


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FAIRSEQ_BANDS", str(tmp_path / "bands"))
    return tmp_path / "bands"


@pytest.fixture(scope="module")
def stock() -> dict[str, Any]:
    return config_to_container(resolve_config(OmegaConf.load(STOCK)))  # type: ignore[arg-type]


def changed(config: dict[str, Any], **values: Any) -> dict[str, Any]:
    config = copy.deepcopy(config)
    for key, value in values.items():
        group, name = key.split("__")
        config[group][name] = value
    return config


def run(config: dict[str, Any], values: list[float], every: int = 50_000, split: str = "valid") -> Records:
    rows = [{"num_updates": every * (i + 1), "epoch": 1, "accuracy": value} for i, value in enumerate(values)]
    return Records({split: Rows(rows)}, config)


def test_the_stock_config_has_the_band_of_base_however_many_devices_it_runs_on(stock: dict[str, Any]) -> None:
    band = band_of(stock)
    assert band is not None and (band.name, band.seeds) == ("base-librispeech", 8)
    eight = changed(stock, distributed_training__distributed_world_size=8, optimization__update_freq=[8])
    same = changed(eight, common__seed=7, dataset__num_workers=2, model__checkpoint_activations=True, common__bf16=True)
    assert band_of(same) == band
    assert band_of(same, {"train": {"hours": 955.2}}) == band
    older = copy.deepcopy(same)  # fairseq 0.12 has no adapters
    for key in [key for key in older["model"] if key.startswith("adp_")]:
        del older["model"][key]
    assert band_of(older) == band


@pytest.mark.parametrize(
    "values",
    [
        {"model__encoder_layers": 24},
        {"model__encoder_embed_dim": 1024},
        {"model__logit_temp_start": 1.0},
        {"model__conv_feature_layers": "[(512, 10, 5)] + [(512, 3, 2)] * 5 + [(512,2,2)]"},
        {"optimization__lr": [0.001]},
        {"optimization__update_freq": [2]},
        {"optimization__max_update": 200_000},
        {"optimizer__weight_decay": 0.0},
        {"criterion__loss_weights": [0.1, 0]},
        {"lr_scheduler__warmup_updates": 8000},
        {"task__normalize": True},
        {"dataset__max_tokens": 1_200_000},
    ],
)
def test_another_model_data_size_or_rate_has_none(stock: dict[str, Any], values: dict[str, Any]) -> None:
    assert band_of(changed(stock, **values)) is None


def test_other_data_has_none_and_neither_has_a_config_that_is_not_known(stock: dict[str, Any]) -> None:
    assert band_of(stock, {"train": {"hours": 100.6}}) is None
    assert band_of({}) is None and band_of({"model": {"_name": "wav2vec2"}}) is None


@pytest.mark.parametrize("values", [MEAN, SMALLEST, LARGEST])
def test_the_seeds_that_made_the_band_are_inside(stock: dict[str, Any], values: list[float]) -> None:
    records = run(stock, values)
    band = band_of(stock)
    assert band is not None and band.place(band.rows(records)).where == "inside"
    assert below_band(records) is None


def test_a_run_below_the_band_is_found_with_the_update_it_began_at(stock: dict[str, Any]) -> None:
    values = [*MEAN[:3], 0.50, 0.50, 0.50]
    finding = below_band(run(stock, values))
    assert finding is not None and finding.severity == "warning" and (finding.begin, finding.end) == (200_000, 300_000)
    assert "below the band base-librispeech since update 200,000: accuracy 0.500" in finding.evidence[0]
    assert below_band(run(stock, [*MEAN[:3], 0.50])) is None, "one point may be chance"
    assert below_band(run(stock, [*MEAN[:3], 0.50, 0.50, 0.615])) is None, "it is back"
    assert below_band(run(stock, [0.3, 0.3, 0.3], every=10_000)) is None, "the band begins at update 50,000"
    band = band_of(stock)
    assert band is not None
    above = band.place(run(stock, [*MEAN[:3], 0.7, 0.7]).rows("valid"))
    assert (above.where, above.since) == ("better", 200_000) and "above the band" in band.say(above)


def test_values_are_compared_by_what_they_mean() -> None:
    assert comparable("(0.9, 0.98)") == comparable([0.9, 0.98]) == comparable((0.9, 0.98))  # type: ignore[arg-type]
    assert comparable("[(512,10,5)] + [(512, 3, 2)]") == comparable("[(512, 10, 5)]+[(512,3,2)]")
    assert comparable(1) == comparable("1") and comparable(True) is True and comparable("gelu") == "gelu"


# -- bands of your own runs --------------------------------------------------------------------------------------------


def seeds(stock: dict[str, Any], curves: list[np.ndarray], hours: float = 5.0) -> list[tuple[str, Records]]:
    runs = []
    for seed, values in enumerate(curves, start=1):
        config = changed(stock, common__seed=seed, optimization__lr=[0.0007])
        rows = [{"num_updates": 20 * (i + 1), "epoch": 1, "accuracy": float(v)} for i, v in enumerate(values)]
        records = Records({"train_inner": Rows(rows)}, config, data={"train": {"hours": hours}})
        runs.append((f"seed{seed}", records))
    return runs


def curves(count: int, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    steps = np.linspace(0, 1, 50)
    return [
        0.02 + 0.3 * (1 - np.exp(-3 * steps)) * rng.normal(1, 0.03) + rng.normal(0, 0.003, 50) for _ in range(count)
    ]


def test_a_band_of_own_runs_is_recognised_and_other_seeds_are_inside(stock: dict[str, Any], own_folder: Path) -> None:
    runs = seeds(stock, curves(5))
    band = make("mine", runs, "five runs")
    path = save(band, own_folder)
    assert Band(**json.loads(path.read_text())) == band == band_of(runs[0][1].config, runs[0][1].data)
    assert band_of(runs[0][1].config, {"train": {"hours": 50.0}}) is None, "other data"
    others = seeds(stock, curves(40, seed=1))
    places = [band.place(band.rows(records)).where for _, records in others]
    assert places.count("worse") <= 2, places
    _, failing = seeds(stock, [curves(1)[0] * np.where(np.arange(50) < 25, 1, 0.5)])[0]
    finding = below_band(failing)
    assert finding is not None and finding.severity == "warning" and 500 <= finding.begin <= 560


def test_the_limits_are_those_of_another_seed() -> None:
    assert limit(8) == pytest.approx(3.499 * np.sqrt(1 + 1 / 8)) and limit(5) == pytest.approx(4.604 * np.sqrt(1.2))
    assert limit(12) == pytest.approx(3.250 * np.sqrt(1 + 1 / 12)), "the next smaller number of the table"
    rng = np.random.default_rng(0)
    samples = rng.normal(size=(20_000, 6))  # five seeds, and another one
    outside = np.abs(samples[:, 5] - samples[:, :5].mean(1)) > limit(5) * samples[:, :5].std(1, ddof=1)
    assert outside.mean() == pytest.approx(0.01, abs=0.003)


def test_where_leaving_the_plateau_is_chance_the_band_reaches_down_to_it(
    stock: dict[str, Any], own_folder: Path
) -> None:
    steps = np.arange(50)
    runs = seeds(stock, [0.02 + 0.2 * np.clip((steps - left) / 20, 0, 1) for left in (10, 20, 35, 12, 99)])
    band = make("plateau", runs, "five runs")
    assert (
        band.by_chance and "the 5 seeds left the plateau between update" in band.statistic and "never" in band.statistic
    )
    save(band, own_folder)
    _, stays = seeds(stock, [np.full(50, 0.02)])[0]
    assert band.place(stays.training).where == "inside"
    _, worse = seeds(stock, [np.full(50, 0.001)])[0]
    finding = below_band(worse)
    assert finding is not None and finding.severity == "note"


def test_the_packaged_bands_do_not_match_each_other_and_hold_their_own_curves() -> None:
    packaged = bands.known()
    assert {band.name for band in packaged} == {"base-librispeech", "demo", "tiny", "tiny-falling-temperature"}
    for band in packaged:
        assert len({len(line) for line in (band.updates, band.mean, band.deviation, band.low, band.high)}) == 1
        assert all(low <= mean <= high for low, mean, high in zip(band.low, band.mean, band.high, strict=True))
        assert band.seeds >= 5 and band.source and band.version >= 1
        assert band.config not in [other.config for other in packaged if other is not band]


def test_a_seed_that_learns_the_same_a_little_later_is_inside(stock: dict[str, Any]) -> None:
    steps = np.arange(50)
    runs = seeds(
        stock, [0.02 + 0.2 * np.clip((steps - left) / 30, 0, 1) + 0.001 * left for left in (10, 11, 12, 10, 11)]
    )
    band = make("rise", runs, "five runs")
    _, later = seeds(stock, [0.02 + 0.2 * np.clip((steps - 14) / 30, 0, 1) + 0.01])[0]
    _, never = seeds(stock, [np.full(50, 0.03)])[0]
    rows = list(later.training.rows)
    assert all(band.place(Rows(rows[:n])).where == "inside" for n in range(2, 51)) and not band.by_chance
    assert band.place(never.training).where == "worse"


def test_runs_that_make_no_band_are_refused(stock: dict[str, Any]) -> None:
    runs = seeds(stock, curves(3))
    with pytest.raises(ValueError, match="at least 3 runs with different seeds; these are 2"):
        make("mine", runs[:2], "two")
    with pytest.raises(ValueError, match="each run needs its own common.seed"):
        make("mine", [*runs, ("again", runs[0][1])], "four")
    other = changed(dict(runs[0][1].config), common__seed=9, model__dropout=0.3)
    with pytest.raises(ValueError, match=r"other differs from seed1 in more than its seed: model.dropout"):
        make("mine", [*runs, ("other", Records({"train_inner": runs[0][1].training}, other))], "four")
    with pytest.raises(ValueError, match="has no config"):
        make("mine", [*runs, ("log", Records({"train_inner": runs[0][1].training}))], "four")
    with pytest.raises(ValueError, match="is not a name of a band"):
        make("../mine", runs, "three")


def test_a_file_that_is_not_a_band_is_left_out(own_folder: Path, stock: dict[str, Any]) -> None:
    own_folder.mkdir()
    (own_folder / "broken.json").write_text("{")
    (own_folder / "other.json").write_text('{"name": "other"}')
    assert [band.name for band in bands.known() if band.name == "base-librispeech"] == ["base-librispeech"]
    assert band_of(stock) is not None
