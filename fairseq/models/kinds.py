"""What kinds of audio models there are, by `model._name`: read from the registry of models.

Opening, fine-tuning, converting and describing a model ask here instead of comparing names, so a new model is its own
package: a subclass of `AudioModel` with its config, or of `Wav2VecCtc` for one with an output layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fairseq.models import MODEL_REGISTRY
from fairseq.models.fairseq_model import Outputs
from fairseq.models.wav2vec.audio_model import AudioModel


def encoders() -> dict[str, type[AudioModel]]:
    """The models that encode raw audio: `model._name` -> class, with its `config_class` and `pretraining_only`."""
    return {name: cls for name, cls in MODEL_REGISTRY.items() if issubclass(cls, AudioModel)}


def encoder(name: str | None) -> type[AudioModel] | None:
    """The class of such a model; None if the name is of another kind. fairseq: files without a name are wav2vec 2.0."""
    return encoders().get("wav2vec2" if name is None else name)


def outputs(name: str | None) -> Outputs | None:
    """What trains the output layer of a model of this name; None: it has none, or there is no such model."""
    cls = None if name is None else MODEL_REGISTRY.get(name)
    return None if cls is None else cls.outputs


def fine_tuned(name: str | None) -> bool:
    """Whether a model of this name is an encoder with an output layer, such as wav2vec_ctc."""
    return outputs(name) is not None


def transcribes(name: str | None) -> bool:
    """Whether that layer is over a dictionary's symbols."""
    found = outputs(name)
    return found is not None and found.criterion == "ctc"


def task(name: str | None) -> str:
    """The task that opens a checkpoint of a model of this name, if it does not name one that is known here."""
    output, pretrained = outputs(name), encoder(name)
    if output is not None:
        return output.task
    return "audio_pretraining" if pretrained is None else pretrained.pretraining_task


def names(with_fine_tuned: bool = False) -> str:
    """The names for a message: "wav2vec2, hubert ..."."""
    found = [*encoders(), *(name for name in MODEL_REGISTRY if with_fine_tuned and fine_tuned(name))]
    return ", ".join(sorted(found))


def encoder_of(pretraining: Mapping[str, Any]) -> type[AudioModel]:
    """The class of the encoder that a pre-training config describes in its group `model`.

    Raises:
        ValueError: it describes another kind of model.
    """
    model = pretraining.get("model")
    name = None if model is None else model.get("_name")
    cls = None if model is None else encoder(name)
    if cls is None:
        raise ValueError(f"model.w2v_args describes a model of kind {name!r}. It must be one of: {names()}.")
    return cls
