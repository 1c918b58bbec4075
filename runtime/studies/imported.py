"""Task graphs from elsewhere: DOT, GraphML, WfCommons and node-link JSON, networkx. For the simulator and pictures.

A node is a task that writes one handle, ``v[k]``, and reads those of its predecessors: so the edges are those of the
file, and what a task hands on travels whole to each rank that reads it. Its weight, in seconds, is the first of the
node's attributes `WEIGHTS` that it has, else 1; the bytes that it hands on are the most that one of its edges says, by
the first of `BYTES`.
"""

from __future__ import annotations

import json
import math
import re
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tilewright.document import read
from tilewright.extras import brings
from tilewright.graph import Op, R, TaskGraph, W
from tilewright.keywords import strict
from tilewright.scalars import text

if TYPE_CHECKING:
    import networkx

__all__ = ["BYTES", "SUFFIXES", "WEIGHTS", "read_graph"]

SUFFIXES = (".dot", ".gv", ".graphml", ".json")
"""Suffixes of files that `read_graph` reads."""
WEIGHTS = ("runtimeInSeconds", "runtime", "seconds", "duration", "weight", "cost")
BYTES = ("sizeInBytes", "nbytes", "bytes", "size", "data")
_OPS = ("op", "category", "type", "kind")


@strict
def read_graph(source: str | Path | networkx.DiGraph[Any], *, name: str | None = None) -> TaskGraph:
    """A task graph from a file or from networkx.

    Parameters
    ----------
    source
        A path that ends in one of `SUFFIXES`: Graphviz's DOT, GraphML, or JSON of WfCommons (versions 1.3 to 1.5) or of
        networkx's node-link data. Or a directed graph of networkx.
    name
        That of the graph; by default that of the file, or the one in it.

    Returns
    -------
    A graph in topological order, whose tasks have weights and no functions: it can be drawn, simulated and compared.
    With ``tw.Machine()`` a weight is a second; ``beta`` counts 8-byte words.

    Raises
    ------
    ValueError
        The file is damaged, its graph is not directed or has a cycle, or a weight is no number of at least 0.
    ImportError
        DOT without pydot.
    OSError
        The file cannot be read.

    Notes
    -----
    O(nodes + edges). WfCommons [1]_ has instances of scientific workflows that ran.

    .. [1] T. Coleman et al., WfCommons: a framework for enabling scientific workflow research and development, FGCS 128
       (2022).

    Examples
    --------
    >>> import networkx as nx, tilewright as tw
    >>> nodes = nx.DiGraph([("a", "b"), ("a", "c"), ("b", "d"), ("c", "d")])
    >>> nodes.nodes["b"]["weight"] = 3
    >>> tw.simulate(tw.read_graph(nodes), tw.Machine(workers=2)).makespan
    5.0
    """
    if name is not None:
        text(name, "name")
    if not isinstance(source, str | Path):
        return _converted(_directed(source, "source"), name or getattr(source, "name", "") or "graph")
    path = Path(source)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"source: cannot read a graph from {path.name!r}; its suffix must be {', '.join(SUFFIXES)}")
    try:
        found = {".graphml": _graphml, ".json": _json}.get(suffix, _dot)(path)
        return _converted(_directed(found, "the graph"), name or found.name or path.stem)
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        said = f"it has no {error}" if isinstance(error, KeyError) else error
        raise ValueError(f"{path} is no graph that can be read: {said}") from error


# ------------------------------------------------------------------ formats


def _dot(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            import pydot
    except ImportError as error:
        raise ImportError(f"a graph in DOT needs pydot; {brings('graphs')}") from error
    import networkx

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # pydot calls pyparsing by its old names
        found = pydot.graph_from_dot_data(path.read_text(encoding="utf-8"))
    if not found:
        raise ValueError("it is no DOT")
    graph: Any = networkx.DiGraph(name=str(found[0].get_name()).strip('"'))
    if found[0].get_type() != "digraph":
        raise ValueError("its edges have no direction; a digraph has")
    _gather(found[0], graph)
    return graph


def _gather(part: Any, graph: Any) -> None:
    """Nodes and edges of a graph of pydot, those of its subgraphs too."""
    for node in part.get_node_list():
        key = _unquoted(node.get_name())
        if key not in ("node", "edge", "graph", "\\n"):
            graph.add_node(key, **{k: _unquoted(v) for k, v in node.get_attributes().items()})
    for edge in part.get_edge_list():
        ends = [_members(end) for end in (edge.get_source(), edge.get_destination())]
        for a in ends[0]:
            for b in ends[1]:
                graph.add_edge(a, b, **{k: _unquoted(v) for k, v in edge.get_attributes().items()})
    for inner in part.get_subgraph_list():
        _gather(inner, graph)


def _members(end: Any) -> list[str]:
    """The nodes at one end of an edge: one, without its port, or those of a subgraph."""
    if isinstance(end, Mapping):
        return [_unquoted(node) for node in end.get("nodes", {})]
    text = str(end)
    return [_unquoted(text) if text.startswith('"') else text.partition(":")[0]]


def _unquoted(text: Any) -> str:
    return str(text).strip().removeprefix('"').removesuffix('"').replace('\\"', '"')


def _graphml(path: Path) -> Any:
    from xml.etree.ElementTree import ParseError

    import networkx

    try:
        return networkx.read_graphml(path)
    except (ParseError, networkx.NetworkXError) as error:
        raise ValueError(error) from error


def _json(path: Path) -> Any:
    import networkx

    document = read(path)
    if isinstance(document, dict) and isinstance(document.get("workflow"), dict):
        return _workflow(document)
    if isinstance(document, dict) and "nodes" in document and ("links" in document or "edges" in document):
        edges = "links" if "links" in document else "edges"
        plain = json.loads(json.dumps(document))
        return networkx.node_link_graph({"directed": True, "multigraph": False, **plain}, edges=edges)
    raise ValueError("it has neither a workflow, as WfCommons writes, nor nodes and links, as networkx does")


def _workflow(document: Mapping[str, Any]) -> Any:
    """A WfCommons instance as a graph of networkx."""
    import networkx

    workflow = document["workflow"]
    specification = workflow.get("specification", workflow)
    tasks: list[dict[str, Any]] = specification.get("tasks") or workflow.get("tasks") or workflow["jobs"]
    ran = {task["id"]: task for task in workflow.get("execution", {}).get("tasks", [])}
    sizes = {file["id"]: file.get("sizeInBytes", 0) for file in specification.get("files", [])}
    graph: Any = networkx.DiGraph(name=str(document.get("name", "")))
    made: dict[str, dict[str, float]] = {}  # by task, the bytes of each file that it writes
    used: dict[str, set[str]] = {}
    for task in tasks:
        key = str(task.get("id", task["name"]))
        weights = {name: value for name, value in {**task, **ran.get(key, {})}.items() if name in WEIGHTS}
        graph.add_node(key, op=_category(task), label=key, **weights)
        made[key] = {file: sizes.get(file, 0) for file in task.get("outputFiles", [])}
        used[key] = set(task.get("inputFiles", []))
        for file in task.get("files", []):
            size = file.get("sizeInBytes", file.get("size", 0))
            if file.get("link") == "output":
                made[key][file["name"]] = size
            else:
                used[key].add(file["name"])
    names = {str(task["name"]): str(task.get("id", task["name"])) for task in tasks}
    for task in tasks:
        key = str(task.get("id", task["name"]))
        ends = [(names.get(str(p), str(p)), key) for p in task.get("parents", [])]
        ends += [(key, names.get(str(c), str(c))) for c in task.get("children", [])]
        for parent, child in ends:
            if parent not in made or child not in made:
                raise ValueError(
                    f"an edge of {key} goes to {parent if parent not in made else child}, which is no task"
                )
            graph.add_edge(parent, child, bytes=sum(size for f, size in made[parent].items() if f in used[child]))
    return graph


def _category(task: Mapping[str, Any]) -> str:
    """What kind of task it is: its category, or its name without the number behind it."""
    return str(task.get("category") or re.sub(r"[_\-]?(ID)?\d+$", "", str(task["name"])))


# ------------------------------------------------------------------ the task graph


def _directed(graph: Any, what: str) -> Any:
    if not (hasattr(graph, "is_directed") and hasattr(graph, "successors" if graph.is_directed() else "nodes")):
        raise TypeError(f"{what} must be a path or a directed graph of networkx, not {graph!r}")
    if not graph.is_directed():
        raise ValueError(f"{what} has edges without a direction")
    return graph


def _converted(graph: Any, name: str) -> TaskGraph:
    """The task graph of a graph of networkx."""
    import networkx

    places = {node: place for place, node in enumerate(graph)}
    try:
        order = list(networkx.lexicographical_topological_sort(graph, key=places.__getitem__))
    except networkx.NetworkXUnfeasible:
        cycle = " -> ".join(str(a) for a, *_ in networkx.find_cycle(graph))
        raise ValueError(f"the graph has a cycle: {cycle}") from None
    words = [
        max(
            (math.ceil(_number(data, BYTES, 0.0, f"{node} -> {other}") / 8) for other, data in _edges(graph, node)),
            default=0,
        )
        for node in order
    ]
    made = TaskGraph(str(name))
    v = made.handles("v", shape=lambda k: (words[k],), dtype=np.dtype(float))
    ops: dict[tuple[str, float], Op] = {}
    index = {node: k for k, node in enumerate(order)}
    for k, node in enumerate(order):
        data = graph.nodes[node]
        label = str(data.get("label", node))
        op = next((str(data[key]) for key in _OPS if data.get(key)), "") or re.sub(r"[\W_]*\d[\W\d_]*$", "", label)
        weight = _number(data, WEIGHTS, 1.0, str(node))
        kind = ops.setdefault((op or "task", weight), Op(op or "task", weight=weight))
        before = sorted(index[p] for p in set(graph.predecessors(node)))
        within = re.fullmatch(re.escape(kind.name) + r"\((.*)\)", label)
        made.insert(kind, W(v[k]), [R(v[p]) for p in before], label=(within[1] if within else label,))
    return made


def _edges(graph: Any, node: Any) -> Iterable[tuple[Any, Mapping[str, Any]]]:
    """(successor, attributes) of the edges from a node; of several to one the first."""
    for other, data in graph.adj[node].items():
        yield other, next(iter(data.values()), {}) if graph.is_multigraph() else data


def _number(data: Mapping[str, Any], names: Iterable[str], default: float, where: str) -> float:
    """The first attribute of these that there is. ValueError if it is no number of at least 0."""
    key = next((name for name in names if data.get(name) not in (None, "")), None)
    if key is None:
        return default
    try:
        value = float(data[key])
    except (ValueError, TypeError, OverflowError):
        value = math.nan
    if not 0 <= value < math.inf:
        raise ValueError(f"{key} of {where} is {data[key]!r}, which is no number of at least 0")
    return value
