"""Convert models between fairseq, transformers (Hugging Face) and torchaudio, and to ONNX: `fairseq-convert MODEL
OUTPUT --to FORMAT`.
"""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fairseq.checkpoint import io
from fairseq.conversion import folders, huggingface, onnx_model, speech_model, torchaudio_model, vocabulary
from fairseq.conversion.speech_model import SpeechModel
from fairseq.data.dictionary import Dictionary
from fairseq.models.wav2vec.pretrained import symbols_of
from fairseq.text_files import MissingFileError

logger = logging.getLogger("fairseq_cli.convert")

Compared = tuple[list[Tensor], list[Tensor]]  # outputs of our model, and of the other tool's
TOLERANCE = 1e-3  # of the largest output: more than rounding of any size of model, less than any mistake
WAVEFORM_SECONDS = 2.0


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fairseq-convert", description=__doc__)
    parser.add_argument("model", help="a checkpoint, a folder of transformers, or one that --to torchaudio wrote")
    parser.add_argument(
        "output", help="what to write: a file for fairseq and onnx, else a folder; it must not be there yet"
    )
    parser.add_argument(
        "--to", required=True, choices=list(WRITERS), help="hf: a folder of transformers; onnx: of fine-tuned models"
    )
    parser.add_argument(
        "--dict", help="dictionary of a fine-tuned checkpoint that has none inside, such as dict.ltr.txt"
    )
    return parser


class Loaded(NamedTuple):
    """A model, and what its own tool's model gives; None for fairseq, whose model is ours."""

    model: SpeechModel
    theirs: Callable[[Tensor], list[Tensor]] | None


def load(path: str, dictionary: str | None = None) -> Loaded:
    """Read a model of any format.

    Raises:
        ValueError: it is none, it is damaged, or it has no counterpart here.
    """
    if folders.is_folder(path):
        if dictionary is not None:
            logger.warning(
                f"--dict {dictionary} has no effect: {path} is a folder, whose tokenizer or labels say what the "
                "outputs mean"
            )
        model = folders.read(path, io.read)
        if torchaudio_model.is_folder(path):
            return Loaded(model, lambda waveform: torchaudio_model.outputs(path, waveform, io.read))
        return Loaded(model, lambda waveform: huggingface.outputs(path, waveform, huggingface.head_of(model)))
    if not os.path.exists(path):
        raise MissingFileError(f"there is no checkpoint or folder {path}")
    if not os.path.isfile(path):
        raise ValueError(f"{path} is neither a checkpoint nor a folder with a config.json")
    state = io.load(path)
    if dictionary is not None:
        given = Dictionary.load(dictionary)
        difference = vocabulary.difference(symbols_of(state), given.symbols)
        if difference is not None:
            logger.warning(
                f"--dict {dictionary} takes precedence over the dictionary inside {path}, which is another one: "
                f"{difference}"
            )
        state["task_state"] = {"target_symbols": given.state_dict()}
    return Loaded(speech_model.from_checkpoint(state, path), None)


def waveform(sample_rate: int) -> Tensor:
    """Audio to compare on, 1 x S: tones that come and go in noise, of zero mean and unit variance."""
    generator = torch.Generator().manual_seed(0)
    time = torch.arange(int(WAVEFORM_SECONDS * sample_rate)) / sample_rate
    tones = [
        torch.sin(2 * torch.pi * hertz * time) * (torch.sin(2 * torch.pi * rate * time) > 0)
        for hertz, rate in ((220, 3), (700, 1.3))
    ]
    audio = sum(tones) + 0.3 * torch.randn(len(time), generator=generator)
    return ((audio - audio.mean()) / audio.std()).unsqueeze(0)


def compare(ours: list[Tensor], theirs: list[Tensor]) -> float:
    """The largest difference of two models' outputs.

    Raises:
        ValueError: it is no rounding, or the shapes differ.
    """
    largest = 0.0
    for one, other in zip(ours, theirs, strict=True):
        if one.shape != other.shape:
            raise ValueError(
                f"the outputs have the shapes {tuple(one.shape)} and {tuple(other.shape)}: nothing is written"
            )
        difference = (one - other).abs().max().item()
        if not difference <= TOLERANCE * max(1.0, one.abs().max().item()):
            raise ValueError(f"the outputs differ by {difference:.3g}: nothing is written")
        largest = max(largest, difference)
    return largest


def convert(path: str, output: str, to: str, dictionary: str | None = None) -> float:
    """Write `path` in another format; returns the largest difference of the two models' outputs on a waveform.

    The output appears under its name when it is whole and compared, or not at all.

    Raises:
        ValueError: as `load`; the output is there already; the model has no counterpart there; or the outputs differ.
    """
    if os.path.lexists(output):
        raise ValueError(f"{output} is there already: give another name, or remove it")
    loaded = load(path, dictionary)
    audio = waveform(loaded.model.task["sample_rate"])
    temporary = f"{output.rstrip(os.sep)}.unfinished.{os.getpid()}"
    try:
        ours, theirs = WRITERS[to](loaded, temporary, audio)
        largest = compare(ours, theirs)
        os.rename(temporary, output)
    finally:
        if os.path.isdir(temporary):
            shutil.rmtree(temporary)
        elif os.path.exists(temporary):
            os.remove(temporary)
    return largest


def _outputs(model: SpeechModel, audio: Tensor, encoder_only: bool = False) -> list[Tensor]:
    return speech_model.outputs(speech_model.build(model), audio, encoder_only)


def _write_fairseq(loaded: Loaded, path: str, audio: Tensor) -> Compared:
    io.save(speech_model.to_checkpoint(loaded.model), path)
    ours = _outputs(speech_model.from_checkpoint(io.load(path), path), audio, loaded.model.has_new_parts)
    theirs = _outputs(loaded.model, audio) if loaded.theirs is None else loaded.theirs(audio)
    rows = loaded.model.their_rows
    if rows is not None:  # compare what both have
        here = [place for place, row in enumerate(rows) if row is not None]
        ours, theirs = [ours[0][..., here]], [theirs[0][..., [rows[place] for place in here]]]
    return ours, theirs


def _write_huggingface(loaded: Loaded, path: str, audio: Tensor) -> Compared:
    os.makedirs(path)
    huggingface.write(loaded.model, path)
    head = "ForCTC" if loaded.model.is_fine_tuned else "ForPreTraining"
    return _outputs(loaded.model, audio), huggingface.outputs(path, audio, head)


def _write_torchaudio(loaded: Loaded, path: str, audio: Tensor) -> Compared:
    os.makedirs(path)
    torchaudio_model.write(loaded.model, path)
    return _outputs(loaded.model, audio, encoder_only=True), torchaudio_model.outputs(path, audio, io.read)


def _write_onnx(loaded: Loaded, path: str, audio: Tensor) -> Compared:
    onnx_model.write(loaded.model, path)
    # another length and number than the graph was traced with
    several = [audio, audio[:, : audio.size(1) // 3].repeat(3, 1)]
    model = speech_model.build(loaded.model)
    return [speech_model.outputs(model, source)[0] for source in several], onnx_model.outputs(path, several)


WRITERS: dict[str, Callable[[Loaded, str, Tensor], Compared]] = {
    "fairseq": _write_fairseq,
    "hf": _write_huggingface,
    "torchaudio": _write_torchaudio,
    "onnx": _write_onnx,
}


def cli_main(argv: Sequence[str] | None = None) -> int:
    level = os.environ.get("LOGLEVEL", "INFO").upper()
    logging.basicConfig(format="%(levelname)s | %(message)s", level=level, stream=sys.stderr, force=True)
    args = get_parser().parse_args(argv)
    try:
        largest = convert(args.model, args.output, args.to, args.dict)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(
        f"wrote {args.output}; largest difference of the two models' outputs on {WAVEFORM_SECONDS:g} s of audio: "
        f"{largest:.3g}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(cli_main())
