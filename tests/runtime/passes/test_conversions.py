"""Conversions as tasks."""

import numpy as np
import pytest
from matrices import spd_matrix

import tilewright as tw
from tilewright.distribution import owners
from tilewright.errors import MissingDataError
from tilewright.graph import Layout
from tilewright.kernels.narrow import widened
from tilewright.ops import gemm
from tilewright.passes.conversions import copy_outline, with_conversions
from tilewright.precision import PrecisionMap

ROUTES = {"bfloat16": "reference", "float16": "reference", "bfloat16x2": "reference"}.__getitem__


def converted(nt, precision):
    pm = precision if isinstance(precision, PrecisionMap) else PrecisionMap.uniform(nt, precision)
    return with_conversions(tw.cholesky_graph(nt), pm, ROUTES)


def labels(graph, op):
    return [task.label for task in graph if task.op.name == op]


def test_high_precision_needs_no_conversion():
    for precision in ("fp64", "fp32"):
        g = converted(5, precision)
        assert [task.label for task in g] == [task.label for task in tw.cholesky_graph(5)]
        assert not g.temporary


@pytest.mark.parametrize(
    ("precision", "op", "family"),
    [
        ("bf16", "convert", "A:bfloat16"),
        ("fp16", "convert", "A:float16"),
        ("bf16x3", "split", "A:bfloat16x2"),
        ("tf32", "tf32", "A:tf32"),
    ],
)
def test_every_panel_tile_is_converted_once(precision, op, family):
    g = converted(5, precision)
    assert sorted(labels(g, op)) == sorted(f"{op}({i},{k})" for i in range(5) for k in range(i))
    assert g.temporary == {family}
    read_by_products = {u.handle.name for t in g if t.op.name in ("gemm", "syrk") for u in t.uses[:-1]}
    assert read_by_products == {family}


def test_copy_is_made_after_the_tile_is_final_and_before_its_readers():
    g = converted(4, "bf16")
    convert = g.task("convert(2,1)")
    assert [t.label for t in g.predecessors(convert)] == ["trsm(2,1)"]
    assert {t.label for t in g.successors(convert)} == {"syrk(2,1)", "gemm(3,2,1)"}


def test_simulated_and_saved_runs_have_nothing_to_count(tmp_path):
    from tilewright.runs.saved import load

    simulated = tw.simulate(converted(4, "bf16"), tw.Machine(workers=2))
    assert simulated.conversions is None and "convert" in str(simulated)
    run = tw.tiled_cholesky(spd_matrix(40), precision="bf16", tile_size=10, route="reference", return_run=True)[1]
    run.save(tmp_path / "run.json")
    assert load(tmp_path / "run.json").conversions is None
    assert run.conversions.count == 6


@pytest.mark.parametrize(
    ("form", "shape"), [("bfloat16", (20, 20)), ("float16", (20, 20)), ("bfloat16x2", (3, 20, 20))]
)
def test_what_is_widened_is_made_of_the_narrow_copy_by_a_task(form, shape):
    precision = {"bfloat16": "bf16", "float16": "fp16", "bfloat16x2": "bf16x3"}[form]
    g = with_conversions(tw.cholesky_graph(4), precision, lambda form: "widen")
    wide = f"A:{form}:wide"
    assert g.temporary == {f"A:{form}", wide}
    assert {u.handle.name for t in g if t.op.name in ("gemm", "syrk") for u in t.uses[:-1]} == {wide}
    made = [t for t in g if t.uses[-1].handle.name == wide]
    assert sorted(t.label for t in made) == sorted(f"convert({i},{k})" for i in range(4) for k in range(i))
    assert {t.uses[0].handle.name for t in made} == {f"A:{form}"}
    assert copy_outline(made[0].uses[-1].handle, (20, 20)) == (shape, "float32")
    inside = with_conversions(tw.cholesky_graph(4), precision, lambda form: "widen", wide=False)
    assert inside.temporary == {f"A:{form}"}
    assert {t.op.source for t in inside if t.op.name == "gemm"} == {f"{form}/widen"}


def test_a_new_version_gets_a_new_copy():
    g = tw.TaskGraph()
    A = g.handles("A")
    from tilewright.ops import trsm

    g.insert(gemm, tw.R(A[1, 0]), tw.R(A[1, 0]), tw.RW(A[1, 1]))
    g.insert(trsm, tw.R(A[0, 0]), tw.RW(A[1, 0]))
    g.insert(gemm, tw.R(A[1, 0]), tw.R(A[1, 0]), tw.RW(A[1, 1]))
    found = with_conversions(g, PrecisionMap.uniform(2, "bf16"), ROUTES)
    assert [t.op.name for t in found] == ["convert", "gemm", "trsm", "convert", "gemm"]


def test_each_reader_gets_the_form_of_the_tile_it_writes():
    g = converted(3, PrecisionMap([["fp64", 0, 0], ["fp32", "fp64", 0], ["bf16", "bf16", "fp64"]]))
    forms = {t.label: [u.handle.name for u in t.uses] for t in g if t.op.name not in ("convert",)}
    assert forms["trsm(1,0)"] == ["A:float32", "A"]  # L_00 is FP64, A_10 FP32
    assert forms["syrk(1,0)"] == ["A:float64", "A"]
    assert forms["gemm(2,1,0)"] == ["A:bfloat16", "A:bfloat16", "A"]


@pytest.mark.needs("mpi4py")
@pytest.mark.parametrize("route", ["widen", "reference"])
@pytest.mark.parametrize(("precision", "share"), [("bf16", 0.5), ("fp16", 0.5), ("bf16x3", 1.0)])
def test_messages_carry_the_narrow_copy(precision, share, route):
    """Against FP32: the panel travels in half the bytes; what trsm needs, the diagonal, stays FP32."""
    n, nb, nt = 160, 20, 8
    a = spd_matrix(n)
    tile = nb * nb * 4
    sent = {}
    for name in ("fp32", precision):
        run = tw.tiled_cholesky(
            a,
            precision=name,
            tile_size=nb,
            backend="mpi",
            workers=2,
            grid=(2, 1),
            return_run=True,
            route=route if name != "fp32" else None,
        )[1]
        panel = [
            m for m in run.trace.messages if m.handle.name.startswith("A") and m.handle.index[0] != m.handle.index[1]
        ]
        sent[name] = sum(m.nbytes for m in panel), {m.handle.name for m in panel}, len(panel)
        diagonal = [m for m in run.trace.messages if m.handle.name == "A" and m.handle.index[0] == m.handle.index[1]]
        assert {m.nbytes for m in diagonal} == {tile}
        assert len(diagonal) == nt - 1
    assert sent[precision][2] == sent["fp32"][2]
    assert sent[precision][0] == share * sent["fp32"][0]
    assert sent["fp32"][1] == {"A"}
    assert len(sent[precision][1]) == 1 and ":" in min(sent[precision][1])
    assert run.conversions.sent_saved == (1 - share) * sent["fp32"][0]
    assert ("less to send" in str(run)) == (share < 1)
    assert not np.isnan(run.makespan)


# ------------------------------------------------------------------ an algorithm of one's own


def add_product(a, b, c):
    """C := C + A B with operands in any form, sums in the dtype of C."""
    c += widened(a) @ widened(b)


multiply = tw.Op("multiply", add_product, operands="storage", in_place=True)


def product(op, m, n, k, *, transposed=False):
    """C_ij := C_ij + A_ik B_kj on m x k and k x n tiles; with B^T in the place of B for our gemm."""
    g = tw.TaskGraph("product")
    A, B, C = map(g.handles, "ABC")
    for i in range(m):
        for j in range(n):
            for t in range(k):
                g.insert(op, tw.R(A[i, t]), tw.R(B[(j, t) if transposed else (t, j)]), tw.RW(C[i, j]))
    return g


def rounded(x, name):
    """What products in this format see of FP32 numbers."""
    return tw.FORMATS[name].round(np.asarray(x, np.float64)).astype(np.float32)


def operands(m, n, k, nb):
    random = np.random.default_rng(1)
    return [random.standard_normal(shape).astype(np.float32) for shape in ((m * nb, k * nb), (k * nb, n * nb))]


def tiles(nb, **arrays):
    return {name: tw.TiledMatrix.view(array, nb) for name, array in arrays.items()}


@pytest.mark.parametrize("backend", ["serial", "threads", "mpi"])
@pytest.mark.parametrize("precision", ["bf16", "fp16", "fp32"])
def test_a_function_as_a_product_gets_narrow_operands_and_sums_in_fp32(precision, backend):
    m, n, k, nb = 3, 2, 2, 8
    a, b = operands(m, n, k, nb)
    c = np.ones((m * nb, n * nb), np.float32)
    expected = c.copy()
    for t in range(k):  # the loop's order of sums, with the bits of every tile
        for i in range(m):
            for j in range(n):
                rows, inner, columns = (slice(p * nb, (p + 1) * nb) for p in (i, t, j))
                expected[rows, columns] += rounded(a[rows, inner], precision) @ rounded(b[inner, columns], precision)
    g = with_conversions(product(multiply, m, n, k), precision)
    run = tw.run(g, tiles(nb, A=a, B=b, C=c), backend=backend, workers=2)
    assert np.array_equal(c, expected)
    if precision == "fp32":
        assert run.conversions is None
        return
    found = run.conversions
    assert (found.count, found.reads) == (m * k + k * n, 2 * m * n * k)  # once per tile, whoever reads it
    assert (found.bytes, found.saved) == (2 * nb * nb * found.count, 2 * nb * nb * found.reads)
    if backend == "mpi":
        assert run.messages and {message.nbytes for message in run.trace.messages} == {2 * nb * nb}
        assert found.sent_saved == run.bytes


@pytest.mark.parametrize("precision", ["bf16", "bf16x3", "tf32", "fp32"])
def test_our_gemm_on_three_matrices_takes_the_route_of_the_format(precision):
    m, n, k, nb = 2, 3, 2, 8
    a, b = operands(m, n, k, nb)
    c = np.zeros((m * nb, n * nb), np.float32)
    g = with_conversions(product(gemm, m, n, k, transposed=True), precision, lambda form: "reference")
    tw.run(g, tiles(nb, A=a, B=np.ascontiguousarray(b.T), C=c), workers=2)
    exact = -(a.astype(np.float64) @ b)
    u = tw.FORMATS[precision].u
    bound = 3 * max(u, 2**-24 * k * nb) * (np.abs(a).astype(np.float64) @ np.abs(b))
    assert (np.abs(c - exact) <= bound).all()
    assert u <= 2**-16 or not (np.abs(c - exact) <= bound * 2**-6).all(), "the operands were rounded"
    form = {"bf16": "bfloat16", "bf16x3": "bfloat16x2"}.get(precision)
    assert {task.op.source for task in g if task.op.name == "gemm"} == {f"{form}/reference" if form else ""}


def test_formats_by_matrix_read_each_tile_in_the_form_of_what_is_written():
    """x is FP64 and goes into C in BF16 and into D in FP32; y has no format and stays as it is."""
    g = tw.TaskGraph()
    x, y, C, D = map(g.handles, ("x", "y", "C", "D"))
    g.insert(multiply, tw.R(x[0]), tw.R(y[0]), tw.RW(C[0]))
    g.insert(multiply, tw.R(x[0]), tw.R(y[0]), tw.RW(D[0]))
    g.insert(multiply, tw.R(x[0]), tw.R(y[0]), tw.RW(y[1]))
    found = with_conversions(g, {"x": "fp64", "C": "bf16", "D": "fp32"})
    uses = [[str(use) for use in task.uses] for task in found]
    assert uses == [
        ["R(x[0])", "W(x:float32[0])"], ["R(x:float32[0])", "W(x:bfloat16[0])"],
        ["R(x:bfloat16[0])", "R(y[0])", "RW(C[0])"], ["R(x:float32[0])", "R(y[0])", "RW(D[0])"],
        ["R(x[0])", "R(y[0])", "RW(y[1])"],
    ]  # fmt: skip


def test_a_copy_is_where_its_tile_is_also_with_owners_by_name():
    owner = owners({"A": 1, "B": 0, "B:float16": 1}, 2)
    handles = [tw.Handle(name, (0, 0)) for name in ("A", "A:bfloat16", "B:bfloat16", "B:float16")]
    assert list(map(owner, handles)) == [1, 1, 0, 1]


def test_the_pass_keeps_what_the_graph_says_and_changes_nothing_the_second_time():
    g = product(multiply, 2, 2, 2)
    g.temporary.add("C")
    g.layout = Layout(2, lambda handle: {"A": 1, "B": 0, "C": 0}[handle.name], lambda handle: (4, 6))
    once = with_conversions(g, "bf16x3")
    assert once.temporary == {"A:bfloat16x2", "B:bfloat16x2", "C"} and g.temporary == {"C"}
    A, copy = tw.Handle("A", (0, 1)), tw.Handle("A:bfloat16x2", (0, 1))
    assert (once.layout.owner(copy), once.layout.shape(copy), once.layout.shape(A)) == (1, (2, 4, 6), (4, 6))
    twice = with_conversions(once, "bf16x3")
    assert [(task.label, task.uses) for task in twice] == [(task.label, task.uses) for task in once]


def test_wrong_formats_and_missing_tiles_are_refused_with_what_to_do():
    g = product(multiply, 1, 1, 1)
    with pytest.raises(ValueError, match="unknown precision 'int8'; known: fp64"):
        with_conversions(g, {"C": "int8"})
    with pytest.raises(ValueError, match="operands of f are 'storage', 'accumulate' or '', not 'bf16'"):
        tw.Op("f", add_product, operands="bf16")
    found = with_conversions(g, "bf16")
    with pytest.raises(MissingDataError, match=r"no array for A\[0,0\], so nobody knows how large the rooms are"):
        tw.run(found, {"B": np.ones((1, 1, 8, 8)), "C": np.ones((1, 1, 8, 8))}, workers=1)
