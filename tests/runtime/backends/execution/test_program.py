"""A graph bound to data: what is checked before the first task runs, and what a call does."""

import numpy as np
import pytest

import tilewright as tw
from tilewright import RW, MissingDataError, R, Store, TaskGraph, TiledMatrix, W, cholesky_graph
from tilewright.backends.execution.program import Program
from tilewright.ops import gemm, potrf


def bind(graph, data):
    return Program(graph, Store(data))


def never(*buffers):
    raise AssertionError("a task ran before the checks were over")


class TestChecks:
    def test_missing_data_names_the_handles_and_what_there_is(self):
        g = TaskGraph()
        g.insert(never, R(g.handle("x")), RW(g.handle("y")))
        with pytest.raises(MissingDataError) as caught:
            tw.run(g, {"z": 1})
        assert str(caught.value) == "the graph reads x, y, but the data has only: z"
        assert isinstance(caught.value, KeyError)

    def test_missing_data_lists_five_handles_and_counts_the_rest(self):
        with pytest.raises(MissingDataError, match=r"reads A\[0,0\], .* and 5 more, but the data has only: nothing"):
            tw.run(cholesky_graph(nt=4), {})

    def test_an_array_that_is_not_cut_into_tiles_is_an_error_that_says_how(self):
        g = TaskGraph()
        A = g.handles("A")
        g.insert(never, RW(A[0, 1]))
        with pytest.raises(TypeError, match=r"A is an array of 4 x 6 numbers, not cut .* tw\.TiledMatrix\.view"):
            tw.run(g, {"A": np.ones((4, 6))})
        rows = tw.TaskGraph()
        rows.insert(lambda row: row.fill(3), RW(rows.handles("A")[1]))
        assert (tw.run(rows, {"A": np.ones((4, 6))})["A"][1] == 3).all()

    def test_a_tile_outside_of_the_matrix_is_named_with_the_number_of_tiles(self):
        g = TaskGraph()
        g.insert(never, RW(g.handles("A")[-1, 7]))
        with pytest.raises(MissingDataError, match=r"reads A\[-1,7\], but TiledMatrix\(4 x 4, .*\) has 2 x 2 tiles"):
            tw.run(g, {"A": TiledMatrix.view(np.ones((4, 4)), 2)})

    def test_data_that_is_none_is_called_so(self):
        g = TaskGraph()
        g.insert(never, RW(g.handle("x")))
        with pytest.raises(MissingDataError, match="reads x, but what the data has for it is None"):
            tw.run(g, {"x": None})

    def test_handle_written_before_it_is_read_needs_no_data(self):
        g = TaskGraph()
        x, y = g.handle("x"), g.handle("y")
        g.insert(lambda _: 3, W(x))
        g.insert(lambda x, _: x + 1, R(x), W(y))
        assert tw.run(g, {})["y"] == 4

    def test_refused_graph_is_not_frozen(self):
        g = TaskGraph()
        g.insert(never, R(g.handle("x")))
        with pytest.raises(MissingDataError):
            tw.run(g, {})
        assert not g.frozen

    @pytest.mark.parametrize("name", ["x", "A"])
    def test_read_only_data_that_is_written_is_an_error(self, name):
        buffer = np.zeros((2, 2))
        buffer.flags.writeable = False
        g = TaskGraph()
        handle = g.handle("x") if name == "x" else g.handles("A")[0, 0]
        g.insert(never, RW(handle))
        data = {"x": buffer} if name == "x" else {"A": TiledMatrix.view(buffer, 2)}
        with pytest.raises(ValueError, match=r"the graph writes (x|A\[0,0\]), but .* is read-only"):
            tw.run(g, data)

    def test_read_only_data_that_is_only_read_is_fine(self):
        buffer = np.ones(2)
        buffer.flags.writeable = False
        g = TaskGraph()
        g.insert(lambda x, y: np.copyto(y, x), R(g.handle("x")), W(g.handle("y")))
        assert np.array_equal(tw.run(g, {"x": buffer, "y": np.zeros(2)})["y"], [1, 1])

    @pytest.mark.parametrize("tile", [3.0, [[1.0]], np.zeros(3)], ids=["float", "list", "1-D"])
    def test_tile_kernel_needs_a_2d_array(self, tile):
        with pytest.raises(TypeError, match=r"potrf\(0\): A\[0,0\] must be a 2-D array for a tile kernel, not "):
            bind(cholesky_graph(nt=1), {"A": {(0, 0): tile}})

    def test_missing_kernel_lists_the_rows_of_the_op(self):
        with pytest.raises(KeyError) as caught:
            bind(cholesky_graph(nt=1), {"A": {(0, 0): np.eye(2, dtype=np.float16)}})
        message = caught.value.args[0]
        assert "no kernel for potrf on cpu for float16 operands into float16" in message
        assert all(dtype in message for dtype in ("float32", "float64", "complex64", "complex128"))

    def test_operands_of_different_dtypes_are_an_error_that_names_both(self):
        g = TaskGraph()
        h = g.handles("A"), g.handles("B"), g.handles("C")
        g.insert(gemm, R(h[0][0, 0]), R(h[1][0, 0]), RW(h[2][0, 0]))
        data = {name: {(0, 0): np.ones((2, 2), dtype)} for name, dtype in zip("ABC", "fdd", strict=True)}
        with pytest.raises(KeyError, match="operands of different dtypes, float32 and float64; convert them first"):
            bind(g, data)


class TestCall:
    def test_functions_may_change_in_place_or_return(self):
        def add(x, y):
            y += x

        g = TaskGraph()
        x, y = g.handle("x"), g.handle("y")
        g.insert(add, R(x), RW(y))
        g.insert(lambda x, y: x * y, RW(x), R(y))
        run = tw.run(g, {"x": 3, "y": np.array([4])})
        assert (run["x"], run["y"]) == ([21], [7])

    @pytest.mark.parametrize("fresh", [False, True])
    def test_what_a_fresh_op_returns_is_not_copied(self, fresh):
        """It promises that nobody has it; of another op a value that it read is copied."""
        g = TaskGraph()
        x, y = g.handle("x"), g.handle("y")
        g.insert(tw.Op("pass on", lambda x, _: (x,), fresh=fresh), R(x), W(y))
        values = [np.zeros(3)]
        run = tw.run(g, {"x": values}, backend="serial")
        assert (run["y"][0] is values) == fresh and np.array_equal(run["y"][0], values)

    def test_several_written_handles_take_a_tuple_in_order(self):
        g = TaskGraph()
        x, y = g.handle("x"), g.handle("y")
        g.insert(lambda x, y: (y, x), RW(x), RW(y))
        run = tw.run(g, {"x": 1, "y": 2})
        assert (run["x"], run["y"]) == (2, 1)

    @pytest.mark.parametrize("result", [5, (1,), (1, 2, 3), [1, 2]])
    def test_wrong_number_of_results_is_an_error_that_names_the_handles(self, result):
        g = TaskGraph()
        g.insert(lambda x, y: result, RW(g.handle("x")), RW(g.handle("y")))
        with pytest.raises(TypeError, match="must return None or 2 values, for x, y"):
            tw.run(g, {"x": 1, "y": 2})

    def test_result_of_a_task_that_only_reads_is_dropped(self):
        g = TaskGraph()
        g.insert(lambda x: 99, R(g.handle("x")))
        assert tw.run(g, {"x": 1})["x"] == 1

    def test_params_follow_the_buffers(self):
        g = TaskGraph()
        g.insert(lambda x, p, q: (x, p, q), RW(g.handle("x")), "p", 2)
        assert tw.run(g, {"x": 1})["x"] == (1, "p", 2)

    def test_info_of_an_op_that_cannot_explain_it_is_an_error_with_the_number(self):
        g = TaskGraph()
        g.insert(tw.Op("potrf"), RW(g.handles("A")[0, 0]))
        with pytest.raises(RuntimeError, match=r"potrf\(0,0\): info 1"):
            tw.run(g, {"A": {(0, 0): np.array([[-1.0]])}})

    def test_offset_of_an_error_comes_from_loose_tiles_too(self):
        g = TaskGraph()
        g.insert(potrf, RW(g.handles("A")[2, 2]))
        tiles = {(0, 0): np.eye(3), (2, 2): -np.eye(3)}
        with pytest.raises(tw.NotPositiveDefiniteError) as caught:
            tw.run(g, {"A": tiles})
        assert caught.value.order == 7
