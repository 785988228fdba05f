"""Places: strings that say where audio lies, as a path or a URL, with or without a byte range."""

from __future__ import annotations

import os
import re

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def is_url(text: str) -> bool:
    """Return whether text begins like a URL, such as s3://bucket/key."""
    return _URL.match(text) is not None


def joined(root: str, name: str) -> str:
    """Return the place of a name in a manifest: relative to the root, unless it is an absolute path or a URL."""
    if is_url(name):
        return name
    if is_url(root) and not os.path.isabs(name):
        return f"{root.rstrip('/')}/{name}"
    return os.path.join(root, name)
