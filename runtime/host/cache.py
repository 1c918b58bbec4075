"""Where measurements of this computer are kept between processes."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from tilewright.host.files import write_text

__all__ = ["VARIABLE", "file", "folder", "read", "write"]

Content = TypeVar("Content")

VARIABLE = "TILEWRIGHT_CACHE"
"""Environment variable that names another folder."""


def folder() -> Path:
    """The folder for tilewright in the user's cache; it need not exist. Follows the customs of the system."""
    chosen = os.environ.get(VARIABLE)
    if chosen:
        return Path(chosen)
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or _home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = _home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or _home() / ".cache")
    return base / "tilewright"


def file(kind: str, *facts: Any) -> Path:
    """The file of a kind for a computer of which this is known; it need not exist."""
    digest = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
    return folder() / f"{kind}-{digest}.json"


def read(kind: str, what: str, path: Callable[[], Path], content: Callable[[Any], Content]) -> Content | None:
    """What ``content`` makes of the document in a file of that kind; None if there is none.

    Where no file of the kind is, the usual case, ``path`` is not asked: it may have to load libraries.

    Warns
    -----
    RuntimeWarning
        There is a file that cannot be used; ``what`` is said not to be.
    """
    try:
        if not any(folder().glob(f"{kind}-*.json")) or not (found := path()).is_file():
            return None
        return content(json.loads(found.read_text(encoding="utf-8")))
    except (OSError, RuntimeError, ValueError, TypeError, KeyError, AttributeError) as error:
        warnings.warn(f"{what} not used: {error}", RuntimeWarning, stacklevel=3)
        return None


def write(path: Path, document: Any) -> None:
    """Keep a document for `read`. OSError if the file cannot be written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(document, indent=1, sort_keys=True) + "\n")


def _home() -> Path:
    """The user's home; where there is none, a place where nothing can be kept."""
    try:
        return Path.home()
    except RuntimeError:
        return Path(os.devnull)
