"""Objects that users share: from many threads at once, pickled, copied; or a sentence that says that they may not be."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from matrices import spd_matrix

import tilewright as tw
from tilewright.graph import Layout
from tilewright.schedulers import SCHEDULERS, policy

N = 24
A = spd_matrix(N)
SPARSE = sp.csr_array(np.where(np.abs(A) > np.median(np.abs(A)), A, 0) + N * np.eye(N))
SPARSE = sp.csr_array((SPARSE + SPARSE.T) / 2)
VECTORS = [np.random.default_rng(seed).standard_normal(N) for seed in range(40)]
WAYS = {"pickle": lambda x: pickle.loads(pickle.dumps(x)), "copy": copy.copy, "deepcopy": copy.deepcopy}
ways = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)


def together(call, arguments):
    with ThreadPoolExecutor(8) as threads:
        return list(threads.map(call, arguments))


def double(x):
    x *= 2


def two_by_two(i, j):
    return 10.0 * i + np.array([[0, 1], [2, 3]])


def doubling():
    g = tw.TaskGraph("doubling")
    x = g.handles("x")
    for i in range(4):
        g.insert(double, tw.RW(x[i]))
    return g


@pytest.fixture(scope="module")
def pool():
    with tw.mpi.Pool(2) as pool:
        yield pool


OPERATORS = {
    f"{kind.__name__} on {backend}": (kind, matrix, backend)
    for kind, matrix in ((tw.DenseOperator, A), (tw.SparseOperator, SPARSE))
    for backend in ("serial", "threads", "mpi")
}
operators = pytest.mark.parametrize(("kind", "matrix", "backend"), OPERATORS.values(), ids=OPERATORS)


class TestOperators:
    @operators
    def test_many_threads_get_each_their_own_product(self, kind, matrix, backend, pool):
        op = kind(matrix, ranks=2, backend=backend)
        turned = op.T
        count = len(VECTORS) if backend != "threads" else 12  # a run of a graph each
        wanted = [(op @ x, turned @ x, op @ x[:, None].astype("f")) for x in VECTORS[:count]]
        got = together(lambda x: (op @ x, turned @ x, op @ x[:, None].astype("f")), VECTORS[:count])
        assert all(np.array_equal(y, z) for one, other in zip(got, wanted, strict=True) for y, z in zip(one, other))  # noqa: B905
        assert np.allclose(wanted[0][0], matrix @ VECTORS[0])

    def test_iterations_in_threads_get_each_their_own_solution(self):
        op = tw.SparseOperator(SPARSE, ranks=2, backend="serial")
        wanted = [tw.cg(op, x)[0] for x in VECTORS[:8]]
        assert all(map(np.array_equal, together(lambda x: tw.cg(op, x)[0], VECTORS[:8]), wanted))
        dense = tw.DenseOperator(A, ranks=2, backend="serial")
        wanted = [dense.power_iteration(5, x)[0] for x in VECTORS[:8]]
        assert together(lambda x: dense.power_iteration(5, x)[0], VECTORS[:8]) == wanted

    @ways
    @operators
    def test_a_copy_is_an_operator_of_its_own_or_refused(self, kind, matrix, backend, way, pool):
        op = kind(matrix, ranks=2, backend=backend)
        for one, wanted in ((op, matrix), (op.T, matrix.T), (op.H, matrix.T)):
            if backend == "mpi":
                if one is not op and way is copy.copy:
                    assert way(one).operator is op  # another transpose of the same
                    continue
                with pytest.raises(TypeError, match="lies on MPI ranks can be neither pickled nor copied"):
                    way(one)
                continue
            other = way(one)
            assert type(other) is type(one) and np.array_equal(other @ VECTORS[0], one @ VECTORS[0])
            assert np.allclose(other @ VECTORS[0], wanted @ VECTORS[0])
        if backend != "mpi":
            other = way(op)
            op.close()
            assert np.allclose(other @ VECTORS[0], matrix @ VECTORS[0])

    @operators
    def test_the_end_of_a_with_block_closes(self, kind, matrix, backend, pool):
        with kind(matrix, ranks=2, backend=backend) as op:
            assert not op.closed and (op @ VECTORS[0]).shape == (N,)
        op.close()
        assert op.closed and op.ranks == 2 and op.shape == (N, N)
        for call in (lambda: op @ VECTORS[0], lambda: op.T @ VECTORS[0], op.__enter__):
            with pytest.raises(RuntimeError, match=rf"gone since close\(\); make this {kind.__name__} again"):
                call()
        repr(op)

    @operators
    def test_what_the_caller_changes_afterwards_changes_nothing(self, kind, matrix, backend, pool):
        mine = matrix.copy()
        op = kind(mine, ranks=2, backend=backend)
        x, wanted = VECTORS[0].copy(), op @ VECTORS[0]
        if kind is tw.SparseOperator:
            powers, (solution, _) = op.powers(x, 2), tw.cg(op, x)
            mine.data *= 100
            mine.indices[:] = 0
            assert np.array_equal(op.powers(x, 3)[:3], powers) and np.array_equal(tw.cg(op, x)[0], solution)
            assert np.array_equal(op.powers(x, 2, "two-stage"), powers)
        else:
            mine *= 100
        y = op @ x
        x *= 0
        assert np.array_equal(y, wanted) and np.array_equal(op @ VECTORS[0], wanted)
        assert np.array_equal(op @ VECTORS[0].astype("f"), op @ VECTORS[0].astype("f"))

    @pytest.mark.parametrize("form", ["csr", "csc", "coo", "bsr", "dia", "lil", "dok"])
    def test_a_snapshot_of_every_sparse_format(self, form):
        given = SPARSE.copy().asformat(form)
        op = tw.SparseOperator(given, ranks=2, backend="serial")
        if form in ("lil", "dok"):
            given[0, 0] = 99
        else:
            given.data[...] = 0
        assert np.allclose(op.powers(VECTORS[0], 2)[2], SPARSE @ (SPARSE @ VECTORS[0]))

    def test_a_partition_is_copied(self):
        mine = tw.comm.partition.by_rows(N, 2)
        op = tw.SparseOperator(SPARSE, ranks=2, partition=mine, backend="serial")
        mine.owner[:] = 0
        assert np.allclose(op.powers(VECTORS[0], 2)[2], SPARSE @ (SPARSE @ VECTORS[0]))


def one_rank(backend="serial"):
    graph = doubling()
    graph.layout = Layout(1, lambda handle: 0, lambda handle: (3,))
    handles = [tw.Handle("x", (i,)) for i in range(4)]
    return graph, handles, tw.Resident({}, ranks=1, owner=lambda handle: 0, backend=backend)


class TestResident:
    @ways
    def test_data_and_prepared_graphs_stay_where_they_are(self, way):
        graph, handles, resident = one_rank()
        with pytest.raises(TypeError, match="data that stays on ranks can be neither pickled nor copied"):
            way(resident)
        with pytest.raises(TypeError, match="a prepared graph can be neither pickled nor copied"):
            way(resident.prepare(graph, inputs=handles, outputs=handles))

    def test_threads_prepare_each_their_own_and_a_shared_one_is_refused(self):
        graph, handles, resident = one_rank()

        def call(value):
            step = resident.prepare(graph, inputs=handles, outputs=handles)
            step.inputs[handles[0]][...] = value
            step()
            return float(step.outputs[handles[0]][0])

        assert together(call, range(8)) == [2.0 * value for value in range(8)]
        shared = resident.prepare(graph, inputs=handles, outputs=handles)
        with (
            shared._alone(),
            pytest.raises(RuntimeError, match="running in another thread.*prepare the graph once for"),
        ):
            shared()
        shared()

    @pytest.mark.parametrize("backend", ["serial", "threads"])
    def test_data_is_a_snapshot(self, backend):
        def add(a, x):
            x += a

        g = tw.TaskGraph()
        a, x = g.handle("a"), g.handle("x")
        g.insert(add, tw.R(a), tw.RW(x))
        g.layout = Layout(1, lambda handle: 0, lambda handle: (2,))
        mine = np.ones(2)
        kept, used = (
            tw.Resident({a: mine}, ranks=1, owner=lambda handle: 0, backend=backend, copy=c) for c in (True, False)
        )
        mine[:] = 5
        for resident, wanted in ((kept, 1), (used, 5)):
            step = resident.prepare(g, inputs=[x], outputs=[x])
            step()
            assert step.outputs[x].tolist() == [wanted, wanted]


class TestPools:
    def test_threads_take_turns(self, pool):
        runs = together(
            lambda v: tw.run(
                doubling(), {"x": [np.full(2, v), *(np.ones(2) for _ in range(3))]}, backend="mpi", pool=pool
            ),
            [1.0, 2.0, 3.0, 4.0],
        )
        assert [run.store[tw.Handle("x", (0,))][0] for run in runs] == [2, 4, 6, 8]

    @ways
    def test_a_pool_is_one_of_a_kind(self, pool, way):
        with pytest.raises(TypeError, match="a Pool is processes and can be neither pickled nor copied"):
            way(pool)


class TestGraphsRunsAndTheRest:
    def test_one_graph_runs_in_many_threads(self):
        g = doubling()
        runs = together(lambda v: tw.run(g, {"x": [np.full(2, v) for _ in range(4)]}, workers=2), range(1, 9))
        assert [run.store[tw.Handle("x", (3,))][0] for run in runs] == [2 * v for v in range(1, 9)]

    @ways
    @pytest.mark.parametrize("make", [doubling, lambda: tw.cholesky_graph(3), lambda: tw.comm.allreduce(3, 4)])
    def test_a_copy_of_a_graph_has_its_tasks(self, make, way):
        g = make()
        other = way(g)
        assert other is not g and [repr(t) for t in other] == [repr(t) for t in g] and other.name == g.name
        assert [t.predecessors for t in other] == [t.predecessors for t in g] and other.temporary == g.temporary
        assert other.temporary is not g.temporary

    @ways
    def test_a_copy_of_a_run_says_the_same(self, way):
        run = tw.run(doubling(), {"x": [np.ones(2) for _ in range(4)]}, backend="serial")
        other = way(run)
        assert other.makespan == run.makespan and other.backend == "serial" and len(other.graph) == 4
        assert np.array_equal(other.store[tw.Handle("x", (1,))], [2, 2]) and str(other) == str(run)

    @ways
    @pytest.mark.parametrize("name", SCHEDULERS)
    def test_a_copy_of_a_policy_schedules_and_both_do_at_once(self, name, way):
        mine = policy(name)
        other = way(mine)
        assert type(other) is type(mine)

        def call(which):
            g = tw.cholesky_graph(3)
            machine = tw.Machine(workers=2)
            return tw.simulate(g, machine, scheduler=which).makespan

        first, second = together(call, [mine, other])
        assert first == second == call(policy(name)) == call(way(mine))  # also of one that has been used

    def test_a_policy_that_is_in_a_run_is_refused_in_another(self):
        mine = policy("critical-path")
        g = tw.TaskGraph()
        caught = []

        def nested(x):
            try:
                tw.run(doubling(), {"x": [np.ones(1) for _ in range(4)]}, scheduler=mine)
            except Exception as error:
                caught.append(error)

        g.insert(nested, tw.RW(g.handle("x")))
        tw.run(g, {"x": np.ones(1)}, scheduler=mine)
        assert len(caught) == 1 and isinstance(caught[0], tw.SchedulerError | RuntimeError | ValueError)

    @ways
    @pytest.mark.parametrize(
        "thing",
        [
            tw.Machine(workers=2, durations={"gemm": {256: 1.0}}, acceleration={"gemm": 9.0}),
            tw.PrecisionMap.band(4, {0: "fp64", 2: "bf16"}),
            tw.BlockCyclic(2, 3),
            tw.SymmetricBlockCyclic(3),
            tw.RowBlocks(2, 8),
            tw.Handle("A", (1, 2)),
            tw.FORMATS["bf16"],
        ],
        ids=lambda thing: type(thing).__name__,
    )
    def test_values_are_equal_to_their_copies(self, thing, way):
        assert way(thing) == thing and repr(way(thing)) == repr(thing)

    @ways
    def test_a_copy_of_a_tiled_matrix_is_the_same_matrix(self, way):
        for tiled in (tw.TiledMatrix.from_numpy(A, 5), tw.TiledMatrix.view(A, 5), tw.TiledMatrix.from_numpy(A, 5).T):
            other = way(tiled)
            assert np.array_equal(np.asarray(other), np.asarray(tiled)) and repr(other) == repr(tiled)
            shared = np.shares_memory(other[0, 0], tiled[0, 0])
            assert shared == (way is copy.copy)

    @ways
    def test_a_matrix_of_a_function_and_its_transpose_are_copied_with_the_function(self, way):
        for made in (tw.TileFunction(np.full, (4, 4), 2), tw.TileFunction(np.full, (4, 4), 2).T):
            other = way(made)
            assert (type(other), other.shape, other.name, other.tile_size) == (type(made), (4, 4), made.name, 2)
        tile = np.empty((2, 2))
        way(tw.TileFunction(two_by_two, (4, 2), 2).T).read([(0, 2)], [tile])
        assert tile.tolist() == [[10, 12], [11, 13]]

    @ways
    def test_a_plan_of_messages_sends_the_same_after_a_copy(self, way):
        graph = tw.cholesky_graph(nt=4)
        for options in ({}, {"start": 0, "collect": [1]}, {"broadcast": "chain"}, {"places": [0, 1] * 10}):
            plan = tw.MessagePlan(graph, 2, tw.BlockCyclic(2, 1), **options)
            other = way(plan)
            assert (other.messages, other.places, other.source) == (plan.messages, plan.places, plan.source)

    def test_tiles_are_read_and_written_by_many_threads(self):
        tiled = tw.TiledMatrix.from_numpy(np.zeros((32, 32)), 4)
        together(lambda place: tiled.__setitem__(place, sum(place)), list(tiled))
        assert all((tiled[i, j] == i + j).all() for i, j in tiled)

    def test_a_prepared_graph_in_a_thread_each(self):
        def call(value):
            x = [np.full(1, value) for _ in range(4)]
            again = tw.prepare(doubling(), {"x": x}, backend="serial")
            again()
            again()
            return float(x[2][0])

        assert together(call, [1.0, 2.0, 3.0]) == [4, 8, 12]

    def test_machines_and_maps_keep_what_they_were_made_of(self):
        table = {"gemm": {256: 1.0}}
        machine = tw.Machine(durations=table, acceleration=(faster := {"gemm": 2.0}))
        names = np.full((2, 2), "fp32", dtype=object)
        formats = tw.PrecisionMap(names)
        table["gemm"][256], faster["gemm"], names[1, 0] = 7.0, 9.0, "fp64"
        table["potrf"] = 3.0
        assert machine.durations == {"gemm": {256: 1.0}} and machine.acceleration == {"gemm": 2.0}
        assert formats.counts() == {"fp32": 3}

    def test_tables_of_a_machine_cannot_be_changed_in_it(self):
        """Also in copies of it, and what is made of them is a plain dict."""
        machine = tw.Machine(durations={"gemm": 1.0, "potrf": {64: 0.5}}, acceleration={"gemm": 2.0})
        for same in (machine, *(copies(machine) for copies in WAYS.values()), replace(machine, workers=2)):
            assert same.durations == machine.durations and same.acceleration == {"gemm": 2.0}
            for table in (same.durations, same.acceleration, same.durations["potrf"]):
                for change in (
                    lambda t: t.__setitem__("gemm", -1.0), lambda t: t.update(gemm=-1.0), lambda t: t.clear(),
                    lambda t: t.pop("gemm"), lambda t: t.setdefault("trsm", 1.0), lambda t: t.__delitem__("gemm"),
                    lambda t: t.popitem(), lambda t: t.__ior__({"gemm": -1.0}),
                ):  # fmt: skip
                    with pytest.raises(TypeError, match="tables of a Machine cannot be changed; dataclasses.replace"):
                        change(table)
        mine = dict(machine.durations)
        mine["gemm"] = 3.0
        assert replace(machine, durations=mine).durations["gemm"] == 3.0 and machine.durations["gemm"] == 1.0

    def test_a_plan_keeps_the_owners_it_was_made_with(self):
        g = doubling()
        owner = {"x": 0}
        plan = tw.MessagePlan(g, 2, owner)
        owner["x"] = 1
        assert plan.places == [0, 0, 0, 0] and plan.owner(tw.Handle("x", (3,))) == 0

    @pytest.mark.parametrize(
        ("mine", "spoil"),
        [
            (np.ones(2), lambda a: a.fill(7)),
            (torch.ones(2), lambda a: a.fill_(7)),
            (sp.csr_array([[1.0, 1.0]]), lambda a: a.data.fill(7)),
            (tw.TiledMatrix.from_numpy(np.eye(2), 1), lambda a: a[0, 0].fill(7)),
            ([1, 1], lambda a: a.append(7)),
            ({1, 3}, lambda a: a.add(7)),
            ({"a": [np.ones(2)]}, lambda a: a["a"][0].fill(7)),
            ((1, [np.ones(2)]), lambda a: a[1].clear()),
        ],
        ids=lambda thing: type(thing).__name__,
    )
    def test_a_graph_keeps_what_it_was_given_as_parameters(self, mine, spoil):
        def note(x, by):
            x[...] = len(
                repr(np.asarray(by) if isinstance(by, tw.TiledMatrix) else by.sum() if sp.issparse(by) else by)
            )

        g = tw.TaskGraph()
        g.insert(note, tw.RW(g.handle("x")), mine)
        before = tw.run(g, {"x": np.zeros(1)}, backend="serial")["x"].tolist()
        shown = (
            repr(np.asarray(g.tasks[0].params[0])) if isinstance(mine, tw.TiledMatrix) else repr(g.tasks[0].params[0])
        )
        spoil(mine)
        assert tw.run(g, {"x": np.zeros(1)}, backend="threads")["x"].tolist() == before
        own = g.tasks[0].params[0]
        assert (repr(np.asarray(own)) if isinstance(mine, tw.TiledMatrix) else repr(own)) == shown

    def test_an_object_of_another_kind_and_numbers_are_parameters_as_they_are(self):
        thing, pair = object(), (1, "a")
        g = tw.TaskGraph()
        task = g.insert(double, tw.RW(g.handle("x")), thing, pair)
        assert task.params[0] is thing and task.params[1] is pair
