"""wav2vec 2.0, pre-trained and fine-tuned with fairseq's names, configs and checkpoints, on CPU and CUDA."""

from pathlib import Path

from fairseq.installed import warn_of_rivals

__version__ = (Path(__file__).parent / "version.txt").read_text(encoding="utf-8").strip()

warn_of_rivals()

# Filling the registries, floor by floor
import fairseq.criterions  # noqa: E402
import fairseq.models  # noqa: E402
import fairseq.modules  # noqa: E402
import fairseq.optim  # noqa: E402
import fairseq.optim.lr_scheduler  # noqa: E402
import fairseq.tasks  # noqa: E402, F401
from fairseq.models.wav2vec import pretrained  # noqa: E402


def _read_pretrained(path: str) -> tuple[object, dict[str, object]]:
    """What fine-tuned models open their pre-trained checkpoint with; here, since models may not import from higher floors."""
    from fairseq import checkpoint_utils

    return checkpoint_utils.load_pretrained(path)


pretrained.use_reader(_read_pretrained)


def __getattr__(name: str) -> object:
    """`fairseq.transcribe`, imported when it is asked for."""
    if name == "transcribe":
        from fairseq.inference.transcribe import transcribe

        return transcribe
    raise AttributeError(f"module 'fairseq' has no attribute {name!r}")


__all__ = ["__version__", "transcribe"]
