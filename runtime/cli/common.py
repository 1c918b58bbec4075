"""What the commands share: groups that import late, options and their checks, errors as one sentence."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import click
from click.shell_completion import CompletionItem

from tilewright.backends import COMPUTING, DEFAULT
from tilewright.errors import MissingDataError, NotPositiveDefiniteError, RankDied, SchedulerError, WorkerDied
from tilewright.extras import EXTRAS, brings
from tilewright.host.files import write_text
from tilewright.precision import FORMATS
from tilewright.scalars import nearby
from tilewright.schedulers import SCHEDULERS
from tilewright.schedulers import policy as find_policy

__all__ = [
    "DTYPES",
    "PRECISIONS",
    "Extents",
    "Json",
    "LazyGroup",
    "Scheduler",
    "as_json",
    "emit",
    "engine_options",
    "general_matrix",
    "input_file",
    "one_sentence",
    "order_and_file",
    "output",
    "picture",
    "Progress",
    "progress",
    "together",
    "wrote",
]

DTYPES = ("float32", "float64", "complex64", "complex128")
PRECISIONS = tuple(FORMATS)
PICTURES = (".png", ".svg", ".pdf")

F = TypeVar("F", bound=Callable[..., Any])


class _BadInput(click.ClickException):
    """Bad input."""

    exit_code = 2


@contextlib.contextmanager
def one_sentence() -> Iterator[None]:
    """Turn what the library says about bad input or a failure into a message and an exit code, with no traceback."""
    try:
        yield
    except (NotPositiveDefiniteError, RankDied, WorkerDied, SchedulerError) as error:
        raise click.ClickException(str(error)) from error  # exit code 1
    except RuntimeError as error:
        launcher = sys.modules.get("tilewright.backends.mpi.launcher")  # imported by who raised it
        if launcher is not None and isinstance(error, launcher.LaunchError):
            raise click.ClickException(str(error)) from error
        raise
    except BrokenPipeError:  # who reads has seen enough; click ends quietly
        raise
    except ModuleNotFoundError as error:
        extra = EXTRAS.get((error.name or "").partition(".")[0])
        if extra is None or not str(error).startswith("No module named"):
            raise _BadInput(str(error)) from error
        raise _BadInput(f"this needs {error.name}, which is not installed; {brings(extra)}") from error
    except (ValueError, TypeError, OverflowError, OSError, ImportError, MemoryError, MissingDataError) as error:
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

    def invoke(self, ctx: click.Context) -> Any:
        """All that is expected to go wrong is one sentence, also a full disk under standard output; Ctrl-C is 130."""
        try:
            with one_sentence():
                return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            raise click.exceptions.Exit(130) from None

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """A terminal that cannot show a letter gets its number: no result is lost over the name of a file."""
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        return super().main(*args, **kwargs)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command; for a name that there is not, the sentence says which may be meant."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            hint = nearby(args[:1], self.table)
            if not hint or "id you mean" in error.message:
                raise
            raise click.UsageError(f"{error.message} {hint[0].upper()}{hint[1:]}", error.ctx) from error

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


class Extents(click.ParamType):
    """Positive numbers with an x between them, ``2x3``: ``count`` of them, or one and more."""

    name = "extents"

    def __init__(self, count: int | None = None) -> None:
        self.count = count

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        try:
            extents = tuple(map(int, value.lower().split("x")))
        except ValueError:
            extents = ()
        if not extents or min(extents) < 1 or len(extents) != (self.count or len(extents)):
            self.fail(f"{value!r} is not like 2x3", param, ctx)
        return extents


class Scheduler(click.ParamType):
    """A name of `SCHEDULERS`, with parameters if it takes some: ``lookahead(2)``."""

    name = "name"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            find_policy(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)
        return str(value)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return [CompletionItem(name) for name in SCHEDULERS if name.startswith(incomplete)]


def together(*options: Callable[[F], F]) -> Callable[[F], F]:
    """Several options as one decorator, in this order in the help."""

    def decorate(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


def file_in(path: Path, suffixes: Sequence[str]) -> Path:
    """The path of a file to write. BadParameter unless it has one of these suffixes, and a folder."""
    if path.suffix.lower() not in suffixes:
        raise click.BadParameter(f"{str(path)!r} must end in {' or '.join(suffixes)}")
    if not path.parent.is_dir():
        raise click.BadParameter(f"there is no folder {str(path.parent)!r}")
    return path


def output(*names: str, suffixes: Sequence[str], **attributes: Any) -> Callable[[F], F]:
    """An output file; that it has one of these suffixes and a folder is checked before any work."""

    def check(ctx: click.Context, param: click.Parameter, value: Path | None) -> Path | None:
        if value is not None:
            file_in(value, suffixes)
            if ".csv" in suffixes and importlib.util.find_spec("pandas") is None:
                raise _BadInput(f"{param.opts[0]} needs pandas; {brings('frames')}")
            if suffixes == PICTURES:
                from tilewright.plot.canvas import check_matplotlib

                with one_sentence():
                    check_matplotlib(param.opts[0])
        return value

    return click.option(*names, type=click.Path(path_type=Path, dir_okay=False), callback=check, **attributes)


def picture(*names: str, help: str) -> Callable[[F], F]:
    """A file that matplotlib draws; that it is installed is checked, too."""
    return output(*names, suffixes=PICTURES, help=help)


def input_file(*names: str, help: str) -> Callable[[F], F]:
    """A file that is there."""
    return click.option(*names, type=click.Path(path_type=Path, exists=True, dir_okay=False), help=help)


def _random_or_file(ctx: click.Context, param: click.Parameter, value: Path | None) -> Path | None:
    if value is not None and ctx.params.get("n") is not None:
        raise click.UsageError("--n is the order of a random matrix; it cannot be given with --matrix")
    return value


def general_matrix(n: int | None, matrix: Path | None, dtype: str | None, seed: int, rows: int | None = None) -> Any:
    """What `order_and_file` names: the matrix of a file, or a random one of order n, or of ``rows`` x n."""
    import numpy as np

    from tilewright.linalg.gallery import load_matrix

    if matrix is not None:
        a = load_matrix(matrix)
        return a.astype(dtype or ("float64" if a.dtype.kind in "biu" else a.dtype), copy=False)
    rng = np.random.default_rng(seed)
    order = 4096 if n is None else n
    a = rng.standard_normal((order if rows is None else rows, order)).astype(dtype or "float64")
    return a + 1j * rng.standard_normal(a.shape).astype(a.real.dtype) if a.dtype.kind == "c" else a


order_and_file = together(
    click.option("--n", type=click.IntRange(min=0), is_eager=True, help="Order of a random matrix.  [default: 4096]"),
    click.option(
        "--matrix",
        type=click.Path(path_type=Path, exists=True, dir_okay=False),
        callback=_random_or_file,
        help="Take this .npy, .npz or .mtx file instead.",
    ),
)
"""``n`` and ``matrix``, of which one is None."""

engine_options = together(
    click.option("--tile-size", type=click.IntRange(min=1), help="Rows of a tile.  [default: chosen from n]"),
    click.option("--backend", type=click.Choice(COMPUTING), default=DEFAULT, show_default=True),
    click.option(
        "--scheduler",
        type=Scheduler(),
        default="critical-path",
        show_default=True,
        help="Such as eager or lookahead(2); `tilewright info` has them all.",
    ),
    click.option("--workers", type=click.IntRange(min=1), help="[default: one per core]"),
)
"""Where a factorisation runs: ``tile_size``, ``backend``, ``scheduler``, ``workers``."""

Progress = bool | Literal["page"]
"""What `progress` makes of the options."""

_PAGE = f"{__name__}.live"
_PROGRESS = click.option(
    "--progress/--no-progress",
    default=None,
    help="[default: on a terminal]",
    callback=lambda ctx, param, value: _shown(ctx, value),
)
_LIVE = click.option(
    "--live",
    is_flag=True,
    is_eager=True,  # before --progress is looked at
    expose_value=False,
    help="Serve a page on 127.0.0.1 that follows the run; its address is written to standard error.",
    callback=lambda ctx, param, value: ctx.meta.update({_PAGE: value}),
)


def _shown(ctx: click.Context, value: bool | None) -> Progress:
    if ctx.meta.get(_PAGE):
        return "page"
    return sys.stderr.isatty() if value is None else value


def progress(command: F) -> F:
    """``progress``: a bar by default on a terminal, a page with ``--live``."""
    return _PROGRESS(_LIVE(command))


Json = Path | str | None
"""What ``--json`` said: nothing, ``-`` for standard output, or a file."""


def _json_file(ctx: click.Context, param: click.Parameter, value: str | None) -> Json:
    return value if value in (None, "-") else file_in(Path(value), [".json"])


as_json = click.option(
    "--json",
    "as_json",
    is_flag=False,
    flag_value="-",
    metavar="[FILE]",
    callback=_json_file,
    help="Print one JSON object instead of tables; or write it to FILE, beside them.",
)


def emit(found: Any, as_json: Json, show: Callable[[], object]) -> None:
    """One JSON object on standard output; or what `show` shows to people, and the object into a file."""
    line = found if isinstance(found, str) else json.dumps(found)
    if as_json == "-":
        click.echo(line)
        return
    show()
    if as_json is not None:
        write_text(as_json, line + "\n")
        wrote(as_json)


def wrote(*paths: str | Path | None) -> None:
    """Say which files were written, on standard error."""
    for path in paths:
        if path is not None:
            click.echo(f"wrote {path}", err=True)
