"""Handles, tasks and the edges that program order implies."""

import copy
import inspect
import pickle
import tracemalloc
from functools import partial

import networkx
import numpy as np
import pytest
from hypothesis import given
from strategies import programs

import tilewright as tw
from tilewright import RW, Access, CriticalPath, Handle, Op, R, TaskGraph, W, cholesky_graph
from tilewright.builder import graph_builder


def noop(*buffers):
    return None


def edges_of(*tasks_uses):
    """Predecessors of each task of a graph with one task per tuple of accesses."""
    g = TaskGraph()
    for uses in tasks_uses:
        g.insert(noop, *uses)
    return [task.predecessors for task in g]


x, y, z = Handle("x"), Handle("y"), Handle("z")


class TestRules:
    """One test for each sentence of the module's docstring, and for what they leave out."""

    def test_read_waits_for_the_last_write(self):
        assert edges_of([W(x)], [RW(x)], [R(x)]) == [(), (0,), (1,)]

    def test_write_waits_for_every_reader_since_last_write(self):
        assert edges_of([W(x)], [R(x)], [R(x)], [W(x)])[3] == (1, 2)

    def test_write_does_not_wait_for_readers_before_the_last_write(self):
        assert edges_of([R(x)], [W(x)], [R(x)], [W(x)])[3] == (2,)

    def test_write_waits_for_the_last_write_if_nobody_read_since(self):
        assert edges_of([W(x)], [W(x)]) == [(), (0,)]

    def test_write_after_readers_needs_no_edge_to_the_write_before_them(self):
        assert edges_of([W(x)], [R(x)], [W(x)])[2] == (1,)

    def test_two_reads_do_not_order(self):
        assert edges_of([R(x)], [R(x)]) == [(), ()]

    def test_two_readers_of_one_write_do_not_order(self):
        assert edges_of([W(x)], [R(x)], [R(x)]) == [(), (0,), (0,)]

    def test_rw_orders_as_a_read_and_as_a_write(self):
        assert edges_of([RW(x)], [RW(x)], [R(x)], [RW(x)]) == [(), (0,), (1,), (2,)]

    def test_different_handles_do_not_order(self):
        assert edges_of([RW(x)], [RW(y)], [R(z)]) == [(), (), ()]

    def test_first_write_waits_for_reads_of_the_initial_value(self):
        assert edges_of([R(x)], [R(x)], [W(x)])[2] == (0, 1)

    def test_edges_of_several_handles_join_and_are_ascending(self):
        assert edges_of([W(y)], [W(x)], [R(x), RW(y)]) == [(), (), (0, 1)]

    @pytest.mark.parametrize("uses", [[R(x), RW(x)], [RW(x), R(x)], [W(x), W(x)], [R(x), W(x)]])
    def test_a_task_never_waits_for_itself(self, uses):
        assert edges_of([W(x)], uses, [R(x)]) == [(), (0,), (1,)]

    def test_equal_handles_are_one_handle_whoever_made_them(self):
        g = TaskGraph()
        g.insert(noop, W(g.handle("x")))
        g.insert(noop, R(Handle("x")))
        assert g.tasks[1].predecessors == (0,)

    def test_members_of_a_family_are_different_handles(self):
        A = TaskGraph().handles("A")
        assert edges_of([W(A[0, 1])], [W(A[1, 0])], [R(A[0, 1])]) == [(), (), (0,)]
        assert A[3] == Handle("A", (3,))

    @given(programs)
    def test_edges_are_those_of_comparing_every_pair_of_tasks(self, program):
        """The table gives the transitive closure of all conflicts: two accesses, one of them a write."""
        g = program.graph()
        conflicts = networkx.DiGraph()
        conflicts.add_nodes_from(range(len(g)))
        for later in g:
            for earlier in g.tasks[: later.index]:
                if set(earlier.writes) & {u.handle for u in later.uses} or set(earlier.reads) & set(later.writes):
                    conflicts.add_edge(earlier.index, later.index)
        ours = networkx.transitive_closure_dag(g.to_networkx())
        assert set(ours.edges) == set(networkx.transitive_closure_dag(conflicts).edges)


class TestInsert:
    def test_parameters_follow_the_accesses(self):
        g = TaskGraph()
        task = g.insert(noop, R(x), RW(y), 3.0, "p", on=2, priority=5)
        assert (task.params, task.on, task.priority) == ((3.0, "p"), 2, 5)
        assert (task.reads, task.writes) == ((x, y), (y,))
        assert [use.access for use in task.uses] == [Access.READ, Access.RW]

    def test_access_after_a_parameter_is_an_error_that_names_it(self):
        with pytest.raises(TypeError, match=r"noop: RW\(y\) is misplaced.*before the parameters"):
            TaskGraph().insert(noop, R(x), 3.0, RW(y))

    def test_bare_handle_is_an_error_that_says_how_to_wrap_it(self):
        with pytest.raises(TypeError, match="noop: x is misplaced; wrap handles in R, W or RW"):
            TaskGraph().insert(noop, x)

    def test_op_must_be_callable(self):
        with pytest.raises(TypeError, match="needs an Op or a function first, not 3"):
            TaskGraph().insert(3, R(x))

    @pytest.mark.parametrize("access", [R, W, RW])
    def test_access_of_something_else_is_an_error(self, access):
        with pytest.raises(TypeError, match=r"take a handle, not 'x'; make one with graph\.handle\(name\)"):
            access("x")

    def test_a_family_is_not_a_handle_and_says_how_to_get_one(self):
        with pytest.raises(TypeError, match=r"take one handle of A\[\.\.\.\]; give its index, such as A\[0, 0\]"):
            R(TaskGraph().handles("A"))

    @pytest.mark.parametrize("index", [1.5, slice(2), (slice(0, 2), 0)], ids=["float", "slice", "pair"])
    def test_indices_that_name_no_single_handle_are_an_error(self, index):
        with pytest.raises(TypeError, match=r"A\[\.\.\.\] names one handle at a time by integers, not"):
            TaskGraph().handles("A")[index]

    @pytest.mark.parametrize("make", ["handle", "handles"])
    def test_a_name_is_a_string(self, make):
        with pytest.raises(TypeError, match="a handle's name is a string, not 3"):
            getattr(TaskGraph(), make)(3)

    def test_costs_are_as_many_as_tasks(self):
        with pytest.raises(ValueError, match=r"3 costs for the 4 tasks of TaskGraph\('cholesky nt=2', 4 tasks\)"):
            cholesky_graph(2).critical_path(cost=[1.0, 2.0, 3.0])

    def test_refused_insert_leaves_the_graph_as_it_was(self):
        g = TaskGraph()
        g.insert(noop, W(x))
        with pytest.raises(TypeError):
            g.insert(noop, W(x), 1, R(y))
        g.insert(noop, R(x))
        assert [task.predecessors for task in g] == [(), (0,)]
        assert list(g.handles_used) == [x]

    def test_one_function_is_one_op(self):
        g = TaskGraph()
        assert g.insert(noop, R(x)).op is g.insert(noop, R(y)).op

    def test_frozen_graph_takes_no_more_tasks(self):
        g = TaskGraph("mine")
        g.frozen = True
        with pytest.raises(RuntimeError, match="graph 'mine' has run and is frozen"):
            g.insert(noop, R(x))

    def test_inputs_are_the_handles_read_before_any_write(self):
        g = TaskGraph()
        g.insert(noop, R(x), W(y))
        g.insert(noop, R(y), RW(z))
        assert list(g.inputs) == [x, z]
        assert list(g.written) == [y, z]
        assert list(g.handles_used) == [x, y, z]

    def test_two_hundred_thousand_tasks_take_a_few_hundred_megabytes(self):
        tracemalloc.start()
        try:
            g = cholesky_graph(nt=40)
            size, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert len(g) == 11_480
        assert size / len(g) * 200_000 < 300e6


class TestLabels:
    def test_indexed_handle_gives_the_index(self):
        g = TaskGraph()
        A = g.handles("A")
        assert g.insert(noop, R(A[0, 0]), RW(A[3, 1])).label == "noop(3,1)"

    def test_plain_handles_give_the_names_of_all_written(self):
        assert TaskGraph().insert(noop, R(x), RW(y), W(z)).label == "noop(y,z)"

    def test_op_may_choose_its_indices(self):
        op = Op("sum", noop, indices=lambda uses: tuple(use.handle for use in uses))
        assert repr(TaskGraph().insert(op, R(x), RW(y))) == "sum(x,y)"

    def test_handles_and_accesses_print_as_written(self):
        A = TaskGraph().handles("A")
        assert [str(RW(A[3, 1])), str(R(x)), repr(A), repr(A[2])] == ["RW(A[3,1])", "R(x)", "A[...]", "A[2]"]

    def test_task_finds_by_label(self):
        g = cholesky_graph(nt=4)
        assert g.task("gemm(3,1,0)") is g.task("gemm(3, 1, 0)")
        assert g.task("gemm(3,1,0)").label == "gemm(3,1,0)"
        with pytest.raises(KeyError, match=r"no task 'gemm\(9,9,9\)'.*20 tasks"):
            g.task("gemm(9,9,9)")

    def test_callable_object_is_named_by_its_class(self):
        class Doubler:
            def __call__(self, buffer):
                buffer *= 2

        assert TaskGraph().insert(Doubler(), RW(x)).label == "Doubler(x)"


class TestMeasures:
    def test_successors_mirror_predecessors(self):
        g = cholesky_graph(nt=5)
        for task in g:
            assert all(task in g.successors(p) for p in g.predecessors(task))
        assert sum(len(g.successors(task)) for task in g) == g.edges

    def test_successors_follow_a_growing_graph(self):
        g = TaskGraph()
        first = g.insert(noop, W(x))
        assert g.successors(first) == []
        second = g.insert(noop, R(x))
        assert g.successors(first) == [second]

    def test_diamond_has_the_longer_side_as_its_critical_path(self):
        r"""
            a(1)
           /    \
        b(2)    c(5)
           \    /
            d(1)
        """
        g = TaskGraph()
        cost = [1, 2, 5, 1]
        g.insert(noop, W(x))
        g.insert(noop, R(x), W(y))
        g.insert(noop, R(x), W(z))
        g.insert(noop, R(y), R(z), RW(x))
        path = g.critical_path(cost)
        assert ([task.index for task in path.tasks], path.length, len(path)) == ([0, 2, 3], 7.0, 3)
        assert g.bottom_levels(cost) == [7, 3, 6, 1]
        assert g.work(cost) == 9
        assert str(path) == "noop(x) -> noop(z) -> noop(x)  (length 7)"

    def test_ties_on_the_critical_path_go_to_the_smaller_index(self):
        g = TaskGraph()
        for handle in (x, y, z):
            g.insert(noop, W(handle))
        assert g.critical_path().tasks == (g.tasks[0],)

    def test_empty_graph_has_an_empty_path(self):
        g = TaskGraph()
        assert g.critical_path() == CriticalPath((), 0.0)
        assert (g.work(), g.bottom_levels(), g.edges, len(g)) == (0, [], 0, 0)

    @given(programs)
    def test_networkx_agrees_on_acyclicity_and_the_longest_path(self, program):
        g = program.graph()
        oracle = g.to_networkx()
        assert networkx.is_directed_acyclic_graph(oracle)
        assert (oracle.number_of_nodes(), oracle.number_of_edges()) == (len(g), g.edges)
        path = g.critical_path(cost=lambda task: 1)
        longest = networkx.dag_longest_path_length(oracle) + 1 if len(g) else 0
        assert path.length == len(path) == longest
        for earlier, later in zip(path.tasks, path.tasks[1:], strict=False):
            assert oracle.has_edge(earlier.index, later.index)

    def test_networkx_graph_carries_label_op_and_weight(self):
        nodes = cholesky_graph(nt=2).to_networkx().nodes
        assert nodes[1] == {"label": "trsm(1,0)", "op": "trsm", "weight": 3}


class Times:
    """Equal to each other, as some callables are, and so without a hash."""

    def __init__(self, factor):
        self.factor = factor

    def __eq__(self, other):
        return isinstance(other, Times)

    def __call__(self, x):
        x *= self.factor

    def method(self, x):
        x += self.factor


def test_callables_that_are_equal_are_not_the_same_op():
    g = tw.TaskGraph()
    x = g.handle("x")
    two, five = Times(2), Times(5)
    for function in (two, five, two.method, five.method, two.method):
        g.insert(function, tw.RW(x))
    assert tw.run(g, {"x": np.ones(1)}, backend="serial")["x"].tolist() == [10 + 2 + 5 + 2]
    ops = [task.op for task in g]
    assert ops[2] is ops[4]
    assert len(set(map(id, ops))) == 4


async def coroutine(x): ...


def generator(x):
    yield x


async def both(x):
    yield x


class Waits:
    async def __call__(self, x): ...


@pytest.mark.parametrize(
    "function", [coroutine, generator, both, partial(coroutine), partial(partial(generator), 1), Waits()]
)
def test_what_is_not_called_for_its_result_is_refused(function):
    g = tw.TaskGraph()
    with pytest.raises(TypeError, match=r"is a (coroutine|generator) function"):
        g.insert(function, tw.RW(g.handle("x")))
    with pytest.raises(TypeError, match=r"wait is a (coroutine|generator) function"):
        tw.Op("wait", function)


def test_an_op_is_a_name_and_something_to_call():
    with pytest.raises(TypeError, match="function of Op wrong must be a function, not 3"):
        tw.Op("wrong", 3)
    with pytest.raises(TypeError, match="name of an Op must be a string, not 3"):
        tw.Op(3)


@pytest.mark.parametrize("index", ["a", 1.5, None, True, (0, "b"), slice(2), [1]])
def test_handles_are_named_by_integers(index):
    with pytest.raises(TypeError, match=r"A\[\.\.\.\] names one handle at a time by integers"):
        tw.TaskGraph().handles("A")[index]


def test_numpys_integers_name_the_same_handles():
    A = tw.TaskGraph().handles("A")
    assert A[np.int64(3), np.uint8(1)] == A[3, 1]
    assert str(A[np.int32(3), 0]) == "A[3,0]"


@pytest.mark.parametrize("nt", [True, "3", 2.5, None])
def test_a_number_of_tiles_is_an_integer(nt):
    with pytest.raises(TypeError, match="nt must be an integer"):
        tw.cholesky_graph(nt)


class TestGroups:
    def test_a_list_of_accesses_is_one_argument_with_the_dependencies_of_its_members(self):
        g, flat = TaskGraph(), TaskGraph()
        A = g.handles("A")
        op = Op("op")
        for graph, wrap in ((g, lambda uses: [uses]), (flat, lambda uses: uses)):
            graph.insert(op, *wrap([RW(A[0]), RW(A[1])]), W(A[9]))
            graph.insert(op, R(A[9]), *wrap([R(A[0]), RW(A[2])]))
            graph.insert(op, *wrap([RW(A[0]), RW(A[2])]), 3.0)
        assert [t.predecessors for t in g] == [t.predecessors for t in flat] == [(), (0,), (1,)]
        assert [t.uses for t in g] == [t.uses for t in flat] and g.inputs == flat.inputs
        assert [t.groups for t in g] == [(2, -1), (-1, 2), (2,)] and {t.groups for t in flat} == {()}
        assert g.tasks[1].arguments("abc") == ["a", ["b", "c"]] and g.tasks[2].params == (3.0,)

    def test_groups_may_have_no_members(self):
        g = TaskGraph()
        x = g.handle("x")
        log = []
        assert g.insert(Op("op"), [], R(x)).groups == (0, -1)
        assert g.insert(Op("op"), R(x), [], 1).groups == (-1, 0)  # flops may want to see it
        assert g.insert(len, R(x), log).params[0] is log  # a function gets the list that it is
        assert g.insert(len, R(x), [], [W(x)]).groups == (-1, 0, 1)

    @pytest.mark.parametrize(
        "bad",
        [
            lambda x: ([R(x), 3],),
            lambda x: ([x],),
            lambda x: (R(x), 3, [R(x)]),
            lambda x: ((R(x), R(x)),),
            lambda x: ([R(x), [R(x)]],),
        ],
    )
    def test_what_is_no_group_is_refused_with_what_is_one(self, bad):
        g = TaskGraph()
        with pytest.raises(TypeError, match=r"^op: a group is a list of accesses .* such as \[R\(a\), RW\(b\)\], not "):
            g.insert(Op("op"), *bad(g.handle("x")))

    def test_groups_rooms_and_labels_travel(self):
        g = TaskGraph()
        T = g.handles("T", shape=lambda k: (k + 1,), dtype=lambda k: "f4" if k else "f8")
        y = g.handle("y", shape=2, dtype="int64", keep=True)
        g.insert(Op("op"), [W(T[0]), W(T[3])], W(y), label=("a", 7), priority=2.0, on=1)
        for other in (pickle.loads(pickle.dumps(g)), copy.copy(g), copy.deepcopy(g)):
            task = other.tasks[0]
            assert (task.label, task.groups, task.priority, task.on) == ("op(a,7)", (2, -1), 2.0, 1)
            assert other.rooms["T"].of(T[3], None) == ((4,), np.dtype("f4")) and other.rooms["y"].keep
            assert other.temporary == {"T"}

    def test_flops_get_lists_of_shapes_for_groups(self):
        def panel(tiles, piv):
            return float(sum(m * n for m, n in tiles) * piv[0])

        g = TaskGraph()
        A = g.handles("A")
        g.insert(Op("panel", lambda tiles, piv: None, flops=panel), [R(A[0, 0]), R(A[1, 0])], R(g.handle("p")))
        data = {"A": tw.TiledMatrix.from_numpy(np.ones((5, 3)), 3), "p": np.arange(4)}
        assert tw.run(g, data, workers=1).flops == 15 * 4
        assert tw.Machine(tile_size=10, gamma=1.0).cost(g.tasks[0]) == 200 * 10


class TestRooms:
    @pytest.mark.parametrize(
        ("how", "error", "words"),
        [
            ({"shape": 3}, TypeError, "room of T has no dtype"),
            ({"dtype": "f8"}, TypeError, "room of T has no shape"),
            ({"keep": True}, TypeError, "T has no room that could be kept"),
            ({"shape": -1, "dtype": "f8"}, ValueError, "-1"),
            ({"shape": (2, 1.5), "dtype": "f8"}, TypeError, "1.5"),
            ({"shape": 2, "dtype": "no"}, TypeError, "'no'"),
            ({"shape": 2, "dtype": object}, TypeError, "must be one of numbers"),
            ({"shape": 2, "dtype": "f8", "device": "cuda"}, TypeError, "torch.float64"),
            ({"shape": 2, "dtype": "f8", "keep": "yes"}, TypeError, "keep of T"),
        ],
    )
    def test_rooms_that_are_none(self, how, error, words):
        with pytest.raises(error, match=words):
            TaskGraph().handles("T", **how)

    def test_a_name_has_one_room(self):
        g = TaskGraph()
        g.handles("T", shape=(2, 3), dtype="f8")
        g.handles("T", shape=[2, 3], dtype=float)
        g.handles("T")
        with pytest.raises(ValueError, match=r"has another room T, of shape \(2, 3\) and dtype float64"):
            g.handles("T", shape=(2, 3), dtype="f4")


class TestBuilders:
    def test_what_belongs_to_a_builder_holds_until_more_is_inserted(self):
        @graph_builder("{n} of {word}", levels=lambda task, n, word: n, extents=lambda n, word: {"A": (n, n)})
        def build(g, n, word="them"):
            """Nothing."""
            for _ in range(n):
                g.insert(Op("op"), RW(g.handle("x")))

        g = build(3)
        assert (g.name, len(g), g.recipe, g.extents) == ("3 of them", 3, (build, (3, "them")), {"A": (3, 3)})
        assert g.bottom_levels() == [3, 3, 3] and build.__doc__ == "Nothing."
        assert list(inspect.signature(build).parameters) == ["n", "word"] and build(3) is not g
        g.insert(Op("op"), RW(g.handle("x")))
        assert (g.recipe, g.extents, g.closed_form) == (None, {}, None) and g.bottom_levels() == [4, 3, 2, 1]

    def test_a_cache_gives_the_same_graph_and_a_builder_may_return_another(self):
        other = TaskGraph("other")

        @graph_builder(lambda n: f"n={n}", cache=2)
        def build(g, n):
            return other if n else None

        assert build(0) is build(0) and build(0).name == "n=0"
        assert build(1) is other and other.recipe == (build, (1,))
