"""Any graph at the shell: ``dag``, ``run``, ``simulate`` and ``compare`` by name, and one grammar for their options."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from click.testing import CliRunner

import tilewright as tw
from tilewright import cli
from tilewright.cli.graphs import GraphName
from tilewright.runs.saved import load
from tilewright.studies.workloads import WORKLOADS, Sizes, workload


def call(*arguments, code=0):
    result = CliRunner().invoke(cli.main, list(map(str, arguments)))
    assert result.exit_code == code, result.output
    return result


NAMES = [name for name in WORKLOADS if name != "training"]
TINY = ["--nt", 3, "--tile-size", 8, "--n", 24, "--steps", 2, "--ranks", 2]


@pytest.mark.parametrize("name", [*NAMES, "random:5"])
def test_every_name_is_drawn_simulated_compared_and_run(name, tmp_path):
    graph = workload(name, Sizes(nt=3, tile_size=8, n=24, steps=2, ranks=2)).graph
    drawn = call("dag", name, *TINY)
    assert drawn.stdout == graph.to_dot()
    assert f"{len(graph)} tasks" in drawn.stderr
    predicted = call("simulate", name, *TINY, "--gamma", "1e-9", "--alpha", "1e-6")
    assert predicted.stdout.startswith(f"{graph.name}: {len(graph)} tasks") and "verdict" in predicted.stdout
    compared = call("compare", name, *TINY, "--gamma", "1e-9", "--workers", 2, "--schedulers", "eager,lifo")
    assert "eager" in compared.stdout and "4 workers: " in compared.stdout
    ran = call("run", name, *TINY, "--backend", "serial")
    assert f"{graph.name}: {len(graph)} tasks on 1 worker, backend serial" in ran.stdout


def test_training_is_drawn_and_run():
    pytest.importorskip("torch")
    assert "forward" in call("dag", "training", "--steps", 1).stdout
    assert "backward" in call("run", "training", "--steps", 1, "--backend", "serial").stdout


def test_a_graph_of_a_file_runs_on_ranks(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "import numpy as np, tilewright as tw\n"
        "def twice(x): x *= 2\n"
        "def graph(nt):\n"
        "    g = tw.TaskGraph('mine')\n"
        "    for i in range(nt): g.insert(twice, tw.RW(g.handles('x')[i]))\n"
        "    return g, {'x': [np.ones(2) for _ in range(nt)]}\n"
    )
    for backend in ("threads", "mpi"):
        said = call("run", f"{path}:graph", "--nt", 5, "--backend", backend, "--workers", 2).stdout
        assert said.startswith("mine: 5 tasks on 2 ")
    table = call(
        "compare",
        f"{path}:graph",
        "--nt",
        4,
        "--backend",
        "mpi",
        "--workers",
        2,
        "--schedulers",
        "eager,lifo",
        "--repeat",
        1,
    ).stdout
    assert "2 workers: all 2 policies tie" in table
    assert "mine: 4 tasks" in call("simulate", f"{path}:graph", "--nt", 4).stdout


def test_a_workflow_is_simulated_and_its_run_is_refused(tmp_path):
    path = tmp_path / "flow.json"
    path.write_text(
        json.dumps(
            {
                "name": "flow",
                "workflow": {
                    "tasks": [
                        {"name": "a_1", "runtime": 3, "parents": []},
                        {"name": "b_2", "runtime": 4, "parents": ["a_1"]},
                    ]
                },
            }
        )
    )
    assert "makespan       7 units of task weight" in call("simulate", path).stdout
    assert "nobody knows data for graph 'flow'" in call("run", path, code=2).stderr


def test_json_goes_to_standard_output_or_into_a_file_and_what_was_written_is_said(tmp_path):
    alone = call("simulate", "tree", "--nt", 8, "--json")
    (line,) = alone.stdout.splitlines()
    found = json.loads(line)
    assert found["summary"]["makespan"] == 15 and found["summary"]["efficiency"] == 1
    file, page = tmp_path / "run.json", tmp_path / "run.html"
    both = call("simulate", "tree", "--nt", 8, "--json", file, "--html", page)
    assert both.stdout.startswith("tree of 8 leaves") and json.loads(file.read_text()) == found
    assert both.stderr == f"wrote {file}\nwrote {page}\n"
    assert load(file).makespan == 15
    rows = json.loads(call("compare", "tree", "--nt", 8, "--workers", 2, "--json").stdout)
    assert {row["scheduler"] for row in rows["rows"]} <= set(tw.SCHEDULERS) and rows["verdicts"][0].startswith(
        "2 workers"
    )
    facts = json.loads(call("dag", "tree", "--nt", 8, "--json").stdout)
    assert (facts["tasks"], facts["critical_path"]) == (15, {"tasks": 4, "length": 4})
    drawn = call("dag", "cholesky", "--nt", 3, "--svg", tmp_path / "g.svg", "--by", "step")
    assert f"wrote {tmp_path / 'g.svg'}" in drawn.stderr
    assert "step 0 6" in (tmp_path / "g.svg").read_text()


def test_an_owner_colours_a_drawing_and_says_where_tasks_run(tmp_path):
    said = call(
        "dag", "cholesky", "--nt", 4, "--grid", "2x1", "--svg", tmp_path / "g.svg", "--html", tmp_path / "g.html"
    )
    assert "20 tasks" in said.stderr
    drawn = (tmp_path / "g.svg").read_text()
    graph = tw.cholesky_graph(4)
    own = [task.writes[0].index[0] % 2 for task in graph]
    assert f">rank 0 {own.count(0)}<" in drawn and f">rank 1 {own.count(1)}<" in drawn
    between = sum(own[p] != own[task.index] for task in graph for p in task.predecessors)
    assert drawn.count('message" data-edge') == between and ">A[0,0], rank 0 to 1<" in drawn
    assert '"name":"owner"' in (tmp_path / "g.html").read_text()
    assert graph.layout is None  # the graph of others is as it was
    by_op = call(
        "dag", "cholesky", "--nt", 4, "--owner", "rows", "--ranks", 2, "--by", "op", "--svg", tmp_path / "g.svg"
    )
    assert by_op.exit_code == 0 and ">gemm 4<" in (tmp_path / "g.svg").read_text()
    ran = call("run", "cholesky", "--nt", 4, "--tile-size", 8, "--backend", "mpi", "--owner", "rows", "--workers", 2)
    run = tw.simulate(graph, tw.Machine(ranks=2), owner=tw.RowBlocks(2, 4))
    assert f"messages       {run.messages} on 2 ranks" in ran.stdout
    grid = call("run", "cholesky", "--nt", 4, "--tile-size", 8, "--backend", "mpi", "--grid", "1x2")
    run = tw.simulate(graph, tw.Machine(ranks=2), owner=tw.BlockCyclic(1, 2))
    assert f"messages       {run.messages} on 2 ranks" in grid.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "cholesky", "--owner", "rows"], "are for engines with ranks: mpi, dask, simulate; not threads"),
        (["compare", "cholesky", "--backend", "threads", "--grid", "1x2"], "are for engines with ranks"),
        (["run", "cholesky", "--owner", "rows", "--backend", "mpi"], "say how many with --ranks or --grid"),
        (["dag", "cholesky", "--limit", "0"], "0 is not in the range"),
        (["dag", "choleski"], "there is no graph 'choleski'; known: cholesky, lu,"),
        (["simulat", "tree"], "Did you mean simulate?"),
        (["simulate", "tree", "--scheduler", "hfet"], "did you mean heft?"),
        (["dag", "tree", "--by", "age"], "unknown by 'age'"),
        (["dag", "tree", "--by", "owner"], "has no layout that says who owns what"),
        (["run", "random:x"], "no number for its seed"),
        (["simulate", "lu", "--grid", "2x2", "--ranks", "3"], "--grid 2x2 has 4 ranks, --ranks is 3"),
    ],
)
def test_what_is_wrong_is_said_with_what_may_be_meant(arguments, message):
    assert message in " ".join(call(*arguments, code=2).stderr.split())


def test_names_are_completed():
    complete = GraphName().shell_complete(None, None, "s")
    assert {item.value for item in complete} == {"solve", "spmv", "stencil"}
    assert GraphName().shell_complete(None, None, "./mine")[0].type == "file"


@pytest.mark.parametrize("module", ["tilewright", "tilewright.cli"])
def test_the_package_is_a_command(module):
    done = subprocess.run(
        [sys.executable, "-m", module, "dag", "tree", "--nt", "2", "--json"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0 and json.loads(done.stdout)["tasks"] == 3


def test_ctrl_c_ends_a_run_with_130(tmp_path):
    path = tmp_path / "slow.py"
    path.write_text(
        "import sys, time, tilewright as tw\n"
        "def nap(x):\n"
        "    print('napping', flush=True)\n"
        "    for _ in range(400): time.sleep(0.05)\n"
        "def graph():\n"
        "    g = tw.TaskGraph('slow')\n"
        "    g.insert(nap, tw.RW(g.handle('x')))\n"
        "    return g, {'x': 0}\n"
    )
    command = [sys.executable, "-m", "tilewright", "run", f"{path}:graph", "--backend", "serial"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ
    ) as process:
        assert process.stdout.readline() == "napping\n"
        time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130 and said == "interrupted\n"
