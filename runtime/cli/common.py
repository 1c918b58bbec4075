"""What the commands share: groups that import late, checks of options, errors as one sentence."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from tilewright.errors import NotPositiveDefiniteError

__all__ = ["DTYPES", "File", "LazyGroup", "one_sentence", "writable"]

DTYPES = ("float32", "float64", "complex64", "complex128")

File = click.Path(path_type=Path, dir_okay=False)
"""An output file."""


class _BadInput(click.ClickException):
    """Bad input."""

    exit_code = 2


@contextlib.contextmanager
def one_sentence() -> Iterator[None]:
    """Turn what the library says about bad input into a message and an exit code, with no traceback."""
    try:
        yield
    except NotPositiveDefiniteError as error:
        raise click.ClickException(str(error)) from error  # exit code 1
    except (ValueError, TypeError, OSError, ImportError, MemoryError) as error:
        raise _BadInput(str(error)) from error


class LazyGroup(click.Group):
    """Subcommands that are imported when they are used; their names and summaries need no import.

    `table` maps a command to (module, summary); the command is the module's attribute `attribute` or, where that is
    empty, the one with the command's own name.
    """

    def __init__(self, *args: Any, table: Mapping[str, tuple[str, str]], attribute: str = "", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.table = table
        self.attribute = attribute

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(self.table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.table:
            return None
        with one_sentence():
            module = importlib.import_module(self.table[cmd_name][0])
        command: click.Command = getattr(module, self.attribute or cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, self.table[name][1]) for name in self.list_commands(ctx)])


def writable(*suffixes: str) -> Callable[[click.Context, click.Parameter, Path | None], Path | None]:
    """A check, before any work, that an output file has a known suffix and a folder."""

    def check(ctx: click.Context, param: click.Parameter, value: Path | None) -> Path | None:
        if value is not None:
            if value.suffix.lower() not in suffixes:
                raise click.BadParameter(f"{str(value)!r} must end in {' or '.join(suffixes)}")
            if not value.parent.is_dir():
                raise click.BadParameter(f"there is no folder {str(value.parent)!r}")
        return value

    return check
