"""``tilewright qr``: factor a matrix by reflections and say how it went."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Any

import click

from tilewright.cli.common import (
    DTYPES,
    Json,
    Progress,
    as_json,
    emit,
    engine_options,
    general_matrix,
    one_sentence,
    order_and_file,
    output,
    picture,
    progress,
    wrote,
)

__all__ = ["TREE", "parsed", "qr", "trees"]

TREE = "Tree of qr: panel, flat, flat-tt, binary, greedy, fibonacci, or hierarchical:A,LOW,HIGH[,fixed]."


def parsed(tree: str) -> Any:
    """The tree of an option: a name, or ``hierarchical:4,greedy,binary`` as a tuple; in a list with parentheses."""
    name, colon, parts = tree.removesuffix(")").replace("(", ":", 1).partition(":")
    if not colon:
        return tree
    a, *words = parts.split(",")
    return (name, int(a) if a.strip().isdigit() else a, *words)


@click.command()
@order_and_file
@click.option("--rows", type=click.IntRange(min=0), help="Rows of the random matrix.  [default: n]")
@click.option("--dtype", type=click.Choice(DTYPES), help="[default: the file's, or float64]")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the random matrix.")
@click.option("--tree", default="auto", show_default=True, help=f"auto, or {TREE[7:]}")
@click.option("--positive", is_flag=True, help="Make the diagonal of R positive.")
@click.option("--out", "outs", nargs=2, type=click.Path(path_type=Path), help="Q.npy R.npy: out of core.")
@click.option("--memory", help="With --out: a limit, such as 2GB.  [default: half of what there is]")
@click.option("--checkpoint", type=click.Path(path_type=Path), help="With --out: a folder for what is finished.")
@engine_options
@click.option("--repeat", type=click.IntRange(min=1), default=1, show_default=True, help="Runs; the median counts.")
@output("--trace", suffixes=[".json"], help="Write the trace here, for ui.perfetto.dev.")
@as_json
@progress
def qr(
    n: int | None,
    matrix: Path | None,
    rows: int | None,
    dtype: str | None,
    seed: int,
    tree: str,
    positive: bool,
    outs: tuple[Path, Path] | None,
    memory: str | None,
    checkpoint: Path | None,
    tile_size: int | None,
    backend: str,
    scheduler: str,
    workers: int | None,
    repeat: int,
    trace: Path | None,
    as_json: Json,
    progress: Progress,
) -> None:
    """Factor a matrix, A = Q R, and say how it went: LAPACK's two ratios, of the residual and of Q^H Q.

    With --out and --matrix from a file to two files, in as much memory as --memory says, and no more is said of it than
    how it ran.
    """
    import numpy as np

    import tilewright as tw
    from tilewright.linalg.residual import unit_roundoff

    if outs is None and (memory or checkpoint):
        name = "memory" if memory else "checkpoint"
        raise click.UsageError(f"--{name} is for calls from a file to files, with --out")
    if outs is not None:
        if matrix is None:
            raise click.UsageError("--out is for a matrix in a file: name it, --matrix A.npy")
        with one_sentence():
            *_, record = tw.qr(
                matrix,
                out=outs,
                memory=memory,
                checkpoint=checkpoint,
                tile_size=tile_size,
                tree=parsed(tree),
                positive=positive,
                backend=backend,
                scheduler=scheduler,
                workers=workers,
                progress=progress,
                return_run=True,
            )
            if trace:
                record.trace.to_perfetto(trace)
        wrote(trace)
        facts = {"out": [str(path) for path in outs], "tasks": len(record.graph), "seconds": record.makespan}
        emit(facts | {"memory": record.measured}, as_json, lambda: click.echo(record))
        return
    with one_sentence():
        a = general_matrix(n, matrix, dtype, seed, rows)
        how: dict[str, Any] = {"backend": backend, "scheduler": scheduler, "workers": workers}
        seconds = []
        for _ in range(repeat):
            factor = tw.qr_factor(
                a, tile_size=tile_size, tree=parsed(tree), positive=positive, progress=progress, **how
            )
            seconds.append(factor.run.makespan)
        run = factor.run
        if trace:
            run.trace.to_perfetto(trace)
        (m, k), u = a.shape, unit_roundoff(a.dtype)
        q = factor.explicit()
        norm = float(np.abs(a).sum(axis=0).max(initial=0))
        off = float(np.abs(q @ factor.R - a).sum(axis=0).max(initial=0))
        residual = off / (max(m, k, 1) * norm * u) if off else 0.0
        other = np.abs(q.conj().T @ q - np.eye(q.shape[1])).sum(axis=0).max(initial=0)
        orthogonality = float(other) / (max(m, k, 1) * u)
        result: dict[str, Any] = {
            "shape": [m, k], "dtype": str(a.dtype), "tile_size": factor.tile_size, "tree": str(factor.tree),
            "tasks": len(run.graph), "backend": run.backend, "workers": run.workers, "seconds": median(seconds),
            "gflops": run.flops / median(seconds) / 1e9 if median(seconds) else 0.0, "messages": run.messages,
            "source": str(matrix) if matrix else f"random, seed {seed}", "residual": residual,
            "orthogonality": orthogonality, "passed": bool(residual < 30 and orthogonality < 30),
        }  # fmt: skip
    emit(result, as_json, lambda: click.echo(_text(result)))
    wrote(trace)
    if not result["passed"]:
        raise click.exceptions.Exit(1)


def _text(result: dict[str, Any]) -> str:
    m, n = result["shape"]
    verdict = "passes" if result["passed"] else "does not pass"
    return "\n".join([
        f"qr        {m} x {n}, {result['dtype']}, {result['source']}",
        f"run       {result['tasks']} tasks, tree {result['tree']}, tiles of {result['tile_size']}, "
        f"{result['backend']}, {result['workers']} workers, {result['messages']} messages",
        f"time      {result['seconds']:.4g} s, {result['gflops']:.4g} GFLOP/s",
        f"ratios    {result['residual']:.2g} of Q R - A, {result['orthogonality']:.2g} of Q^H Q - I, of LAPACK's test "
        f"(< 30): {verdict}",
    ])  # fmt: skip


@click.command()
@click.option("--nt", default="1,4,16", show_default=True, help="Columns of tiles, with commas: one panel each.")
@click.option("--mt", type=click.IntRange(1), help="Draw who eliminates which tile of mt x nt, one nt, along --tree.")
@click.option("--tree", default="greedy", show_default=True, help=TREE)
@picture("--plot", help="Draw critical paths here.")
def trees(nt: str, mt: int | None, tree: str, plot: Path | None) -> None:
    """Critical paths of QR by tree, over rows of tiles: a table, or a picture."""
    from tilewright.linalg.qr_graph import qr_graph
    from tilewright.linalg.trees import TREES, eliminations, normal
    from tilewright.linalg.trees import picture as eliminated

    with one_sentence():
        columns = [int(word) for word in nt.split(",")]
        if mt is not None:
            click.echo(eliminated(eliminations(normal(parsed(tree)), mt, columns[0], 1), mt, columns[0]))
            return
        if plot:
            from tilewright.plot.trees import figure

            figure(plot, columns)
            wrote(plot)
            return
        for q in columns:
            click.echo(f"{'p x q':>8} " + " ".join(f"{name:>10}" for name in TREES))
            for p in (p for p in (1, 2, 4, 8, 16, 32, 40) if p >= q):
                lengths = (qr_graph(p, q, name).critical_path().length for name in TREES)
                click.echo(f"{p:>4} x {q:<2}" + " ".join(f"{length:>10g}" for length in lengths))
