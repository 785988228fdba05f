"""The pre-training task: config, data sets, mask settings, and what trainers ask of it."""

from __future__ import annotations

import gzip
from dataclasses import dataclass, fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from fairseq import tasks
from fairseq.masks.selections import SELECTIONS, Static
from fairseq.tasks.audio_pretraining import AudioPretrainingConfig, AudioPretrainingTask, InferredW2vConfig
from fairseq.tasks.fairseq_task import FairseqTask, StatefulContainer
from tests.unit.data.small_corpus import SIZES, make_masks, write_corpus

INFERRED = {
    "mask_length": 4,
    "mask_prob": 0.5,
    "mask_selection": "static",
    "mask_other": 0.0,
    "no_mask_overlap": False,
    "mask_min_space": 1,
    "mask_channel_length": 2,
    "mask_channel_prob": 0.2,
    "mask_channel_selection": "static",
    "mask_channel_other": 0.0,
    "no_mask_channel_overlap": False,
    "mask_channel_min_space": 1,
    "conv_feature_layers": "[(8,10,5)] + [(8,8,4)] + [(8,4,4)]",
    "encoder_embed_dim": 16,
}
MODEL = SimpleNamespace(
    **INFERRED,
    mask_dropout=0.0,
    require_same_masks=True,
    num_negatives=9,
    negatives_from_everywhere=False,
    cross_sample_negatives=0,
    codebook_negatives=0,
)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_corpus(tmp_path, SIZES)
    write_corpus(tmp_path, [3000, 4000], "valid")
    return tmp_path


def make_task(data: Path, **options: Any) -> AudioPretrainingTask:
    return tasks.setup_task(
        OmegaConf.create({"_name": "audio_pretraining", "data": str(data), "max_sample_size": 5000, **options})
    )


# -- config ------------------------------------------------------------------------------------------------------------


def test_fields_of_both_generations_of_fairseq() -> None:
    names = {f.name for f in fields(AudioPretrainingConfig)}
    both = {
        "data",
        "labels",
        "binarized_dataset",
        "sample_rate",
        "normalize",
        "enable_padding",
        "max_sample_size",
        "min_sample_size",
    }
    both |= {"num_batch_buckets", "tpu", "text_compression_level"}
    old = {"precompute_mask_indices", "inferred_w2v_config"}
    new = {
        "multi_corpus_keys",
        "multi_corpus_sampling_weights",
        "multi_corpus_sampling_alpha",
        "rebuild_batches",
        "precompute_mask_config",
        "post_save_script",
    }
    assert both | old | new | {
        "subsample",
        "seed",
        "resample",
        "max_quarantined_share",
        "cache_dir",
        "cache_gb",
    } == names - {"_name"}


def test_mask_settings_refer_to_the_model() -> None:
    cfg = OmegaConf.create(
        {
            "model": {**INFERRED, "mask_prob": 0.3},
            "task": {"inferred_w2v_config": OmegaConf.structured(InferredW2vConfig)},
        }
    )
    assert cfg.task.inferred_w2v_config.mask_prob == 0.3
    assert set(INFERRED) == {f.name for f in fields(InferredW2vConfig)} - {"_name"}


@pytest.mark.parametrize(
    "options, named",
    [
        ({"num_batch_buckets": 7}, "task.num_batch_buckets=7 requires task.enable_padding=true"),
        ({"binarized_dataset": True}, "task.binarized_dataset"),
        ({"post_save_script": "x.sh"}, "task.post_save_script"),
        ({"subsample": 0.0}, "task.subsample is 0"),
        ({"max_quarantined_share": 2.0}, "task.max_quarantined_share is 2"),
        ({"multi_corpus_sampling_weights": "1"}, "task.multi_corpus_keys is not. Set both"),
        (
            {"multi_corpus_keys": "a,b", "multi_corpus_sampling_weights": "0.5"},
            "it must have 2 numbers, one for each of task.multi_corpus_keys",
        ),
        ({"multi_corpus_keys": "a,b", "multi_corpus_sampling_weights": "0.5,0.6"}, "sum to 1"),
        ({"multi_corpus_keys": "a,b", "multi_corpus_sampling_weights": "0.5,x"}, "comma-separated numbers"),
        ({"multi_corpus_sampling_alpha": 0.5}, "multi_corpus_sampling_alpha is set, but task.multi_corpus_keys is not"),
        (
            {
                "multi_corpus_keys": "a,b",
                "multi_corpus_sampling_weights": "0.5,0.5",
                "multi_corpus_sampling_alpha": 0.5,
            },
            "task.multi_corpus_sampling_alpha is 0.5, but task.multi_corpus_sampling_weights is set too",
        ),
        ({"multi_corpus_keys": "a,b", "multi_corpus_sampling_alpha": 1.5}, "task.multi_corpus_sampling_alpha is 1.5"),
        ({"multi_corpus_keys": "a,b,a"}, "names 'a' twice"),
        ({"max_smaple_size": 3}, "Did you mean 'max_sample_size'"),
    ],
)
def test_configs_that_cannot_be_meant(data: Path, options: dict, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        make_task(data, **options)


def test_all_problems_come_together(data: Path) -> None:
    with pytest.raises(ValueError, match=r"(?s)task\.post_save_script.*task\.num_batch_buckets"):
        make_task(data, num_batch_buckets=2, post_save_script="x.sh")


# -- registry ----------------------------------------------------------------------------------------------------------


def test_registry_refuses_taken_names_and_other_classes() -> None:
    assert tasks.get_task("audio_pretraining") is AudioPretrainingTask
    with pytest.raises(ValueError, match="already registered"):
        tasks.register_task("audio_pretraining")(FairseqTask)
    with pytest.raises(ValueError, match="must extend FairseqTask"):
        tasks.register_task("something_else")(dict)
    with pytest.raises(ValueError, match="audio_pretraining"):
        tasks.setup_task(OmegaConf.create({"_name": "audio_pretrainning"}))


def test_state_container() -> None:
    state = StatefulContainer()
    state.add_factory("words", lambda: ["a"])
    state.words.append("b")
    assert state.state_dict == {"words": ["a", "b"]}
    state.merge_state_dict({"words": ["c"]})
    assert state.words == ["c"]
    with pytest.raises(AttributeError, match="letters"):
        _ = state.letters


# -- data --------------------------------------------------------------------------------------------------------------


def test_batches_from_inferred_settings_without_a_model(data: Path) -> None:
    task = make_task(data, inferred_w2v_config=INFERRED, min_sample_size=3000)
    task.load_dataset("train")
    assert task.masks() == make_masks()
    iterator = task.get_batch_iterator(task.dataset("train"), max_tokens=11_000, update_freq=[2])
    samples = [sample for update in iterator.next_epoch_itr() for sample in update]
    assert sorted(i for sample in samples for i in sample["id"].tolist()) == list(
        range(sum(size >= 3000 for size in SIZES))
    )
    assert all("negative_indices" not in sample["net_input"] for sample in samples)


def test_validation_repeats_itself_and_brings_negatives(data: Path) -> None:
    task = make_task(data, enable_padding=True, num_batch_buckets=1)
    task.load_dataset("valid")
    task.model_cfg = MODEL
    iterator = task.get_batch_iterator(task.dataset("valid"), max_sentences=3, shuffle=False)
    first, second = ([sample for update in iterator.next_epoch_itr() for sample in update] for _ in range(2))
    assert len(first) == 1 and first[0]["num_valid"] == 2
    for name, tensor in first[0]["net_input"].items():
        assert torch.equal(tensor, second[0]["net_input"][name])
    assert first[0]["net_input"]["negative_indices"].shape[2] == 9


@pytest.mark.parametrize(
    "elsewhere", [{"cross_sample_negatives": 5}, {"codebook_negatives": 5}, {"negatives_from_everywhere": True}]
)
def test_negatives_of_other_places_are_the_models(data: Path, elsewhere: dict) -> None:
    task = make_task(data)
    task.model_cfg = SimpleNamespace(**{**vars(MODEL), **elsewhere})
    assert task.masks().num_negatives == 0


def test_mask_settings_come_from_the_inferred_config_before_the_model(data: Path) -> None:
    task = make_task(data, inferred_w2v_config={**INFERRED, "mask_prob": 0.25})
    task.model_cfg = SimpleNamespace(**{**vars(MODEL), "mask_dropout": 0.1})
    masks = task.masks()
    assert (masks.time.prob, masks.time.dropout, masks.num_negatives) == (0.25, 0.1, 9)
    task = make_task(data)
    with pytest.raises(ValueError, match="task.inferred_w2v_config"):
        task.masks()
    task.model_cfg = SimpleNamespace()  # a model of the user's own, which has no masks
    assert task.masks() is None


def test_a_mask_types_own_parameter_comes_from_the_model_where_the_inferred_config_lacks_it(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @dataclass(frozen=True)
    class Short(Static):
        short: int = 1

    monkeypatch.setitem(SELECTIONS, "short", Short)
    task = make_task(data, inferred_w2v_config={**INFERRED, "mask_selection": "short"})
    task.model_cfg = SimpleNamespace(**{**vars(MODEL), "mask_selection": "short", "mask_short": 4})
    masks = task.masks()
    assert masks is not None and masks.time.parameters == (("short", 4),)


@pytest.mark.parametrize("inferred", [None, INFERRED])
def test_batches_have_whole_spans_where_the_model_does_not_require_same_masks(
    data: Path, inferred: dict | None
) -> None:
    def rows(same: bool) -> list[torch.Tensor]:
        task = make_task(data, inferred_w2v_config=inferred)
        task.load_dataset("train")
        task.model_cfg = SimpleNamespace(**{**vars(MODEL), "require_same_masks": same})
        iterator = task.get_batch_iterator(task.dataset("train"), max_tokens=11_000)
        return [
            row
            for update in iterator.next_epoch_itr()
            for sample in update
            for row in sample["net_input"]["mask_indices"]
        ]

    def shortest(row: torch.Tensor) -> int:
        return min(len(span) for span in "".join("m" if masked else " " for masked in row.tolist()).split())

    assert all(shortest(row) >= INFERRED["mask_length"] for row in rows(same=False))
    cut = rows(same=True)
    assert min(shortest(row) for row in cut) == 1
    assert all(not (one & ~whole).any() for one, whole in zip(cut, rows(same=False), strict=True))


def test_a_real_model_gives_its_settings(data: Path) -> None:
    wav2vec2 = pytest.importorskip("fairseq.models.wav2vec.wav2vec2")
    task = make_task(data)
    cfg = wav2vec2.Wav2Vec2Config(
        conv_feature_layers="[(8,10,5)] + [(8,8,4)]",
        encoder_layers=1,
        encoder_embed_dim=16,
        encoder_ffn_embed_dim=16,
        encoder_attention_heads=2,
        quantize_targets=True,
        latent_vars=4,
        final_dim=8,
        conv_pos=4,
        conv_pos_groups=2,
        mask_prob=0.4,
    )
    cfg._name = "wav2vec2"
    task.build_model(OmegaConf.structured(cfg))
    assert (task.masks().time.prob, task.masks().num_channels, len(task.masks().conv_layers)) == (0.4, 16, 2)


def test_seed_and_epoch_rule_the_batches(data: Path) -> None:
    def ids(**options: Any) -> list:
        task = make_task(data, inferred_w2v_config=INFERRED, **options.pop("task", {}))
        task.load_dataset("train")
        iterator = task.get_batch_iterator(task.dataset("train"), max_tokens=11_000, **options)
        return [
            sorted(tuple(s["id"].tolist()) for update in iterator.next_epoch_itr() for s in update) for _ in range(2)
        ]

    assert ids(seed=1) == ids(seed=1) != ids(seed=2)
    first, second = ids()
    assert first != second
    first, second = ids(task={"rebuild_batches": False})
    assert first == second


def test_several_corpora(tmp_path: Path) -> None:
    write_corpus(tmp_path / "a", [3000] * 6)
    write_corpus(tmp_path / "b", [3000] * 2)
    write_corpus(tmp_path, [3000] * 5, "tedlium")
    keys = {"multi_corpus_keys": "a,b", "inferred_w2v_config": INFERRED}
    task = make_task(tmp_path, **keys)
    task.load_dataset("train")
    assert len(task.dataset("train")) == 8
    task = make_task(tmp_path, **keys, multi_corpus_sampling_weights="0.25,0.75")
    task.load_dataset("train")
    iterator = task.get_batch_iterator(task.dataset("train"), max_sentences=1)
    drawn = [sample["id"].item() for (sample,) in iterator.next_epoch_itr()]
    assert len(drawn) == 8 and sum(i >= 6 for i in drawn) == 6
    task.load_dataset("a:tedlium")  # fairseq: a split that says which manifest each corpus has
    assert len(task.dataset("a:tedlium")) == 5
    with pytest.raises(ValueError, match="corpus 'c'"):
        task.load_dataset("c:tedlium")


def test_alpha_makes_shares_of_the_audio(tmp_path: Path) -> None:
    write_corpus(tmp_path / "long", [6000] * 8)
    write_corpus(tmp_path / "short", [3000] * 4)
    keys = {"multi_corpus_keys": "long,short", "inferred_w2v_config": INFERRED, "max_sample_size": 6000}
    for alpha, audio in ((1.0, [0.8, 0.2]), (0.5, [2 / 3, 1 / 3]), (0.0, [0.5, 0.5])):
        task = make_task(tmp_path, **keys, multi_corpus_sampling_alpha=alpha)
        task.load_dataset("train")
        shares = dict(task.corpus_shares("train"))
        assert [shares[name].audio for name in ("long", "short")] == pytest.approx(audio)
        assert shares["long"].hours == pytest.approx(48000 / 16000 / 3600)
        drawn = task.dataset("train").sample(1)
        assert len(drawn) == 12
        if alpha == 0:  # as much audio: twice as many of the short ones
            assert (drawn % 12 >= 8).sum() == 8
    assert make_task(tmp_path, **keys, multi_corpus_sampling_alpha=1.0).corpora == ("long", "short")
    write_corpus(tmp_path, [3000] * 5)
    assert make_task(tmp_path).corpora == ()


def test_combined_validation_sets(data: Path) -> None:
    write_corpus(data, [3000, 3100, 3200], "valid1")
    task = make_task(data)
    task.load_dataset("valid", combine=True)
    assert len(task.dataset("valid")) == 5
    task.load_dataset("valid")
    assert len(task.dataset("valid")) == 2


def test_compressed_manifests_are_found(data: Path) -> None:
    task = make_task(data)
    task.load_dataset("train")
    before = task.data_fingerprint()
    write_corpus(data, [3000, 3100, 3200], "valid1")
    for name in ("train", "valid1"):
        (data / f"{name}.tsv.gz").write_bytes(gzip.compress((data / f"{name}.tsv").read_bytes()))
        (data / f"{name}.tsv").unlink()
    task = make_task(data)
    task.load_dataset("valid", combine=True)
    assert len(task.dataset("valid")) == 5
    del task.datasets["valid"]
    task.load_dataset("train")
    assert task.data_fingerprint() == before


def test_fingerprint_is_the_listing_not_the_place(data: Path, tmp_path: Path) -> None:
    task = make_task(data)
    task.load_dataset("train")
    before = task.data_fingerprint()
    text = (data / "train.tsv").read_text()
    for changed, same in [(text.replace(str(data), "/moved"), True), (text + "more.flac\t5000\n", False)]:
        (data / "train.tsv").write_text(changed)
        other = make_task(data)
        other.load_dataset("train")
        assert (other.data_fingerprint() == before) == same


def test_names_and_missing_splits(data: Path) -> None:
    task = make_task(data)
    task.load_dataset("train")
    assert task.utterance_name("train", 3) == str(data / "train03.flac")
    with pytest.raises(KeyError, match="valid"):
        task.dataset("valid")
    with pytest.raises(ValueError, match="fairseq-manifest"):
        task.load_dataset("test")


def test_total_samples(data: Path) -> None:
    task = make_task(data, inferred_w2v_config=INFERRED, enable_padding=True)
    task.load_dataset("train")
    iterator = task.get_batch_iterator(task.dataset("train"), max_tokens=11_000)
    samples = [sample for update in iterator.next_epoch_itr() for sample in update]
    assert (
        task.dataset("train").total_samples(iterator.batches(1), 1)
        == sum(s["num_samples"] for s in samples)
        == sum(min(s, 5000) for s in SIZES)
    )


def test_long_utterances_are_errors_or_left_out(data: Path) -> None:
    task = make_task(data, inferred_w2v_config=INFERRED)
    task.load_dataset("train")
    with pytest.raises(ValueError, match="skip_invalid_size_inputs_valid_test"):
        task.get_batch_iterator(task.dataset("train"), max_tokens=11_000, max_positions=4000)
    iterator = task.get_batch_iterator(
        task.dataset("train"), max_tokens=11_000, max_positions=4000, ignore_invalid_inputs=True
    )
    ids = [i for update in iterator.next_epoch_itr() for s in update for i in s["id"].tolist()]
    assert sorted(ids) == [i for i, size in enumerate(SIZES) if size <= 4000]
    with pytest.raises(ValueError, match="no utterances left"):
        task.get_batch_iterator(
            task.dataset("train"), max_tokens=11_000, max_positions=10, ignore_invalid_inputs=True
        ).next_epoch_itr()


def test_valid_step_evaluates_without_gradients(data: Path) -> None:
    task = make_task(data)
    model = torch.nn.Linear(2, 1)

    def criterion(model: torch.nn.Module, sample: torch.Tensor) -> tuple:
        return model(sample).sum(), torch.ones(()), {"training": model.training}

    loss, _, log = task.valid_step(torch.ones(1, 2), model, criterion)
    assert not loss.requires_grad and log == {"training": False}


class Plugged(torch.utils.data.Dataset):
    """A data set of fairseq's kind in a task for manifests."""

    def __len__(self) -> int:
        return 4

    def size(self, index: int) -> int:
        return 3000

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.full((3000,), float(index))

    def collater(self, samples: list[torch.Tensor]) -> dict[str, Any]:
        return {"net_input": {"source": torch.stack(samples)}}


def test_a_plug_ins_data_set_gets_the_tasks_masks(tmp_path: Path) -> None:
    task = make_task(tmp_path, inferred_w2v_config=INFERRED)
    task.datasets["train"] = Plugged()
    iterator = task.get_batch_iterator(task.dataset("train"), max_sentences=2)
    for (batch,) in iterator.next_epoch_itr():
        assert batch["net_input"]["source"][:, 0].tolist() == batch["id"].tolist()
        assert batch["net_input"]["masked_weights"].sum() > 0 and batch["num_samples"] == 6000
    assert task.data_fingerprint() == {} and task.utterance_name("train", 3) == "train:3"
    assert task.split_source("train") == "the split 'train'"
