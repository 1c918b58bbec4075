"""Where measurements of this computer are kept between processes."""

from __future__ import annotations

import os
import sys
from pathlib import Path

__all__ = ["VARIABLE", "folder"]

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


def _home() -> Path:
    """The user's home; where there is none, a place where nothing can be kept."""
    try:
        return Path.home()
    except RuntimeError:
        return Path(os.devnull)
