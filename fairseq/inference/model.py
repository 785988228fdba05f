"""A checkpoint prepared for inference: no dropout or gradients, padding ignored, bf16 where the device is faster."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import Any, Protocol, cast

import numpy as np
import torch
import torch.nn.functional as F
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from fairseq import checkpoint_utils
from fairseq import device as device_layer
from fairseq.checkpoint import fetching, hub, io, kinds
from fairseq.conversion import adapters, foreign, vocabulary
from fairseq.conversion.portable_model import encoder_in, to_checkpoint
from fairseq.data.dictionary import Dictionary
from fairseq.dataclass.configs import CommonConfig
from fairseq.dataclass.utils import merge_with_parent
from fairseq.decoding.tokens import Tokens
from fairseq.device import Device
from fairseq.frames import frames_for_samples
from fairseq.inference.audio import Audio, AudioSource, open_source
from fairseq.inference.int8 import to_int8
from fairseq.models import kinds as model_kinds
from fairseq.models.wav2vec.audio_model import AudioModel
from fairseq.models.wav2vec.classification import Wav2VecClassification
from fairseq.models.wav2vec.feature_extractor import ConvBlock
from fairseq.models.wav2vec.positional_convolution import WeightNormConv1d
from fairseq.models.wav2vec.pretrained import symbols_of
from fairseq.models.wav2vec.wav2vec2_asr import Wav2VecCtc, Wav2VecEncoder
from fairseq.modules.lora import merge_lora
from fairseq.modules.run_mode import RunMode, configure
from fairseq.text_files import MissingFileError

logger = logging.getLogger(__name__)


class FineTuned(Protocol):
    """A model with a pre-trained encoder inside, as fairseq names it."""

    w2v_encoder: Wav2VecEncoder


PRECISIONS = ("auto", "fp32", "bf16", "int8")


class SpeechModel:
    """An audio model (wav2vec 2.0, HuBERT, data2vec ...), pre-trained or fine-tuned, ready for inference.

    Args:
        model: Wav2VecCtc, an AudioModel, or your own model with the same attributes. It is modified: moved to the
            device, put in eval mode, and made length-aware.
        task: provides `cfg.sample_rate`, `cfg.normalize` and, for a fine-tuned model, `target_dictionary`.
        cfg: the checkpoint's full config.
        device: None means the CPU.
        precision: fp32, bf16, int8 (see inference/int8.py), or auto: bf16 if it is faster than fp32 on the device.
    Raises:
        ValueError: an unknown precision, or int8 without support in the device or in torch.
    """

    def __init__(
        self, model: nn.Module, task: Any, cfg: DictConfig, device: Device | None = None, precision: str = "auto"
    ) -> None:
        if precision not in PRECISIONS:
            raise ValueError(f"the precision is {precision!r}; it must be one of: {', '.join(PRECISIONS)}")
        self.device = device_layer.get("cpu") if device is None else device
        missing = self.device.int8_is_missing() if precision == "int8" else None
        if missing is not None:
            raise ValueError(
                f"the precision int8 is not available: {missing}; use one of: "
                f"{', '.join(name for name in PRECISIONS if name != 'int8')}"
            )
        self.int8 = precision == "int8"
        self.task, self.cfg = task, cfg
        model.eval().requires_grad_(False)
        merge_lora(model)
        self.num_updates: int | None = None  # updates the checkpoint was trained for; None if unknown
        # with int8 products, everything else has the precision of auto
        half = precision == "bf16" or (precision in ("auto", "int8") and self.device.bf16_is_fast())
        self.dtype = torch.bfloat16 if half else None
        # tested by attribute, not by class, so that a user's own model works too
        self.tuned = cast(FineTuned, model) if hasattr(model, "w2v_encoder") else None
        self.pooled = cast(Wav2VecClassification, model) if hasattr(model, "pooling_layer") else None
        self.ctc = None if self.tuned is None or self.pooled is not None else cast(Wav2VecCtc, model)
        self.encoder = cast(AudioModel, model) if self.tuned is None else self.tuned.w2v_encoder.w2v_model
        # `batch` gives no mask without padding; padding to a multiple would add a mask to every block
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
        adapter: str | None = None,
    ) -> SpeechModel:
        """Read a checkpoint, a folder written by transformers or fairseq-convert, or a model of the Hugging Face hub.

        Args:
            device: cpu, cuda or another device type of the device layer.
            overrides: config values by name, such as {"data": folder}.
            dictionary: dictionary file of a fine-tuned model; None: the one in the checkpoint, else in its data folder.
            adapter: a language inside the checkpoint or of a file beside it, or a file of `fairseq-convert --to
                adapter` or transformers: use its parameters and output layer. See `conversion.adapters.opened`.
        Raises:
            FileNotFoundError: the file or the language does not exist.
            ValueError: the checkpoint cannot be read, its outputs do not match its symbols, or there is no such device.
        """
        if not kinds.exists(path):
            raise MissingFileError(f"the checkpoint {os.fspath(path)} does not exist: {kinds.missing(path)}")
        if adapter is None:
            state = _read(os.fspath(path), overrides)
        else:
            state = _read_with(os.fspath(path), adapter, overrides)
        if dictionary is not None:
            _give_dictionary(state, dictionary)
        (model,), cfg, task = checkpoint_utils.load_model_ensemble_and_task([os.fspath(path)], state=state)
        common = merge_with_parent(CommonConfig(), {"cpu": device == "cpu", "device": device})
        loaded = cls(model, task, cfg, device_layer.select(common), precision)
        loaded.num_updates = (state.get("optimizer_history") or [{}])[-1].get("num_updates")
        return loaded

    def _arrange_weights(self) -> None:
        """Store the large weights once in the dtype and layout that each forward pass would convert them to."""
        if self.int8:
            to_int8(self.encoder)
        parts = [self.encoder.post_extract_proj, self.encoder.encoder.layers]
        parts += [] if self.tuned is None else [self.tuned.w2v_encoder.proj]
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
        # the shape stays C' x C x K; channels become contiguous in memory, as products over time read them
        for conv in later:
            conv.weight.data = conv.weight.data.transpose(1, 2).contiguous().transpose(1, 2)

    def dictionary(self) -> Tokens:
        """Return the symbols of the model's outputs.

        Raises:
            ValueError: the model is not fine-tuned.
        """
        self.fine_tuned()
        assert self.tokens is not None
        return self.tokens

    def fine_tuned(self) -> Wav2VecCtc:
        """Return the model with its output layer.

        Raises:
            ValueError: the model is not fine-tuned.
        """
        if self.pooled is not None:
            raise ValueError(
                "this checkpoint classifies whole utterances, so it has no transcripts. Use fairseq-infer, which "
                "writes its scores"
            )
        if self.ctc is None:
            raise ValueError(
                "this checkpoint is pre-trained only: it has no output layer over a dictionary. Fine-tune it first"
            )
        return self.ctc

    def classifier(self) -> Wav2VecClassification:
        """Return the model with its classifier.

        Raises:
            ValueError: the model does not classify.
        """
        if self.pooled is None:
            raise ValueError("this checkpoint has no classifier. Fine-tune it with task audio_classification first")
        return self.pooled

    @property
    def precision(self) -> str:
        """The precision in use, with `auto` resolved: fp32, bf16, int8 and fp32, or int8 and bf16."""
        rest = "fp32" if self.dtype is None else "bf16"
        return f"int8 and {rest}" if self.int8 else rest

    def describe(self) -> str:
        return f"{self.device.describe()}, {self.precision}"

    # -- audio ---------------------------------------------------------------------------------------------------------

    def open(self, audio: Audio | AudioSource) -> AudioSource:
        """Open audio at the model's sample rate; see `open_source`."""
        if hasattr(audio, "num_samples"):
            return cast(AudioSource, audio)
        return open_source(cast(Audio, audio), self.sample_rate)

    def num_frames(self, num_samples: int) -> int:
        """Return the number of frames for `num_samples`, after cropping to the model's multiple."""
        frames = frames_for_samples(num_samples, self.conv_layers)
        return frames - frames % self.frame_multiple

    def batch(self, waves: Sequence[np.ndarray]) -> tuple[Tensor, Tensor | None]:
        """Send waveforms to the device as one batch, each normalised if the model expects it.

        Returns:
            The padded waveforms, B x S, and the padding mask, B x S, or None if no row is padded.
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

    # -- outputs of the model ------------------------------------------------------------------------------------------

    def log_probs(self, waves: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Compute log-probabilities of the dictionary's symbols for each waveform.

        Devices that do not benefit from batches run one waveform at a time (base in bf16, 8 x 10 s, one core: 1.17 s
        per clip batched, 0.93 s one by one).

        Returns:
            T x V fp32 per waveform; T is 0 if the waveform is shorter than one frame's receptive field.

        Raises:
            ValueError: the model is not fine-tuned, or a waveform is not 1-D.
        """
        self.fine_tuned()
        return self.outputs(waves)

    @torch.inference_mode()
    def outputs(self, waves: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Compute a fine-tuned model's outputs per frame: see `log_probs`; a classifier's are the frames that it pools.

        Returns:
            T x V or T x C, fp32, per waveform.
        Raises:
            ValueError: the model is not fine-tuned, or a waveform is not 1-D.
        """
        if self.pooled is None:
            self.fine_tuned()
        if any(np.ndim(wave) != 1 for wave in waves):
            raise ValueError("each waveform must be 1-D: call log_probs([wave]) with a list, even for one waveform")
        if self.device.gains_by_batches or len(waves) <= 1:
            return self._of_batch(waves)
        return [outputs for wave in waves for outputs in self._of_batch([wave])]

    def _of_batch(self, waves: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Run a fine-tuned model: log-probabilities of its symbols, or the frames of a classifier."""
        frames = [self.num_frames(len(wave)) for wave in waves]
        long_enough = [wave for wave, count in zip(waves, frames, strict=True) if count > 0]
        found = iter([])
        if long_enough:
            source, padding_mask = self.batch(long_enough)
            assert self.tuned is not None, "callers have checked it"
            run = self.tuned.w2v_encoder if self.ctc is None else self.ctc
            with self.device.autocast(self.dtype):
                output = run(source=source, padding_mask=padding_mask)
            if self.ctc is None:
                outputs = output["encoder_out"].float()
            else:
                outputs = self.ctc.get_normalized_probs(output, log_probs=True)
            found = iter(outputs.transpose(0, 1).cpu().numpy())
        empty = np.zeros((0, self.encoder.cfg.encoder_embed_dim), dtype=np.float32)
        if self.tokens is not None:
            empty = np.zeros((0, len(self.tokens.symbols)), dtype=np.float32)
        return [next(found)[:count] if count > 0 else empty for count in frames]


def _is_folder(path: str) -> bool:
    """Whether a path is another tool's folder.

    Raises:
        ValueError: it is a folder of something else.
    """
    if not os.path.isdir(path) or kinds.is_checkpoint(path):
        return False
    if not foreign.is_folder(path):
        raise ValueError(
            f"{path} is a folder without a config.json: give a checkpoint file, or a folder written by transformers"
        )
    return True


def _read(path: str, overrides: dict[str, Any] | None) -> dict[str, Any]:
    """Read a checkpoint, or another tool's folder in the form of `load_checkpoint_to_cpu`."""
    here = fetching.local(path)
    if _is_folder(here):
        state = to_checkpoint(foreign.read(here, io.read))
        return {**state, "cfg": OmegaConf.create(state["cfg"])}
    state = checkpoint_utils.load_checkpoint_to_cpu(path, overrides)
    languages = adapters.languages_in(state)
    if languages:
        logger.info("%s has adapters of %d languages. Choose one with --adapter LANGUAGE", path, len(languages))
    return state


def _read_with(path: str, adapter: str, overrides: dict[str, Any] | None) -> dict[str, Any]:
    """Read a model, and give its encoder an adapter and the output layer of that."""
    here = hub.with_adapter(path, adapter) if hub.is_id(path) else fetching.local(path)
    state: dict[str, Any] = {}
    if _is_folder(here):
        encoder = foreign.read(here, io.read, with_head=False)
    else:
        state = checkpoint_utils.load_checkpoint_to_cpu(path, overrides)
        encoder = encoder_in(state, path)
    found = adapters.opened(adapter, here, state, io.read)
    adapted = to_checkpoint(adapters.apply(encoder, found))
    logger.info("adapter: %s", found.source)
    return {**adapted, "cfg": OmegaConf.create(adapted["cfg"]), "optimizer_history": state.get("optimizer_history")}


def _give_dictionary(state: dict[str, Any], path: str) -> None:
    """Make a fine-tuned checkpoint's task read its symbols from a file; a pre-trained one has no symbols."""
    cfg = state.get("cfg")
    if cfg is None or cfg.get("model") is None or not model_kinds.transcribes(cfg.model.get("_name")):
        return
    difference = vocabulary.difference(symbols_of(state), Dictionary.load(path).symbols)
    if difference is not None:
        logger.warning(
            "--dict %s takes precedence over the dictionary in the checkpoint, which differs: %s",
            path,
            difference,
        )
    state["task_state"] = {}
    task = cfg.get("task") or {}
    name = task.get("_name", "audio_pretraining")
    cfg.task = {**task, "_name": "audio_finetuning" if name == "audio_pretraining" else name, "target_dictionary": path}
