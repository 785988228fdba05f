"""Where in the code something comes from: file and line of the innermost frame that is neither torch's nor this
package's.
"""

from __future__ import annotations

import os
import re
import sys
from functools import cache
from pathlib import Path
from types import FrameType

import torch

_TORCH = str(Path(torch.__file__).parent) + os.sep
_HERE = str(Path(__file__).parent) + os.sep
_TRACE_LINE = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+)')
UNKNOWN = "an unknown place"


@cache
def _is_foreign(file: str) -> bool:
    return file.startswith((_TORCH, _HERE, "<")) or f"{os.sep}contextlib.py" in file


def current() -> str:
    """`file:line` of the code that runs, or UNKNOWN."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if not _is_foreign(frame.f_code.co_filename):
            return shown(frame.f_code.co_filename, frame.f_lineno)
        frame = frame.f_back
    return UNKNOWN


def of_backward() -> str | None:
    """Within backward, where the forward pass made the node that runs; None outside, or without torch's anomaly
    mode.
    """
    node = torch._C._current_autograd_node()
    if node is None:
        return None
    found = [match for line in node.metadata.get("traceback_", []) if (match := _TRACE_LINE.search(line))]
    for match in reversed(found):
        if not _is_foreign(match["file"]):
            return f"{shown(match['file'], int(match['line']))} (backward)"
    return None


def shown(file: str, line: int) -> str:
    """A file's path from the working folder or from where the package lies, where that is shorter."""
    return f"{_short(file, os.getcwd())}:{line}"


@cache  # asked for every operator
def _short(file: str, folder: str) -> str:
    path = Path(file).resolve()
    for base in (Path(folder), Path(__file__).resolve().parents[2]):
        if path.is_relative_to(base):
            return str(path.relative_to(base))
    return str(path)
