"""Models of the Hugging Face hub, such as facebook/wav2vec2-base: from this machine's cache, else downloaded."""

from __future__ import annotations

import importlib.util
import logging
import os
import re
from collections.abc import Sequence

from fairseq.conversion import hf_folder
from fairseq.installed import advice
from fairseq.text_files import MissingFileError

logger = logging.getLogger(__name__)

_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_FILES = (".pt", ".pth", ".bin", ".ckpt", ".safetensors", ".onnx", ".json", ".txt", ".sharded")
_SETTINGS = ["*.json"]
# the first that the repository has
_WEIGHTS = (["model*.safetensors"], ["pytorch_model*.bin"])


def is_id(path: str) -> bool:
    """Whether this can be the id of a model: owner/name, neither of which is here, and which no file is called."""
    if not _ID.fullmatch(path) or path.endswith(_FILES):
        return False
    return not os.path.lexists(path) and not os.path.isdir(path.partition("/")[0])


def folder(model_id: str, also: Sequence[str] = ()) -> str:
    """Return the folder with a model's config, weights and tokenizer.

    A model in the cache is used as it is, without a look at the hub. HF_HUB_OFFLINE=1 prevents downloads; HF_HOME and
    HF_HUB_CACHE move the cache.

    Args:
        model_id: owner/name.
        also: names of more files to have, such as a language's adapters; one of them is enough.
    Raises:
        MissingFileError: it is not in the cache and cannot be downloaded, or huggingface_hub is not installed.
    """
    if importlib.util.find_spec("huggingface_hub") is None:
        raise MissingFileError(
            f"{model_id} is not a file or folder here. If it is a model of the Hugging Face hub: {advice('convert')}"
        )
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        here = snapshot_download(model_id, local_files_only=True)
        if _is_complete(here, also):
            return here
    except (HfHubHTTPError, LocalEntryNotFoundError, ValueError, OSError):
        pass  # not in the cache, or no valid id
    if constants.HF_HUB_OFFLINE:
        raise MissingFileError(
            f"{model_id} is not a file or folder here, and not a complete model in the cache of the Hugging Face hub "
            f"({constants.HF_HUB_CACHE}). HF_HUB_OFFLINE is set, so it was not downloaded."
        )
    logger.info(f"downloading {model_id} from the Hugging Face hub to {constants.HF_HUB_CACHE}")
    found = ""
    try:
        for weights in _WEIGHTS:
            found = snapshot_download(model_id, allow_patterns=[*_SETTINGS, *weights, *also], etag_timeout=10)
            if _is_complete(found, also):
                break
    # of the client: unknown or private models, an id that cannot be one, no network
    except (HfHubHTTPError, LocalEntryNotFoundError, ValueError, OSError) as error:
        raise MissingFileError(
            f"{model_id} is not a file or folder here, and could not be downloaded from the Hugging Face hub "
            f"({str(error).strip().splitlines()[0]})."
        ) from error
    return found


def with_adapter(model_id: str, adapter: str | None) -> str:
    """Return the folder of a model, with the adapters of a language if it is not None or the name of a file here.

    Raises:
        MissingFileError: as `folder`.
    """
    is_language = adapter is not None and not os.path.isfile(adapter)
    return folder(model_id, hf_folder.adapter_files(str(adapter)) if is_language else ())


def _is_complete(here: str, also: Sequence[str]) -> bool:
    """Whether a folder has a config, weights, and one of the other files if some are asked for."""
    names = os.listdir(here)
    has_weights = any(re.match(r"(model.*\.safetensors|pytorch_model.*\.bin)$", name) for name in names)
    return "config.json" in names and has_weights and (not also or any(name in names for name in also))
