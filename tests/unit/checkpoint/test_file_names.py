"""What the loading functions take as file names, and what they raise where a file is missing."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from fairseq import checkpoint_utils, hub_utils, models, tasks
from fairseq.dataclass.utils import config_to_container

TINY = {
    "encoder_layers": 1,
    "encoder_embed_dim": 8,
    "encoder_ffn_embed_dim": 8,
    "encoder_attention_heads": 2,
    "conv_feature_layers": "[(4, 3, 2)]",
    "conv_pos": 2,
    "conv_pos_groups": 1,
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    task = tasks.setup_task(Namespace(task="audio_pretraining"))
    model = models.build_model(OmegaConf.create({"_name": "wav2vec2", **TINY}), task)
    path = tmp_path_factory.mktemp("checkpoint") / "x.pt"
    cfg = {
        "model": config_to_container(model.cfg) | {"_name": "wav2vec2"},
        "task": {"_name": "audio_pretraining", "data": "", "normalize": False},
    }
    checkpoint_utils.torch_persistent_save({"cfg": cfg, "model": model.state_dict()}, str(path))
    return path


@pytest.mark.parametrize("form", [str, Path, lambda p: [str(p)], lambda p: (p,)])
def test_one_path_or_several(checkpoint: Path, form: object) -> None:
    loaded, cfg, task = checkpoint_utils.load_model_ensemble_and_task(form(checkpoint))
    assert len(loaded) == 1 and cfg.model.encoder_embed_dim == 8 and task.cfg._name == "audio_pretraining"
    (model,), _ = checkpoint_utils.load_model_ensemble(form(checkpoint))
    assert torch.equal(model.mask_emb, loaded[0].mask_emb)


def test_a_suffix_goes_before_the_ending(checkpoint: Path) -> None:
    (checkpoint.parent / "x-shard0.pt").write_bytes(checkpoint.read_bytes())
    assert len(checkpoint_utils.load_model_ensemble(checkpoint, suffix="-shard0")[0]) == 1


def test_no_path_at_all() -> None:
    with pytest.raises(ValueError, match="filenames is empty. Pass the path of a checkpoint"):
        checkpoint_utils.load_model_ensemble_and_task([])


@pytest.mark.parametrize("kind", [FileNotFoundError, OSError, ValueError])
@pytest.mark.parametrize("form", [str, lambda p: [p]])
def test_a_missing_file_is_a_file_not_found(tmp_path: Path, form: object, kind: type[Exception]) -> None:
    with pytest.raises(kind, match="Model file not found: .*nothing.pt"):
        checkpoint_utils.load_model_ensemble_and_task(form(tmp_path / "nothing.pt"))
    with pytest.raises(kind, match="model.w2v_path=.*nothing.pt: there is no such file"):
        checkpoint_utils.load_pretrained(str(tmp_path / "nothing.pt"))


@pytest.mark.parametrize("load", [checkpoint_utils.load_checkpoint_to_cpu, checkpoint_utils.load_ema_from_checkpoint])
def test_functions_for_one_file_name_it(tmp_path: Path, load: object) -> None:
    with pytest.raises(FileNotFoundError, match="nothing.pt"):
        load(str(tmp_path / "nothing.pt"))


def test_from_pretrained_reads_a_folder(checkpoint: Path, tmp_path: Path) -> None:
    found = hub_utils.from_pretrained(str(checkpoint.parent), checkpoint.name, normalize=True)
    assert (
        len(found["models"]) == 1
        and found["task"].cfg.data == str(checkpoint.parent)
        and found["task"].cfg.normalize is True
    )
    assert hub_utils.from_pretrained(str(checkpoint.parent), "x.pt", data_name_or_path=str(tmp_path))[
        "args"
    ].task.data == str(tmp_path)
    with pytest.raises(FileNotFoundError, match="nothing is not a folder on this machine"):
        hub_utils.from_pretrained("nothing")
    with pytest.raises(FileNotFoundError, match="Model file not found"):
        hub_utils.from_pretrained(str(checkpoint.parent))
