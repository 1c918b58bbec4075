"""What the command line takes is what the library takes."""

import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

import tilewright as tw
from tilewright import cli
from tilewright.backends import COMPUTING
from tilewright.cli.common import Scheduler
from tilewright.comm import closure, grid, neighbours, partition
from tilewright.comm.domains import CUTS
from tilewright.kernels.products import ROUTES
from tilewright.linalg import ladder
from tilewright.linalg.gallery import SPECTRA
from tilewright.linalg.refinement import METHODS
from tilewright.training.closed_form_head import HEADS
from tilewright.training.fallback import LADDER
from tilewright.training.learning_rates import SCHEDULES
from tilewright.training.optimizers import OPTIMIZERS
from tilewright.training.pipeline import PIPELINES

PRECISIONS = ("fp32", "tf32", "bf16", "fp16", "adaptive")

LIBRARY = {
    ("cholesky", "precision"): tw.FORMATS, ("cholesky", "route"): ROUTES, ("cholesky", "backend"): COMPUTING,
    ("solve", "precision"): ("auto", *ladder.ROUNDOFF), ("solve", "refine"): ("auto", *METHODS),
    ("solve", "spectrum"): SPECTRA, ("solve", "backend"): COMPUTING,
    ("compare", "backend"): tuple(name for name in tw.BACKENDS if name != "serial"),
    ("matvec", "layout"): grid.LAYOUTS, ("matvec", "backend"): COMPUTING, ("scaling", "layouts"): (*grid.LAYOUTS, *CUTS),
    ("spmv", "partition"): partition.PARTITIONS, ("spmv", "discovery"): ("auto", *neighbours.DISCOVERIES),
    ("spmv", "method"): closure.METHODS, ("spmv", "backend"): COMPUTING,
    ("train", "optimizer"): OPTIMIZERS, ("train", "schedule"): SCHEDULES, ("train", "pipeline"): PIPELINES,
    ("train", "head"): HEADS, ("train", "precision"): PRECISIONS, ("train", "backend"): COMPUTING,
}  # fmt: skip


def option(command, name):
    found = cli.main.get_command(click.Context(cli.main), command)
    return next(param for param in found.params if param.name == name)


@pytest.mark.parametrize(("command", "name"), LIBRARY)
def test_a_choice_on_the_command_line_is_that_of_the_library(command, name):
    assert set(option(command, name).type.choices) == set(LIBRARY[command, name])


def test_adaptive_training_goes_through_precisions_of_the_command_line():
    assert set(LADDER) <= set(PRECISIONS)


@pytest.mark.parametrize("command", ["cholesky", "solve", "simulate"])
def test_schedulers_take_parameters_everywhere(command):
    kind = option(command, "scheduler").type
    assert isinstance(kind, Scheduler)
    assert kind.convert("lookahead(2)", None, None) == "lookahead(2)"
    assert {item.value for item in kind.shell_complete(None, None, "he")} == {"heft", "heteroprio"}


@pytest.mark.parametrize(
    "arguments",
    [
        ["cholesky", "--n", "40", "--tile-size", "10", "--scheduler", "lookahead(2)"],
        ["solve", "--n", "40", "--tile-size", "10", "--precision", "fp32", "--refine", "nested"],
        ["simulate", "cholesky", "--nt", "3", "--scheduler", "random(3)"],
        ["compare", "cholesky", "--nt", "3", "--schedulers", "lookahead(2),lws", "--workers", "2"],
    ],
)
def test_what_the_library_takes_works_on_the_command_line(arguments):
    result = CliRunner().invoke(cli.main, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize(
    ("command", "scheduler", "message"),
    [
        ("cholesky --n 4", "hfet", "did you mean heft?"),
        ("solve --n 4", "lookahead(x)", "cannot read the parameters"),
        ("simulate cholesky", "eager(1, 2, 3)", "does not take the parameters"),
        ("compare cholesky", "lokahead(2)", "did you mean lookahead?"),
    ],
)
def test_a_misspelt_scheduler_is_one_sentence_with_what_is_near(command, scheduler, message):
    flag = "--schedulers" if command.startswith("compare") else "--scheduler"
    result = CliRunner().invoke(cli.main, [*command.split(), flag, scheduler], catch_exceptions=False)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())


def test_the_package_runs_as_a_module():
    done = subprocess.run([sys.executable, "-m", "tilewright", "--version"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.split()[0], done.stderr) == (0, "tilewright", "")
