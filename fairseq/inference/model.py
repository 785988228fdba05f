"""A checkpoint in the form that inference runs: no dropout, no gradient, no padding seen, half precision where the
device is faster so.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from fairseq import checkpoint_utils
from fairseq import device as device_layer
from fairseq.checkpoint import io
from fairseq.conversion import foreign, vocabulary
from fairseq.conversion.portable_model import to_checkpoint
from fairseq.data.dictionary import Dictionary
from fairseq.dataclass.configs import CommonConfig
from fairseq.dataclass.utils import merge_with_parent
from fairseq.decoding.tokens import Tokens
from fairseq.device import Device
from fairseq.frames import frames_for_samples
from fairseq.inference.audio import Audio, AudioSource, open_source
from fairseq.inference.int8 import to_int8
from fairseq.models.wav2vec.feature_extractor import ConvBlock
from fairseq.models.wav2vec.positional_convolution import WeightNormConv1d
from fairseq.models.wav2vec.pretrained import symbols_of
from fairseq.models.wav2vec.wav2vec2 import Wav2Vec2Model
from fairseq.models.wav2vec.wav2vec2_asr import Wav2VecCtc
from fairseq.modules.run_mode import RunMode, configure
from fairseq.text_files import MissingFileError

logger = logging.getLogger(__name__)

PRECISIONS = ("auto", "fp32", "bf16", "int8")


class SpeechModel:
    """A wav2vec 2.0 model, fine-tuned or not, ready to read audio.

    Args:
        model: Wav2VecCtc or Wav2Vec2Model, or one of yours that is built alike; it is changed: put on the device, into
            evaluation, and made length-aware.
        task: gives `cfg.sample_rate`, `cfg.normalize` and, of a fine-tuned one, `target_dictionary`.
        cfg: the checkpoint's whole config.
        device: None chooses the CPU.
        precision: fp32, bf16, int8 (see inference/int8.py), or auto: bf16 where the device computes it faster than
            fp32.
    Raises:
        ValueError: another precision, or int8 where the device or torch has none.
    """

    def __init__(
        self, model: nn.Module, task: Any, cfg: DictConfig, device: Device | None = None, precision: str = "auto"
    ) -> None:
        if precision not in PRECISIONS:
            raise ValueError(f"the precision is {precision!r}; it may be {', '.join(PRECISIONS)}")
        self.device = device_layer.get("cpu") if device is None else device
        missing = self.device.int8_is_missing() if precision == "int8" else None
        if missing is not None:
            raise ValueError(
                f"the precision int8 cannot be had: {missing}; use "
                f"{', '.join(name for name in PRECISIONS if name != 'int8')}"
            )
        self.int8 = precision == "int8"
        self.task, self.cfg = task, cfg
        model.eval().requires_grad_(False)
        self.num_updates: int | None = None  # that the checkpoint was trained for, where it says so
        # beside the products in int8 the rest is in what auto takes
        half = precision == "bf16" or (precision in ("auto", "int8") and self.device.bf16_is_fast())
        self.dtype = torch.bfloat16 if half else None
        # by what it has, not by its class: one of the user's own may have it too
        self.ctc = cast(Wav2VecCtc, model) if hasattr(model, "w2v_encoder") else None
        self.encoder = cast(Wav2Vec2Model, model) if self.ctc is None else self.ctc.w2v_encoder.w2v_model
        # `batch` gives no mask where there is no padding; filler would only bring a mask for every block to add
        configure(model, RunMode(length_aware=True, looks_for_padding=False, pads_to_multiple=False))
        self._arrange_weights()
        model.to(self.device.torch_device)
        self.conv_layers = self.encoder.conv_layers
        self.sample_rate, self.normalize = int(task.cfg.sample_rate), bool(task.cfg.normalize)
        self.frame_multiple = self.encoder.cfg.crop_seq_to_multiple
        self.tokens = None if self.ctc is None else Tokens.from_dictionary(task.target_dictionary)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        device: str = "cpu",
        precision: str = "auto",
        overrides: dict[str, Any] | None = None,
        dictionary: str | None = None,
    ) -> SpeechModel:
        """Read a checkpoint, or a folder of transformers or torchaudio.

        Args:
            device: cpu, cuda or another kind that the device layer has.
            overrides: values for settings of its config, by name, such as {"data": folder}.
            dictionary: file of a fine-tuned one's symbols; None: those inside, else those of its data folder.
        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it cannot be read, has another number of outputs than symbols, or there is no such device.
        """
        if not os.path.exists(path):
            raise MissingFileError(f"there is no checkpoint {os.fspath(path)}")
        if os.path.isdir(path):
            state = _read_folder(os.fspath(path))
        else:
            state = checkpoint_utils.load_checkpoint_to_cpu(os.fspath(path), overrides)
        if dictionary is not None:
            _give_dictionary(state, dictionary)
        (model,), cfg, task = checkpoint_utils.load_model_ensemble_and_task([os.fspath(path)], state=state)
        common = merge_with_parent(CommonConfig(), {"cpu": device == "cpu", "device": device})
        loaded = cls(model, task, cfg, device_layer.select(common), precision)
        loaded.num_updates = (state.get("optimizer_history") or [{}])[-1].get("num_updates")
        return loaded

    def _arrange_weights(self) -> None:
        """The weights of the big products once and for all in the dtype and the order that every forward pass would
        copy them to.
        """
        if self.int8:
            to_int8(self.encoder)
        parts = [self.encoder.post_extract_proj, self.encoder.encoder.layers]
        parts += [] if self.ctc is None else [self.ctc.w2v_encoder.proj]
        linear = [m for part in parts if part is not None for m in part.modules() if isinstance(m, nn.Linear)]
        # the first convolution stays fp32: the group norm is folded into it, in fp64
        blocks = [] if self.int8 else list(self.encoder.feature_extractor.conv_layers)[1:]
        later = [cast(ConvBlock, block).conv for block in blocks]
        if self.dtype is not None:
            for module in [*linear, *later]:
                module.to(self.dtype)
        for module in self.encoder.encoder.modules():
            if isinstance(module, WeightNormConv1d):
                module.freeze_weight(self.dtype or torch.float32)
        # C' x C x K as before, with the channels side by side in memory, as products over time take them
        for conv in later:
            conv.weight.data = conv.weight.data.transpose(1, 2).contiguous().transpose(1, 2)

    def dictionary(self) -> Tokens:
        """The symbols that the model's outputs stand for.

        Raises:
            ValueError: the model is not fine-tuned.
        """
        self.fine_tuned()
        assert self.tokens is not None
        return self.tokens

    def fine_tuned(self) -> Wav2VecCtc:
        """The model with its output layer.

        Raises:
            ValueError: it is pre-trained only.
        """
        if self.ctc is None:
            raise ValueError(
                "this checkpoint is pre-trained only: it has no output layer over a dictionary. Fine-tune it first"
            )
        return self.ctc

    @property
    def precision(self) -> str:
        """What it computes in, where `auto` is decided: fp32, bf16, or int8 and one of them."""
        return f"{'int8 and ' * self.int8}{'fp32' if self.dtype is None else 'bf16'}"

    def describe(self) -> str:
        return f"{self.device.describe()}, {self.precision}"

    # -- audio ---------------------------------------------------------------------------------------------------------

    def open(self, audio: Audio | AudioSource) -> AudioSource:
        """A source of samples at the model's rate; see `open_source`."""
        if hasattr(audio, "num_samples"):
            return cast(AudioSource, audio)
        return open_source(cast(Audio, audio), self.sample_rate)

    def num_frames(self, num_samples: int) -> int:
        """Frames for so many samples, after cropping to the model's multiple."""
        frames = frames_for_samples(num_samples, self.conv_layers)
        return frames - frames % self.frame_multiple

    def batch(self, waves: Sequence[np.ndarray]) -> tuple[Tensor, Tensor | None]:
        """Waveforms side by side on the device: normalised one by one as the model was trained, padded (B x S), and
        where (B x S).
        """
        lengths = torch.tensor([len(wave) for wave in waves])
        source = torch.zeros(len(waves), int(lengths.max()))
        for row, wave in zip(source, waves, strict=True):
            piece = torch.from_numpy(np.ascontiguousarray(wave, dtype=np.float32))
            row[: len(wave)] = F.layer_norm(piece, piece.shape) if self.normalize else piece
        padding_mask = (
            None if bool((lengths == source.size(1)).all()) else torch.arange(source.size(1)) >= lengths.unsqueeze(1)
        )
        return self.device.send(source), None if padding_mask is None else self.device.send(padding_mask)

    # -- what the model says -------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def log_probs(self, waves: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Log-probabilities of the dictionary's symbols, fp32, T x V for each waveform; T is 0 where it is shorter than
        one frame sees.

        Devices that gain nothing by batches read one waveform after the other (base in bf16, 8 x 10 s, one core: 1.17 s
        a clip together, 0.93 s one by one).

        Raises:
            ValueError: the model is not fine-tuned, or a waveform is not 1-D.
        """
        if any(np.ndim(wave) != 1 for wave in waves):
            raise ValueError("log_probs takes a list of 1-D waveforms: log_probs([wave])")
        if self.device.gains_by_batches or len(waves) <= 1:
            return self._log_probs_of_batch(waves)
        return [log_probs for wave in waves for log_probs in self._log_probs_of_batch([wave])]

    def _log_probs_of_batch(self, waves: Sequence[np.ndarray]) -> list[np.ndarray]:
        tokens, ctc = self.dictionary(), self.fine_tuned()
        frames = [self.num_frames(len(wave)) for wave in waves]
        long_enough = [wave for wave, count in zip(waves, frames, strict=True) if count > 0]
        found = iter([])
        if long_enough:
            source, padding_mask = self.batch(long_enough)
            with self.device.autocast(self.dtype):
                output = ctc(source=source, padding_mask=padding_mask)
            scores = ctc.get_normalized_probs(output, log_probs=True).transpose(0, 1)
            found = iter(scores.cpu().numpy())
        empty = np.zeros((0, len(tokens.symbols)), dtype=np.float32)
        return [next(found)[:count] if count > 0 else empty for count in frames]


def _read_folder(path: str) -> dict[str, Any]:
    """The state of a folder of another tool, as `load_checkpoint_to_cpu` gives that of a checkpoint."""
    if not foreign.is_folder(path):
        raise ValueError(
            f"{path} is a folder without a config.json: give a checkpoint's file, or a folder of transformers"
        )
    state = to_checkpoint(foreign.read(path, io.read))
    return {**state, "cfg": OmegaConf.create(state["cfg"])}


def _give_dictionary(state: dict[str, Any], path: str) -> None:
    """Have a fine-tuned checkpoint's task read its symbols from a file; others have none."""
    cfg = state.get("cfg")
    if cfg is None or cfg.get("model") is None or cfg.model.get("_name") != "wav2vec_ctc":
        return
    difference = vocabulary.difference(symbols_of(state), Dictionary.load(path).symbols)
    if difference is not None:
        logger.warning(
            "--dict %s takes precedence over the dictionary inside the checkpoint, which is another one: %s",
            path,
            difference,
        )
    state["task_state"] = {}
    task = cfg.get("task") or {}
    name = task.get("_name", "audio_pretraining")
    cfg.task = {**task, "_name": "audio_finetuning" if name == "audio_pretraining" else name, "target_dictionary": path}
