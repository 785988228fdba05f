"""The task in HuBERT's files: audio settings and label dictionaries. Its pre-training is not offered."""

# omegaconf reads the types of fields at run time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

from omegaconf import MISSING, OmegaConf

from fairseq.data.dictionary import Dictionary
from fairseq.dataclass import FairseqDataclass
from fairseq.tasks import register_task
from fairseq.tasks.fairseq_task import FairseqTask

__all__ = ["HubertPretrainingConfig", "HubertPretrainingTask"]


@dataclass
class HubertPretrainingConfig(FairseqDataclass):
    """fairseq's fields and defaults."""

    data: str = field(default=MISSING, metadata={"help": "folder of the manifests"})
    fine_tuning: bool = field(default=False, metadata={"help": "the model is fine-tuned (hubert_ctc)"})
    labels: list[str] = field(
        default_factory=lambda: ["ltr"], metadata={"help": "extensions of the label files; dict.<label>.txt names them"}
    )
    label_dir: Optional[str] = field(default=None, metadata={"help": "folder of the label files; None: data"})
    label_rate: float = field(default=-1.0, metadata={"help": "labels per second; -1: one sequence per utterance"})
    sample_rate: int = field(default=16_000, metadata={"help": "Hz", "at_least": 1})
    normalize: bool = field(default=False, metadata={"help": "normalise audio to zero mean and unit variance"})
    enable_padding: bool = field(default=False, metadata={"help": "no effect: batches are not made here"})
    max_keep_size: Optional[int] = field(default=None, metadata={"help": "no effect: batches are not made here"})
    max_sample_size: Optional[int] = field(default=None, metadata={"help": "no effect: batches are not made here"})
    min_sample_size: Optional[int] = field(default=None, metadata={"help": "no effect: batches are not made here"})
    single_target: Optional[bool] = field(default=False, metadata={"help": "no effect: batches are not made here"})
    random_crop: Optional[bool] = field(default=True, metadata={"help": "no effect: batches are not made here"})
    pad_audio: Optional[bool] = field(default=False, metadata={"help": "no effect: batches are not made here"})
    target_dictionary: Optional[str] = field(
        default=None,
        metadata={"help": "dictionary file of a fine-tuned model; None: dict.<label>.txt next to the data"},
    )

    @staticmethod
    def only_opens() -> Optional[str]:
        return "it opens HuBERT's files. To fine-tune them, set task=audio_finetuning."


@register_task("hubert_pretraining", dataclass=HubertPretrainingConfig)
class HubertPretrainingTask(FairseqTask):
    """Opens HuBERT's files: label dictionaries, and for fine-tuned models the dictionary of the output layer.

    Dictionaries come from the checkpoint, else from <label_dir>/dict.<label>.txt, and are None if they are in neither.
    """

    cfg: HubertPretrainingConfig

    def __init__(self, cfg: HubertPretrainingConfig, **kwargs: Any) -> None:
        super().__init__(cfg)
        self.fine_tuning = bool(cfg.fine_tuning)
        self.blank_symbol = "<s>"
        self.state.add_factory("dictionaries", self.load_dictionaries)
        self.state.add_factory("target_dictionary", self.load_target_dictionary)

    @property
    def sample_rate(self) -> int:
        return self.cfg.sample_rate

    @property
    def source_dictionary(self) -> None:
        return None

    @property
    def dictionaries(self) -> list[Optional[Dictionary]]:
        """One per set of labels; None where the dictionary is not at hand."""
        return self.state.dictionaries

    @property
    def target_dictionary(self) -> Optional[Dictionary]:
        """Symbols of the output layer; None for a model that is not fine-tuned."""
        return self.state.target_dictionary if self.fine_tuning else None

    def get_label_dir(self) -> str:
        return self.cfg.data if self.cfg.label_dir is None else self.cfg.label_dir

    def dictionary_path(self) -> str:
        """Path of the output layer's dictionary file."""
        if self.cfg.target_dictionary is not None:
            return self.cfg.target_dictionary
        return str(Path(self.get_label_dir()) / f"dict.{self.cfg.labels[0]}.txt")

    def load_target_dictionary(self) -> Dictionary:
        """Read the output layer's dictionary.

        Raises:
            ValueError: the file is missing or malformed.
        """
        return Dictionary.load(self.dictionary_path())

    def load_dictionaries(self) -> list[Optional[Dictionary]]:
        """Read the label dictionaries that are next to the data."""
        missing = OmegaConf.is_config(self.cfg) and OmegaConf.is_missing(self.cfg, "data")
        no_data = missing or self.cfg.data in (None, MISSING)
        folder = None if no_data and self.cfg.label_dir is None else self.get_label_dir()
        paths = [None if folder is None else Path(folder) / f"dict.{label}.txt" for label in self.cfg.labels]
        return [Dictionary.load(str(path)) if path is not None and path.is_file() else None for path in paths]

    def state_dict(self) -> dict[str, Any]:
        """The dictionaries at hand as plain containers."""
        found: dict[str, Any] = {}
        if self.fine_tuning:
            found["target_symbols"] = self.state.target_dictionary.state_dict()
        elif any(dictionary is not None for dictionary in self.dictionaries):
            found["dictionaries"] = [None if one is None else one.state_dict() for one in self.dictionaries]
        return found

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take the dictionaries of a checkpoint."""
        target = state_dict.get("target_symbols", state_dict.get("target_dictionary"))
        if target is not None:
            self.state.merge_state_dict({"target_dictionary": _dictionary(target)})
        if state_dict.get("dictionaries"):
            found = [None if one is None else _dictionary(one) for one in state_dict["dictionaries"]]
            self.state.merge_state_dict({"dictionaries": found})

    def load_dataset(self, split: str, task_cfg: Any = None, combine: bool = False, **kwargs: Any) -> None:
        """Refuse: this task loads no data.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            "task hubert_pretraining only opens files here: HuBERT's pre-training is not offered. To fine-tune, use "
            "task audio_finetuning with model wav2vec_ctc, and model.w2v_path=FILE."
        )


def _dictionary(found: Mapping[str, Any] | Dictionary) -> Dictionary:
    return Dictionary.from_state_dict(found) if isinstance(found, Mapping) else found
