"""Pictures of graphs: what is drawn is the graph, whoever lays it out."""

import itertools
import re
import stat
import sys
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from PIL import Image

import tilewright as tw
from tilewright import RW, Op, R, TaskGraph, W, cholesky_graph
from tilewright.plot import dag
from tilewright.plot import outline as plan
from tilewright.plot.layered import layered, layers
from tilewright.plot.outline import BOXES, bands, outline
from tilewright.plot.palette import colours, text_on
from tilewright.plot.travels import middle, travels
from tilewright.runs.text import shown

SVG = "{http://www.w3.org/2000/svg}"


def parse(svg):
    return ET.fromstring(svg.encode())


def boxes_of(root):
    """Task id -> (left, top, right, bottom) of its rectangle."""
    boxes = {}
    for group in root.iter(f"{SVG}g"):
        if "task" in group.get("class", "").split():
            x, y, w, h = (float(group.find(f"{SVG}rect").get(name)) for name in ("x", "y", "width", "height"))
            assert group.get("id") not in boxes
            boxes[group.get("id")] = (x, y, x + w, y + h)
    return boxes


def edges_of(root, kind="edge"):
    return [path.get("data-edge") for path in root.iter(f"{SVG}path") if kind in (path.get("class") or "").split()]


def points_of(path):
    return [tuple(map(float, pair.split(","))) for pair in path.get("d").replace("M", "").replace("C", "").split()]


def overlapping(boxes):
    return [
        (a, b)
        for (a, (l1, t1, r1, b1)), (b, (l2, t2, r2, b2)) in itertools.combinations(boxes.items(), 2)
        if l1 < r2 and l2 < r1 and t1 < b2 and t2 < b1
    ]


def random_graph(seed):
    """40 tasks with random accesses to 8 handles: long edges, several sources and sinks."""
    rng = np.random.default_rng(seed)
    g = TaskGraph(f"random {seed}")
    handles = [g.handle(f"h{k}") for k in range(8)]
    for _ in range(40):
        few = rng.choice(8, size=rng.integers(1, 4), replace=False)
        g.insert(np.add, *(rng.choice([R, W, RW])(handles[k]) for k in few))
    return g


GRAPHS = {f"nt{nt}": cholesky_graph(nt) for nt in (1, 2, 4, 6, 10)} | {f"random{s}": random_graph(s) for s in range(3)}


@pytest.fixture(params=list(GRAPHS))
def graph(request):
    return GRAPHS[request.param]


@pytest.fixture
def fake_dot(tmp_path, monkeypatch):
    """An executable that answers ``dot -Tplain``: nodes in one row, edges as straight curves."""

    def install(body):
        script = tmp_path / "dot"
        script.write_text(f"#!{sys.executable}\n{body}")
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setattr(dag.shutil, "which", lambda name: str(script))

    return install


PLAIN = """
import re, sys
text = sys.stdin.read()
nodes = re.findall(r"^  (t\\d+) \\[", text, re.M)
edges = re.findall(r"^  (t\\d+) -> (t\\d+)", text, re.M)
place = {name: k for k, name in enumerate(nodes)}
print("graph 1", 2 * len(nodes), 2)
for name, k in place.items():
    print("node", name, 2 * k + 1, 1, 1.5, 0.5, '"a label"', "solid box black lightgrey")
for a, b in edges:
    x, y = 2 * place[a] + 1, 2 * place[b] + 1
    print("edge", a, b, 4, x, 1, x, 1.5, y, 1.5, y, 1, "solid black")
print("stop")
"""


# ------------------------------------------------------------------ the drawing


def test_svg_has_one_box_per_task_and_one_path_per_edge(graph):
    root = parse(graph.to_svg(layout="layered"))
    assert sorted(boxes_of(root)) == sorted(f"t{task.index}" for task in graph)
    assert sorted(edges_of(root)) == sorted(f"t{p} t{task.index}" for task in graph for p in task.predecessors)


def test_no_two_boxes_overlap_and_none_is_clipped(graph):
    root = parse(graph.to_svg(layout="layered"))
    boxes = boxes_of(root)
    assert overlapping(boxes) == []
    width, height = float(root.get("width")), float(root.get("height"))
    assert all(min(left, top) > 0 for left, top, _, _ in boxes.values())
    assert all(right < width and bottom < height for _, _, right, bottom in boxes.values())


def test_bold_boxes_and_edges_are_the_critical_path(graph):
    root = parse(graph.to_svg(layout="layered"))
    path = [f"t{task.index}" for task in graph.critical_path().tasks]
    bold = {g.get("id") for g in root.iter(f"{SVG}g") if g.get("class") == "task critical"}
    assert bold == set(path)
    assert sorted(edges_of(root, "critical")) == sorted(f"{a} {b}" for a, b in itertools.pairwise(path))


def test_every_edge_joins_the_boxes_of_its_tasks(graph):
    root = parse(graph.to_svg(layout="layered"))
    boxes = boxes_of(root)
    for path in root.iter(f"{SVG}path"):
        if path.get("data-edge"):
            above, below = (boxes[name] for name in path.get("data-edge").split())
            (x0, y0), *_, (x1, y1) = points_of(path)
            assert above[0] < x0 < above[2] and y0 == pytest.approx(above[3], abs=0.11)
            assert below[0] < x1 < below[2] and y1 == pytest.approx(below[1], abs=0.11)


def test_edges_over_several_layers_pass_between_boxes():
    root = parse(cholesky_graph(6).to_svg(layout="layered"))
    boxes = boxes_of(root)
    long = 0
    for path in root.iter(f"{SVG}path"):
        if path.get("data-edge"):
            stops = points_of(path)[3:-1:3]
            long += bool(stops)
            assert not [b for b in boxes.values() for x, y in stops if b[0] < x < b[2] and b[1] < y < b[3]]
    assert long == 10 + 10 + 10  # trsm, syrk and gemm of steps k >= 1 wait for the step before on their tile


def test_tooltips_say_what_a_task_reads_and_writes():
    root = parse(cholesky_graph(4).to_svg(layout="layered"))
    tooltips = [g.find(f"{SVG}title").text for g in root.iter(f"{SVG}g") if "task" in g.get("class", "").split()]
    assert "gemm(3,1,0)\nreads A[3,0], A[1,0], A[3,1]\nwrites A[3,1]\nweight 6" in tooltips
    assert len(tooltips) == 20


def test_legend_counts_the_tasks_of_each_op():
    root = parse(cholesky_graph(4).to_svg(layout="layered"))
    legend = [g.find(f"{SVG}text").text for g in root.iter(f"{SVG}g") if g.get("class") == "legend"]
    assert legend == ["potrf 4", "trsm 6", "syrk 6", "gemm 4", "critical path"]


def test_names_with_markup_stay_text():
    g = TaskGraph('a "<&>" b\\c')
    g.insert(np.add, RW(g.handle('x<"&>\\')))
    root = parse(g.to_svg(layout="layered"))
    assert [t.text for t in root.iter(f"{SVG}text") if t.text.startswith("add(")] == ['add(x<"&>\\)']
    assert '[label="add(x<\\"&>\\\\)"' in g.to_dot()


def test_an_empty_graph_is_an_empty_picture():
    root = parse(TaskGraph("nothing").to_svg(layout="layered"))
    assert boxes_of(root) == {} and edges_of(root) == []


def test_svg_is_written_to_the_path(tmp_path):
    text = cholesky_graph(3).to_svg(tmp_path / "g.svg", layout="layered")
    assert (tmp_path / "g.svg").read_text(encoding="utf-8") == text


def test_pictures_depend_on_the_graph_only():
    assert cholesky_graph(5).to_svg(layout="layered") == cholesky_graph(5).to_svg(layout="layered")
    assert cholesky_graph(5).to_dot() == cholesky_graph(5).to_dot()


def test_of_many_tasks_a_box_is_all_of_one_op_in_one_layer(monkeypatch):
    g = cholesky_graph(12)
    monkeypatch.setattr(plan, "ROWS", 100)
    root = parse(g.to_svg(layout="layered", limit=100))
    depth = layers(g)
    members = {}
    for task in g:
        members.setdefault((depth[task.index], task.op.name), []).append(task)
    labels = [t.find(f"{SVG}text").text for t in root.iter(f"{SVG}g") if "task" in t.get("class", "").split()]
    assert sorted(labels) == sorted(
        tasks[0].label if len(tasks) == 1 else f"{len(tasks)} x {op}" for (_, op), tasks in members.items()
    )
    boxes = boxes_of(root)
    assert len(boxes) == 12 + 11 + 11 + 10 and overlapping(boxes) == []
    of = {task.index: key for key, tasks in members.items() for task in tasks}
    pairs = {(of[p], of[task.index]) for task in g for p in task.predecessors}
    assert len(edges_of(root)) == len(pairs)
    for path in root.iter(f"{SVG}path"):
        if path.get("data-edge"):
            above, below = path.get("data-edge").split()
            assert boxes[above][3] <= boxes[below][1]
    bold = [g.get("id") for g in root.iter(f"{SVG}g") if g.get("class") == "task critical"]
    assert len(bold) == len(g.critical_path()) == len(edges_of(root, "critical")) + 1  # a layer has one of its tasks
    text = g.to_svg(layout="layered", limit=100)
    assert "364 tasks, " in text and "a box: all tasks of one colour in one layer" in text and ">gemm 220<" in text
    assert g.to_svg(layout="layered", limit=364) == g.to_svg(layout="layered")
    monkeypatch.setattr(dag, "LIMIT", 100)
    assert g.to_svg(layout="layered") == text and g._repr_svg_() is None
    assert cholesky_graph(3)._repr_svg_().startswith("<?xml")
    assert sum(" [label=" in line for line in g.to_dot().splitlines()) == 364  # text for other tools has all


def test_of_many_layers_several_are_one_and_no_edge_runs_up():
    """1,000 layers of two ops in turns in 24 rows: 42 layers are one."""
    g = TaskGraph("long")
    x = g.handle("x")
    for k in range(1000):
        g.insert(Op("even" if k % 2 == 0 else "odd", weight=2), RW(x))
    drawn = outline(g, "op", 100)
    assert drawn.rows == [band for band in range(24) for _ in range(2)]
    assert [node.label for node in drawn.nodes] == ["21 x even", "21 x odd"] * 23 + ["17 x even", "17 x odd"]
    assert sum(node.weight for node in drawn.nodes) == 2000 and drawn.critical == set(range(48))
    assert {(p // 2, node.index // 2) for node in drawn.nodes for p in node.predecessors} == {
        (band, band + 1) for band in range(23)
    }
    assert "in 42 layers" in drawn.title and "layers 42 to 83: even" in drawn.nodes[2].tooltip
    places = layered(drawn.nodes, drawn.rows)
    assert len({box.y for box in places.boxes.values()}) == 24
    assert overlapping({n: (b.x, b.y, b.x + b.width, b.y + b.height) for n, b in places.boxes.items()}) == []


def test_there_are_as_few_boxes_as_can_be_read_where_there_is_a_way():
    """Of 30 kinds in each of 100 layers 24 rows would be 720 boxes; 200 are 6 rows of 17 layers."""
    depth = [layer for layer in range(100) for _ in range(30)]
    kinds = list(range(30)) * 100
    found = bands(depth, kinds)
    assert len(found.keys) <= BOXES < 30 * -(-100 // (found.height - found.height // 5))
    assert [found.keys[box] for box in found.of] == [(d // found.height, k) for d, k in zip(depth, kinds, strict=True)]
    assert found.where(30) == f"layers {found.height} to {2 * found.height - 1}"
    one = bands([0] * 500, range(500))
    assert (len(one.keys), one.height, one.tall, one.where(3)) == (500, 1, "one layer", "layer 0")
    assert bands([], []) == ([], [], 1)


@pytest.mark.parametrize(("limit", "error"), [(0, ValueError), (-3, ValueError), (2.5, TypeError), (True, TypeError)])
def test_a_limit_is_a_number_of_tasks(limit, error, tmp_path):
    for draw in (
        lambda: cholesky_graph(2).to_svg(limit=limit),
        lambda: cholesky_graph(2).to_png(tmp_path / "g.png", limit=limit),
        lambda: cholesky_graph(2).to_html(limit=limit),
    ):
        with pytest.raises(error, match="limit must be"):
            draw()


# ------------------------------------------------------------------ the layered layout


def test_layers_of_cholesky_are_its_steps():
    g = cholesky_graph(5)
    offset = {"potrf": 0, "trsm": 1, "syrk": 2, "gemm": 2}
    step = {task.index: task.uses[0].handle.index[1] for task in g}
    assert layers(g) == [3 * step[task.index] + offset[task.op.name] for task in g]


def test_edges_of_the_layered_layout_point_down(graph):
    boxes = layered(graph).boxes
    assert all(boxes[p].y < boxes[task.index].y for task in graph for p in task.predecessors)


def test_a_crossing_that_can_be_avoided_is():
    r"""a -> d, b -> c: in insertion order the edges cross."""
    g = TaskGraph()
    x, y = g.handle("x"), g.handle("y")
    a, b = g.insert(np.add, RW(x)), g.insert(np.add, RW(y))
    c, d = g.insert(np.add, RW(y)), g.insert(np.add, RW(x))
    boxes = layered(g).boxes
    assert (boxes[a.index].x < boxes[b.index].x) == (boxes[d.index].x < boxes[c.index].x)


def test_a_chain_is_drawn_straight():
    g = TaskGraph()
    for _ in range(5):
        g.insert(np.add, RW(g.handle("x")))
    assert len({box.x for box in layered(g).boxes.values()}) == 1


# ------------------------------------------------------------------ Graphviz


def test_dot_has_one_node_per_task_and_bold_critical_edges():
    lines = cholesky_graph(4).to_dot().splitlines()
    path = [task.index for task in cholesky_graph(4).critical_path().tasks]
    assert sum(" [label=" in line for line in lines) == 20
    assert sum(" -> " in line for line in lines) == 30
    assert [line.split(" [")[0].strip() for line in lines if " -> " in line and "penwidth" in line] == sorted(
        (f"t{a} -> t{b}" for a, b in itertools.pairwise(path)), key=lambda edge: int(edge.split("t")[-1])
    )
    assert any(line.startswith("  t8 [label=") and "#0072B2" in line for line in lines if "gemm(3,1,0)" in line)


def test_without_dot_the_layered_layout_is_used(monkeypatch):
    monkeypatch.setattr(dag.shutil, "which", lambda name: None)
    g = cholesky_graph(4)
    assert g.to_svg() == g.to_svg(layout="layered")
    with pytest.raises(RuntimeError, match="not on the PATH; install graphviz"):
        g.to_svg(layout="dot")


def test_with_dot_its_places_are_used(fake_dot):
    fake_dot(PLAIN)
    g = cholesky_graph(4)
    root = parse(g.to_svg())
    boxes = boxes_of(root)
    assert len({top for _, top, _, _ in boxes.values()}) == 1  # the one row that our layout would never make
    assert overlapping(boxes) == []
    assert boxes["t1"][0] - boxes["t0"][0] == pytest.approx(144, abs=0.11)  # two inches
    assert len(edges_of(root)) == 30
    assert g.to_svg(layout="layered") != g.to_svg(layout="dot") == g.to_svg()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("import sys; sys.exit('no such font')", "failed with exit code 1: no such font"),
        ("print('node t0 x')", "not in its plain format"),
        ("print('graph 1 1 1')", "placed 0 of 4 boxes"),
        ("import time; time.sleep(60)", "took more than 0.5 s on 4 boxes"),
    ],
    ids=["fails", "garbles", "forgets", "hangs"],
)
def test_a_broken_dot_warns_and_the_layered_layout_is_used(fake_dot, monkeypatch, body, message):
    fake_dot(body)
    monkeypatch.setattr(dag, "_DOT_SECONDS", 0.5 if "sleep" in body else 30)
    g = cholesky_graph(2)
    with pytest.warns(RuntimeWarning, match=message):
        svg = g.to_svg()
    assert svg == g.to_svg(layout="layered")
    with pytest.raises(RuntimeError, match=message):
        g.to_svg(layout="dot")


def test_an_unknown_layout_lists_the_known():
    with pytest.raises(ValueError, match="unknown layout 'neato'; known: dot, layered"):
        cholesky_graph(2).to_svg(layout="neato")


# ------------------------------------------------------------------ colours


def test_ops_of_cholesky_have_fixed_colours_of_their_own():
    chosen = colours(["gemm", "mine", "potrf", "trsm", "syrk", "mine", "yours"])
    assert len(set(chosen.values())) == 6
    assert colours(["gemm"])["gemm"] == chosen["gemm"] == "#0072B2"


def test_text_is_readable_on_every_colour():
    assert text_on("#0072B2") == "#FFFFFF"
    assert text_on("#F0E442") == text_on("#D55E00") == "#000000"


def test_a_png_has_the_size_of_the_layout_and_the_colours_of_the_ops(tmp_path):
    graph = cholesky_graph(3)
    graph.to_png(tmp_path / "g.png", layout="layered")
    place = layered(graph)
    with Image.open(tmp_path / "g.png") as image:
        two_rows = 18  # of the legend, as "critical path" is in it too
        assert image.size == (round(max(place.width, 420) + 44), round(place.height + 90 + two_rows))
        seen = {colour for _, colour in image.convert("RGB").getcolors(10**6)}
    fills = colours(task.op.name for task in graph).values()
    assert {tuple(int(fill[k : k + 2], 16) for k in (1, 3, 5)) for fill in fills} <= seen


def many_ops():
    g = TaskGraph("a graph with a name that is longer than most graphs are wide, and costs $5 or $6")
    for k in range(20):
        g.insert(Op(f"operation_{k}", function=print), RW(g.handle("x")))
    return g


@pytest.mark.parametrize("graph", [many_ops(), cholesky_graph(1), cholesky_graph(6)], ids=lambda graph: graph.name[:14])
def test_nothing_of_a_png_is_cut_off(graph, tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    drawn = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda fig, *args, **kwargs: (drawn.append(fig), save(fig, *args, **kwargs)))
    graph.to_png(tmp_path / "g.png", layout="layered")
    (fig,) = drawn
    (axes,) = fig.axes
    shown = [*fig.texts, *(artist for artist in fig.get_children() if type(artist).__name__ == "Rectangle")]
    assert {f"{op} 1" for op in ("operation_0", "operation_19")} <= {t.get_text() for t in fig.texts} or len(
        graph
    ) != 20
    assert fig.texts[-1].get_text() == "critical path"
    for artist in [*shown, *axes.texts]:
        box = artist.get_window_extent()
        assert min(box.x0, box.y0) >= 0 and box.x1 <= fig.bbox.x1 and box.y1 <= fig.bbox.y1, artist
    assert len(axes.texts) == len(graph)
    with Image.open(tmp_path / "g.png") as image:
        pixels = np.asarray(image.convert("L"))
    for edge in (pixels[:8], pixels[-8:], pixels[:, :8], pixels[:, -8:]):
        assert edge.min() == 255
    assert (pixels[-22:] < 255).any(), "the lower half of the last outline"


def test_an_empty_graph_is_a_picture_too(tmp_path):
    cholesky_graph(0).to_png(tmp_path / "empty.png")
    assert (tmp_path / "empty.png").read_bytes().startswith(b"\x89PNG")


def test_a_png_of_many_tasks_has_as_many_boxes_as_can_be_read(tmp_path):
    for name, graph in (("cholesky", cholesky_graph(28)), ("wide", wide(3000))):
        graph.to_png(tmp_path / f"{name}.png", layout="layered")
        drawn = outline(graph, "op", dag.LIMIT)
        place = layered(drawn.nodes, drawn.rows)
        with Image.open(tmp_path / f"{name}.png") as image:
            assert image.size[1] == pytest.approx(place.height * min(1, 8000 / place.height) + 90, abs=1)
        assert len(drawn.nodes) == {"cholesky": len(bands(layers(graph), kinds(graph)).keys), "wide": 2}[name] < 100
        assert sum(drawn.counts.values()) == len(graph)


def kinds(graph):
    names = list(dict.fromkeys(task.op.name for task in graph))
    return [names.index(task.op.name) for task in graph]


def wide(count):
    g = TaskGraph("wide")
    x, y = g.handles("x"), g.handle("y")
    for k in range(count):
        g.insert(Op("leaf"), RW(x[k]))
    g.insert(Op("sum"), *(R(x[k]) for k in range(count)), RW(y))
    return g


def test_a_png_of_an_unknown_layout_or_without_matplotlib_says_so(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="unknown layout 'circle'"):
        cholesky_graph(2).to_png(tmp_path / "x.png", layout="circle")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install .*\[plot\]'"):
        cholesky_graph(2).to_png(tmp_path / "x.png")


@pytest.mark.parametrize(
    "name", ["bell\x07", "nul\x00", "escape\x1b[31m", "c1\x85", "end\uffff", "half\ud800", "a$b$c^_{", "-->&<]]>"]
)
def test_a_picture_is_xml_whatever_things_are_called(name, tmp_path):
    g = tw.TaskGraph(name)
    g.insert(tw.Op(name), tw.W(g.handle(name)))
    svg = g.to_svg(tmp_path / "dag.svg", layout="layered")
    assert svg.count("\n") > 5
    run = tw.simulate(g)
    run.gantt(tmp_path / "gantt.svg")
    for file in ("dag.svg", "gantt.svg"):
        root = ET.parse(tmp_path / file).getroot()
        assert root.tag.endswith("svg")
    assert [e.get("data-op") for e in ET.parse(tmp_path / "dag.svg").iter() if e.get("data-op")] == [shown(name)]
    g.to_png(tmp_path / "dag.png", layout="layered")
    run.report(tmp_path / "run.html")
    assert str(run).isprintable() or not any(ord(c) < 32 and c != "\n" for c in str(run))


def test_edges_between_ranks_say_what_travels_and_are_dashed(tmp_path):
    """A broadcast of 100 numbers over four ranks, along a tree: three messages. A reduction inside one rank: none."""
    graph = tw.comm.broadcast(ranks=4, n=100)
    words = travels(graph)
    ranks = [task.on if task.on is not None else graph.layout.owner(task.writes[0]) for task in graph]
    between = {(p, t.index) for t in graph for p in t.predecessors if ranks[p] != ranks[t.index]}
    assert words.keys() == between and words
    text = graph.to_svg(layout="layered")
    for (p, t), (what, said) in words.items():
        assert said.endswith(f"rank {ranks[p]} to {ranks[t]}") and f"({100})" in said
        assert re.search(
            rf'class="edge( critical)? message" data-edge="t{p} t{t}" d="[^"]*"><title>{re.escape(said)}<', text
        )
        assert said.startswith(f"{what} (") and f">{what}</text>" in text
    assert text.count("<title>") == 1 + len(graph) + len(words)
    graph.to_png(tmp_path / "graph.png", layout="layered")
    assert travels(tw.cholesky_graph(3)) == {} and " message" not in tw.cholesky_graph(3).to_svg(layout="layered")


@pytest.mark.parametrize(
    ("points", "there"),
    [([(0, 0), (0, 2), (4, 2), (4, 4)], (2, 2)), ([(0, 0), (1, 1), (2, 2), (3, 3), (4, 4), (5, 5), (6, 6)], (3, 3))],
)
def test_the_words_of_an_edge_are_on_its_middle(points, there):
    assert middle(points) == there
