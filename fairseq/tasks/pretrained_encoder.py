"""What tasks share whose models have a pre-trained encoder."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from typing import Any, ClassVar, Optional

from omegaconf import DictConfig, open_dict
from torch import Tensor, nn

from fairseq.data.dictionary import Dictionary
from fairseq.data.labelled_audio import LabelledAudioDataset
from fairseq.masks.settings import FinetuningMasks, Masks
from fairseq.models.fairseq_model import BaseFairseqModel
from fairseq.models.wav2vec import pretrained
from fairseq.models.wav2vec.config import Wav2Vec2Config
from fairseq.tasks.audio_pretraining import AudioPretrainingConfig, AudioPretrainingTask

logger = logging.getLogger(__name__)


class PretrainedEncoderTask(AudioPretrainingTask):
    """Labelled audio for a model with a pre-trained encoder, and the dictionary of its outputs.

    The dictionary is made on first use. A checkpoint's `task_state` also holds it, so a saved model does not need the
    data folder.
    """

    head: ClassVar[str] = pretrained.HEAD  # prefix of the parameters that belong to the dictionary

    def __init__(self, cfg: AudioPretrainingConfig | DictConfig) -> None:
        super().__init__(cfg)
        self.encoder_cfg: Wav2Vec2Config | None = None
        self.state.add_factory("target_dictionary", self.load_target_dictionary)

    # -- dictionary ----------------------------------------------------------------------------------------------------

    def load_target_dictionary(self) -> Dictionary:
        """Make the dictionary of the outputs.

        Raises:
            ValueError: a file is missing or malformed; names file and line.
        """
        raise NotImplementedError

    def dictionary_source(self) -> str:
        """Return where the dictionary is from, for messages."""
        raise NotImplementedError

    @property
    def target_dictionary(self) -> Dictionary:
        return self.state.target_dictionary

    def state_dict(self) -> dict[str, Any]:
        """Return the dictionary as plain containers.

        The key differs from fairseq's `target_dictionary`, which must hold a pickled object.
        """
        return {"target_symbols": self.target_dictionary.state_dict()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Load the dictionary of a checkpoint: ours, or one converted from an older file."""
        found = state_dict.get("target_symbols", state_dict.get("target_dictionary"))
        if found is not None:
            dictionary = Dictionary.from_state_dict(found) if isinstance(found, Mapping) else found
            self.state.merge_state_dict({"target_dictionary": dictionary})

    # -- data ----------------------------------------------------------------------------------------------------------

    def data_fingerprint(self) -> dict[str, str]:
        digests = super().data_fingerprint()
        for split, dataset in self.datasets.items():
            if not isinstance(dataset, LabelledAudioDataset):
                continue
            digest = hashlib.blake2b(digests[split].encode(), digest_size=16)
            for array in dataset.label_arrays():
                digest.update(array.data)
            digests[split] = digest.hexdigest()
        return digests

    # -- masks and model -----------------------------------------------------------------------------------------------

    def masks(self) -> Optional[Masks]:
        """Return the mask settings of the encoder, including its feature extractor's layers.

        Raises:
            ValueError: the model has not been built.
        """
        if self.encoder_cfg is None:
            return super().masks()
        return FinetuningMasks.from_config(self.encoder_cfg, self.model_cfg.apply_mask)

    def build_model(self, cfg: Any, from_checkpoint: bool = False) -> BaseFairseqModel:
        """Build the model, and store the pre-training config in `cfg.w2v_args`, as fairseq does.

        Raises:
            ValueError: this task's sample rate or normalisation differs from the pre-training's.
        """
        model = super().build_model(cfg, from_checkpoint)
        self.encoder_cfg = model.encoder_config()
        if self.encoder_cfg is None:
            return model
        w2v_args = pretrained.as_container(self.model_cfg.w2v_args)
        if isinstance(cfg, DictConfig) and cfg.get("w2v_args") is None:
            with open_dict(cfg):
                cfg.w2v_args = w2v_args
        self._check_audio(w2v_args)
        return model

    def _check_audio(self, w2v_args: Mapping[str, Any]) -> None:
        """Raise ValueError unless sample rate and normalisation match those of pre-training."""
        normalized = pretrained.normalizes(w2v_args)
        if normalized != self.cfg.normalize:
            raise ValueError(
                f"task.normalize is {str(self.cfg.normalize).lower()}, but the model was pre-trained with normalize: "
                f"{str(normalized).lower()}. Set task.normalize={str(normalized).lower()}."
            )
        rate = (w2v_args.get("task") or {}).get("sample_rate")
        if rate is not None and rate != self.cfg.sample_rate:
            raise ValueError(
                f"task.sample_rate is {self.cfg.sample_rate}, but the model was pre-trained at {rate} Hz. Set "
                f"task.sample_rate={rate} and task.resample=true."
            )

    def adapted_weights(self, state: dict[str, Any], model: nn.Module, only_weights: bool) -> dict[str, Tensor]:
        """See FairseqTask. If the checkpoint's dictionary differs, keep the model's own new output layer.

        Raises:
            ValueError: the dictionaries differ, and `only_weights` is false.
        """
        symbols = pretrained.symbols_of(state)
        if symbols is None or symbols == self.target_dictionary.symbols:
            return state["model"]
        size, path = len(self.target_dictionary), self.dictionary_source()
        differ = (
            f"the checkpoint was trained with another dictionary ({len(symbols)} symbols), not {path} ({size} symbols)"
        )
        if not only_weights:
            raise ValueError(
                f"{differ}. Restore the former dictionary; or, to train a new output layer, start a new run with this "
                "checkpoint as checkpoint.finetune_from_model or model.w2v_path."
            )
        logger.warning("%s: the output layer is new and starts from random weights", differ)
        own = {name: tensor for name, tensor in model.state_dict().items() if name.startswith(self.head)}
        return {**state["model"], **own}
