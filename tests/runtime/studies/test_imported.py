"""Task graphs from elsewhere, and their makespans beside those of a list scheduler that knows nothing of the library."""

import heapq
import json
import random
import sys
from pathlib import Path

import networkx as nx
import pytest

import tilewright as tw
from tilewright.studies.imported import read_graph
from tilewright.studies.workloads import workload


def random_dag(seed, nodes=30):
    generator = random.Random(seed)
    dag = nx.DiGraph(name=f"dag {seed}")
    for k in range(nodes):
        dag.add_node(f"n{k}", weight=generator.randint(1, 9))
    for k in range(1, nodes):
        for p in generator.sample(range(k), min(k, generator.randint(0, 3))):
            dag.add_edge(f"n{p}", f"n{k}", nbytes=8 * generator.randint(0, 50))
    return dag


def list_schedule(dag, workers, priority):
    """The makespan of list scheduling: whenever a worker is free, the ready task of the highest priority."""
    weight = nx.get_node_attributes(dag, "weight")
    place = {node: k for k, node in enumerate(nx.lexicographical_topological_sort(dag, key=list(dag).index))}
    missing = {node: dag.in_degree(node) for node in dag}
    ready = [(-priority(node), place[node], node) for node in dag if not missing[node]]
    heapq.heapify(ready)
    running, now, free = [], 0, workers
    while ready or running:
        while ready and free:
            node = heapq.heappop(ready)[2]
            heapq.heappush(running, (now + weight[node], place[node], node))
            free -= 1
        now = running[0][0]
        while running and running[0][0] == now:
            node = heapq.heappop(running)[2]
            free += 1
            for after in dag.successors(node):
                missing[after] -= 1
                if not missing[after]:
                    heapq.heappush(ready, (-priority(after), place[after], after))
    return now


def bottom_levels(dag):
    levels = {}
    for node in reversed(list(nx.topological_sort(dag))):
        levels[node] = dag.nodes[node]["weight"] + max((levels[after] for after in dag.successors(node)), default=0)
    return levels


@pytest.mark.parametrize("workers", [1, 2, 3, 8])
@pytest.mark.parametrize("seed", range(8))
def test_an_imported_graph_has_the_makespan_of_list_scheduling(seed, workers):
    dag = random_dag(seed)
    levels = bottom_levels(dag)
    run = tw.simulate(read_graph(dag), tw.Machine(workers=workers), scheduler="critical-path")
    assert run.makespan == list_schedule(dag, workers, levels.__getitem__)
    assert run.bounds.critical_path == max(levels.values())


def edges(graph):
    """Edges by label."""
    return {(graph.tasks[p].label, task.label) for task in graph for p in task.predecessors}


def label(node):
    return f"n({node})"


@pytest.mark.parametrize("suffix", [".graphml", ".json"])
def test_files_of_networkx_come_back(tmp_path, suffix):
    dag = random_dag(4)
    path = tmp_path / f"dag{suffix}"
    if suffix == ".graphml":
        nx.write_graphml(dag, path)
    else:
        path.write_text(json.dumps(nx.node_link_data(dag, edges="links")))
    graph, direct = read_graph(path), read_graph(dag)
    assert edges(graph) == edges(direct) == {(label(a), label(b)) for a, b in dag.edges}
    assert [task.op.weight for task in graph] == [task.op.weight for task in direct]
    machine = tw.Machine(ranks=2, workers=2, alpha=1, beta=0.5)
    runs = [tw.simulate(g, machine, owner=lambda h: h.index[0] % 2) for g in (graph, direct)]
    assert runs[0].makespan == runs[1].makespan and runs[0].bytes == runs[1].bytes > 0


@pytest.mark.needs("pydot")
def test_dot_comes_back_with_its_tasks_edges_and_weights(tmp_path):
    path = tmp_path / "cholesky.dot"
    path.write_text(tw.cholesky_graph(4).to_dot())
    graph, ours = read_graph(path), tw.cholesky_graph(4)
    assert graph.name == "cholesky nt=4"
    assert [(task.label, task.op.name, task.op.weight) for task in graph] == [
        (task.label, task.op.name, task.op.weight) for task in ours
    ]
    assert edges(graph) == edges(ours)
    path.write_text(
        'digraph { a [weight=2]; subgraph cluster_x { b [runtime="3"]; c } a -> {b; c} -> "d d"; c:e -> f }'
    )
    graph = read_graph(path)
    assert edges(graph) == {(f"{x}({x})", f"{y}({y})") for x, y in ("ab", "ac", "cf")} | {
        (f"{x}({x})", "d d(d d)") for x in "bc"
    }
    assert {task.label: task.op.weight for task in graph}["b(b)"] == 3


def test_without_pydot_dot_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pydot", None)
    (tmp_path / "x.dot").write_text("digraph {}")
    with pytest.raises(ImportError, match=r"pip install .*\[graphs\]'"):
        read_graph(tmp_path / "x.dot")


TASKS = [
    ("split_1", [], 10.0),
    ("work_2", ["split_1"], 4.0),
    ("work_3", ["split_1"], 5.0),
    ("join_4", ["work_2", "work_3"], 1.0),
]


def workflow(version):
    """One workflow as WfCommons writes it in several versions."""
    if version == "1.5":
        return {
            "name": "diamond",
            "schemaVersion": version,
            "workflow": {
                "specification": {
                    "tasks": [
                        {
                            "name": name,
                            "id": name,
                            "parents": parents,
                            "children": [],
                            "outputFiles": [f"{name}.out"],
                            "inputFiles": [f"{p}.out" for p in parents],
                        }
                        for name, parents, _ in TASKS
                    ],
                    "files": [{"id": f"{name}.out", "sizeInBytes": 800} for name, _, _ in TASKS],
                },
                "execution": {"tasks": [{"id": name, "runtimeInSeconds": seconds} for name, _, seconds in TASKS]},
            },
        }
    runtime = "runtimeInSeconds" if version == "1.4" else "runtime"
    return {
        "name": "diamond",
        "schemaVersion": version,
        "workflow": {
            "tasks": [
                {
                    "name": name,
                    "parents": parents,
                    "category": name[:-2],
                    runtime: seconds,
                    "files": [{"link": "output", "name": f"{name}.out", "sizeInBytes": 800}]
                    + [{"link": "input", "name": f"{p}.out", "sizeInBytes": 800} for p in parents],
                }
                for name, parents, seconds in TASKS
            ]
        },
    }


@pytest.mark.parametrize("version", ["1.3", "1.4", "1.5"])
def test_workflows_of_wfcommons_have_their_runtimes_and_bytes(tmp_path, version):
    path = tmp_path / "diamond.json"
    path.write_text(json.dumps(workflow(version)))
    graph = read_graph(path)
    assert graph.name == "diamond"
    assert [(task.op.name, task.op.weight) for task in graph] == [("split", 10), ("work", 4), ("work", 5), ("join", 1)]
    assert tw.simulate(graph, tw.Machine(workers=2)).makespan == 16
    run = tw.simulate(graph, tw.Machine(ranks=2, beta=0.001), owner=lambda h: h.index[0] % 2)
    assert {message.nbytes for message in run.trace.messages} == {800}
    assert tw.compare_schedulers(graph, [1, 2]).best(2).makespan == 16
    assert workload(str(path)).graph.to_dot() == graph.to_dot()


MOSAIC = Path(__file__).parents[3] / "examples" / "mosaic.json"


def read_by_hand(path):
    """A workflow file as a graph of networkx, without the library."""
    found = json.loads(path.read_text())["workflow"]
    dag = nx.DiGraph(name="mosaic of six images")
    for task in found["execution"]["tasks"]:
        dag.add_node(task["id"], weight=task["runtimeInSeconds"])
    for task in found["specification"]["tasks"]:
        dag.add_edges_from((parent, task["id"]) for parent in task["parents"])
    return dag


@pytest.mark.parametrize("suffix", [".json", ".graphml", pytest.param(".dot", marks=pytest.mark.needs("pydot"))])
def test_the_example_workflow_has_the_makespans_of_list_scheduling_from_each_format(tmp_path, suffix):
    dag = read_by_hand(MOSAIC)
    path = MOSAIC if suffix == ".json" else tmp_path / f"mosaic{suffix}"
    if suffix == ".graphml":
        nx.write_graphml(dag, path)
    elif suffix == ".dot":
        lines = [f'"{node}" [weight={data["weight"]}];' for node, data in dag.nodes(data=True)]
        path.write_text("\n".join(["digraph {", *lines, *(f'"{a}" -> "{b}";' for a, b in dag.edges), "}"]))
    graph, levels = read_graph(path), bottom_levels(dag)
    assert (len(graph), graph.edges, graph.work()) == (21, 35, sum(nx.get_node_attributes(dag, "weight").values()))
    table = tw.compare_schedulers(graph, [1, 2, 3, 6], schedulers=["critical-path", "eager"])
    for row in table:
        if row.scheduler == "critical-path":
            assert row.makespan == list_schedule(dag, row.workers, levels.__getitem__)
        assert row.makespan >= max(graph.work() / row.workers, max(levels.values()))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", "{", "it is no JSON"),
        ("a.json", "[]", "neither a workflow"),
        ("a.json", json.dumps({"workflow": {"tasks": [{"name": "a", "parents": ["b"]}]}}), "an edge of a goes to b"),
        (
            "a.json",
            json.dumps(
                {"nodes": [{"id": 1}, {"id": 2}], "links": [{"source": 1, "target": 2}, {"source": 2, "target": 1}]}
            ),
            "has a cycle: 1 -> 2",
        ),
        ("a.json", json.dumps({"nodes": [{"id": 1, "weight": -1}], "links": []}), "weight of 1 is -1"),
        ("a.json", json.dumps({"nodes": [{"id": 1, "weight": "much"}], "links": []}), "weight of 1 is 'much'"),
        ("a.graphml", "<graphml>", "is no graph that can be read"),
        ("a.graphml", "<?xml version='1.0' encoding='nope'?><graphml/>", "unknown encoding: nope"),
        (
            "a.json",
            '{"nodes": [{"id": 1, "weight": 1' + "0" * 400 + '}], "links": []}',
            "weight of 1 is 1000.*no number of",
        ),
        ("a.dot", "digraph {" + "subgraph {" * 500 + "a" + "}" * 500 + "}", "maximum recursion depth"),
        ("a.txt", "", "its suffix must be .dot"),
    ],
)
def test_what_is_no_graph_says_why(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        read_graph(tmp_path / name)


def test_a_graph_without_directions_is_refused():
    with pytest.raises(ValueError, match="has edges without a direction"):
        read_graph(nx.path_graph(3))
    with pytest.raises(TypeError, match="source must be a path or a directed graph"):
        read_graph(3)
