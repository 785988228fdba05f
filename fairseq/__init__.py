"""wav2vec 2.0, pre-trained and fine-tuned with fairseq's names, configs and checkpoints, on CPU, CUDA and Gaudi.

Every public submodule is an attribute after `import fairseq`: `fairseq.checkpoint_utils`, `fairseq.data`,
`fairseq.metrics` ...
"""

from typing import TYPE_CHECKING as _TYPE_CHECKING

from fairseq import installed as _installed
from fairseq.public_names import lookup as _lookup
from fairseq.version import __version__

_installed.warn_of_rivals()
_lookup.install()

# fill the registries, floor by floor
import fairseq.criterions  # noqa: E402
import fairseq.doctor.report.sink  # noqa: E402
import fairseq.models  # noqa: E402
import fairseq.modules  # noqa: E402
import fairseq.optim  # noqa: E402
import fairseq.optim.lr_scheduler  # noqa: E402
import fairseq.tasks  # noqa: E402, F401
from fairseq.models.wav2vec import pretrained as _pretrained  # noqa: E402


def _read_pretrained(path: str) -> tuple[object, dict[str, object]]:
    """Read a fine-tuned model's pre-trained checkpoint; here, since models cannot import from higher floors."""
    from fairseq import checkpoint_utils

    return checkpoint_utils.load_pretrained(path)


_pretrained.use_reader(_read_pretrained)

if _TYPE_CHECKING:
    from fairseq.inference.transcribe import transcribe  # at run time on first use, through `__getattr__`

__all__ = ["__version__", "transcribe"]
__getattr__ = _lookup.attribute_of(__name__)


def __dir__() -> list[str]:
    return ["__all__", "__doc__", "__file__", "__name__", "__path__", "__version__", *_lookup.public_names()]
