"""Options that the commands of the benchmarks share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

__all__ = ["as_json", "output", "plot", "repeat"]

F = TypeVar("F", bound=Callable[..., Any])

_FILE = click.Path(dir_okay=False, path_type=Path)

output = click.option("--output", type=_FILE, help="Append JSON lines to this file.")
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON lines instead of tables.")


def repeat(default: int) -> Callable[[F], F]:
    return click.option("--repeat", default=default, show_default=True, help="Rounds to take the median of.")


def plot(help: str, flag: str = "--plot") -> Callable[[F], F]:
    return click.option(flag, type=_FILE, help=help)
