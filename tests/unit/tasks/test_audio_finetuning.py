"""The fine-tuning task: labels, dictionary, what it asks of the model, error rates for criterions without."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from fairseq import tasks
from fairseq.data.dictionary import Dictionary
from fairseq.dataclass.initialize import resolve_config
from fairseq.logging import metrics
from fairseq.tasks.audio_finetuning import AudioFinetuningTask
from tests.unit.data.small_corpus import write_corpus

SIZES = [4000, 5000, 6000]
CONV = "[(8,10,5)] + [(8,8,4)] + [(8,4,4)]"
W2V = {
    "_name": "wav2vec2",
    "conv_feature_layers": CONV,
    "encoder_layers": 1,
    "encoder_embed_dim": 16,
    "encoder_ffn_embed_dim": 16,
    "encoder_attention_heads": 2,
    "conv_pos": 8,
    "conv_pos_groups": 4,
    "mask_prob": 0.3,
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for name in ("train", "valid"):
        write_corpus(tmp_path, SIZES, name)
        (tmp_path / f"{name}.ltr").write_text("A B |\nB B |\nA |\n")
    (tmp_path / "dict.ltr.txt").write_text("| 3\nA 2\nB 3\n")
    return tmp_path


def make_task(data: Path, name: str = "audio_finetuning", **options: Any) -> AudioFinetuningTask:
    return tasks.setup_task(OmegaConf.create({"_name": name, "data": str(data), "labels": "ltr", **options}))


def model_cfg(normalize: bool = False, **options: Any) -> Any:
    w2v_args = {"model": W2V, "task": {"normalize": normalize, "sample_rate": 16000}}
    return OmegaConf.create({"_name": "wav2vec_ctc", "w2v_args": w2v_args, **options})


@pytest.mark.parametrize("name", ["audio_finetuning", "audio_pretraining"])
def test_both_names_with_labels_are_this_task(data: Path, name: str) -> None:
    task = make_task(data, name)
    assert (
        type(task) is AudioFinetuningTask
        and task.cfg._name == "audio_finetuning"
        and task.cfg.eval_wer_post_process == "letter"
    )
    cfg = resolve_config(
        {"task": {"_name": name, "data": str(data), "labels": "ltr", "eval_wer": True}, "model": {"_name": "wav2vec2"}}
    )
    assert cfg.task._name == "audio_finetuning" and cfg.task.eval_wer
    assert (
        type(tasks.setup_task(OmegaConf.create({"_name": "audio_pretraining", "data": str(data)})))
        is not AudioFinetuningTask
    )


def test_set_up_needs_no_folder(tmp_path: Path) -> None:
    """Paths are looked at when something is read; a checkpoint brings its dictionary."""
    task = make_task(tmp_path / "gone")
    with pytest.raises(ValueError, match="cannot read the dictionary .*dict.ltr.txt"):
        task.target_dictionary  # noqa: B018
    dictionary = Dictionary()
    dictionary.add_symbol("A")
    task.load_state_dict({"target_symbols": dictionary.state_dict()})
    assert task.target_dictionary == dictionary
    other = make_task(tmp_path / "gone")
    other.load_state_dict({"target_dictionary": dictionary})  # as a reader of fairseq's files gives it
    assert other.target_dictionary is dictionary
    assert torch.equal(torch.tensor(other.state_dict()["target_symbols"]["count"]), torch.tensor([1, 1, 1, 1, 1]))


def test_dictionary_from_a_file_of_its_own(data: Path) -> None:
    (data / "mine.txt").write_text("B 1\nA 1\n| 1\n")
    assert make_task(data, target_dictionary=str(data / "mine.txt")).target_dictionary.symbols[4:] == ["B", "A", "|"]
    with pytest.raises(ValueError, match="task.labels is not set"):
        make_task(data, labels=None).target_dictionary  # noqa: B018


def test_labels_are_loaded_with_their_audio(data: Path) -> None:
    task = make_task(data)
    task.load_dataset("train")
    dataset = task.dataset("train")
    assert dataset.dataset.pad and [dataset.label(i).tolist() for i in range(3)] == [[5, 6, 4], [6, 6, 4], [5, 4]]
    (data / "train.ltr").write_text("A B |\nB B |\n")
    with pytest.raises(ValueError, match="train.ltr has 2 lines, but .*train.tsv has 3 utterances"):
        task.load_dataset("train")


def test_corpora_are_joined_with_their_labels(data: Path) -> None:
    write_corpus(data / "more", [4500], "train")
    (data / "more" / "train.ltr").write_text("B |\n")
    (data / "here").symlink_to(data)
    task = make_task(data, multi_corpus_keys="here,more")
    task.load_dataset("train")
    assert [task.dataset("train").label(i).tolist() for i in (0, 3)] == [[5, 6, 4], [6, 4]]
    (data / "more" / "train.ltr").write_text("\n")
    with pytest.raises(ValueError, match="more/train.ltr, line 1: the label is empty"):
        task.load_dataset("train")


def test_the_fingerprint_is_of_audio_and_labels(data: Path) -> None:
    def fingerprint() -> dict[str, str]:
        task = make_task(data)
        task.load_dataset("train")
        return task.data_fingerprint()

    before = fingerprint()
    assert before == fingerprint()
    (data / "train.ltr").write_text("A A |\nB B |\nA |\n")
    assert fingerprint() != before


def test_masks_are_the_encoders(data: Path) -> None:
    task = make_task(data)
    task.build_model(model_cfg(apply_mask=True))
    masks = task.masks()
    assert masks.time.prob == 0.3 and masks.channel is None and masks.num_channels == 16 and len(masks.conv_layers) == 3
    task.build_model(model_cfg(apply_mask=False))
    assert task.masks().time is None


def test_long_labels_are_found_when_data_is_loaded_after_the_model(data: Path) -> None:
    task = make_task(data)
    task.build_model(model_cfg())
    (data / "valid.ltr").write_text("A |\n" + "A B " * 40 + "\nB |\n")
    with pytest.raises(ValueError, match="valid.ltr, line 2: 80 units need 80 frames"):
        task.load_dataset("valid")
    task = make_task(data)
    task.load_dataset("valid")
    task.build_model(model_cfg())
    with pytest.raises(ValueError, match="valid.ltr, line 2"):
        task.get_batch_iterator(task.dataset("valid"), max_tokens=20000)


def test_audio_is_that_of_the_pre_training(data: Path) -> None:
    with pytest.raises(ValueError, match="task.normalize is false, but the model was pre-trained with normalize: true"):
        make_task(data).build_model(model_cfg(normalize=True))
    make_task(data, normalize=True).build_model(model_cfg(normalize=True))
    with pytest.raises(ValueError, match="task.sample_rate is 8000"):
        make_task(data, sample_rate=8000).build_model(model_cfg())


class Plain(torch.nn.Module):
    """A criterion of a plug-in, which knows no error rates."""

    def forward(self, model: Any, sample: dict[str, Any]) -> Any:
        return torch.zeros(()), torch.ones(()), {"loss": torch.zeros(())}

    def reduce_metrics(self, logging_outputs: list[dict[str, Any]]) -> None:
        metrics.log_scalar("loss", 0.0)


@pytest.mark.parametrize("asked", [{}, {"eval_wer": True}, {"eval_uer": True}])
def test_error_rates_for_criterions_without(data: Path, asked: dict[str, bool]) -> None:
    task = make_task(data, **asked)
    task.build_model(model_cfg())
    task.load_dataset("valid")
    [batch] = next(task.get_batch_iterator(task.dataset("valid"), max_tokens=20000, shuffle=False).next_epoch_itr())
    said = torch.full((20, 3, 7), -9.0)  # hears "A B" of all three: wrong in two
    for frame, unit in enumerate([5, 0, 6, 4] + [0] * 16):
        said[frame, :, unit] = 9.0

    class Speaker(torch.nn.Module):
        def forward(self, **kwargs: Any) -> None:
            return None

        def get_logits(self, output: Any) -> torch.Tensor:
            return said

    _, _, log = task.valid_step(batch, Speaker(), Plain())
    assert ("w_total" in log) == bool(asked)
    with metrics.aggregate(new_root=True) as aggregator:
        task.reduce_metrics([log], Plain())
    logged = aggregator.get_smoothed_values()
    if asked:
        assert logged["wer"] == pytest.approx(66.667, abs=1e-3) and logged["uer"] == pytest.approx(
            100 * 2 / 8, abs=1e-3
        )
    else:
        assert "wer" not in logged
