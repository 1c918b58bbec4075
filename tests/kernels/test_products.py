"""Kernels with operands in 16 bits, by every route this machine has."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from optional import torch

import tilewright as tw
from tilewright.kernels import cpu as processor
from tilewright.kernels import narrow as moves
from tilewright.kernels import products, reference, table
from tilewright.kernels.narrow import convert, round_tf32, scaled, scalen, split, to_bf16, widened

HERE = [(route.form, route.name) for form in products.FORMS for route in products.probe(form) if not route.reason]
U = {"bfloat16": 2.0**-8, "float16": 2.0**-11, "bfloat16x2": 2.0**-16}

every_route = pytest.mark.parametrize(("form", "name"), HERE)


def kernel(op, form, name):
    storage = "float32" if op in ("trsm", "potrf") else form
    return table.lookup(op, "cpu", storage, "float32", f"{form}/{name}").function


def normal(rng, m, n):
    return rng.standard_normal((m, n)).astype(np.float32)


def narrow(x, form):
    if form == "bfloat16x2":
        y = np.empty((2, *x.shape), np.uint16)
        split(x, y)
    elif form == "bfloat16":
        y = np.empty(x.shape, np.uint16)
        to_bf16(x, y)
    else:
        y = x.astype(np.float16)
    return y


def exact_update(a, b, c):
    return c.astype(np.float64) - widened(a).astype(np.float64) @ widened(b).astype(np.float64).T


CPUS = {
    "AVX2": {"avx2", "fma", "f16c"},
    "Zen 4": {"avx2", "avx512f", "avx512_bf16", "avx512_vnni"},
    "Sapphire Rapids": {"avx512f", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16"},
    "Arm": {"asimd", "bf16", "fphp"},
}  # fmt: skip


class TestRouting:
    @pytest.mark.parametrize("cpu", CPUS)
    @pytest.mark.parametrize("form", products.FORMS)
    def test_some_route_is_found_for_every_form_on_every_cpu(self, form, cpu, monkeypatch):
        monkeypatch.setattr("tilewright.kernels.cpu.features", lambda: frozenset(CPUS[cpu]))
        for cblas in (products.cblas, lambda form: None):
            monkeypatch.setattr(products, "cblas", cblas)
            found = products.route(form)
            assert not found.reason and products.route(form, emulate=True) == found
            assert found.native or found.name == "widen"
            assert found.name != "autocast"  # it rounds more than the others

    @pytest.mark.parametrize("cpu", ["AVX2", "Zen 4", "Arm"])
    def test_without_amx_the_route_widens(self, cpu, monkeypatch):
        monkeypatch.setattr("tilewright.kernels.cpu.features", lambda: frozenset(CPUS[cpu]))
        assert [products.route(form).name for form in products.FORMS] == ["widen"] * 3

    def test_with_amx_bf16_has_its_instructions_and_fp16_is_widened(self, monkeypatch):
        monkeypatch.setattr("tilewright.kernels.cpu.features", lambda: frozenset(CPUS["Sapphire Rapids"]))
        monkeypatch.setattr(products, "_missing", lambda name, form: "")
        assert [products.route(form).name for form in products.FORMS] == ["cblas", "widen", "cblas"]

    @pytest.mark.parametrize(("form", "name"), HERE)
    def test_routes_that_are_here_can_be_had_by_name_on_every_cpu(self, form, name, monkeypatch):
        monkeypatch.setattr("tilewright.kernels.cpu.features", frozenset)
        found = products.route(form, name)
        assert (found.name, found.reason, found.native) == (name, "", False)

    @pytest.mark.needs("torch")
    def test_missing_symbol_leaves_the_next_route(self, monkeypatch):
        monkeypatch.setattr(products, "cblas", lambda form: None)
        monkeypatch.setattr("tilewright.kernels.cpu.features", lambda: frozenset({"amx_bf16"}))
        assert products.route("bfloat16").name == "mkldnn"
        with pytest.raises(ValueError, match="no MKL with cblas_gemm_bf16bf16f32 here"):
            products.route("bfloat16", "cblas")

    def test_without_torch_and_mkl_operands_are_widened(self, monkeypatch):
        monkeypatch.setattr(products, "cblas", lambda form: None)
        monkeypatch.setattr(products.importlib.util, "find_spec", lambda name: None)
        for form in products.FORMS:
            assert [r.name for r in products.probe(form) if not r.reason] == ["widen", "reference"]
            assert products.route(form).name == "widen"

    def test_autocast_is_refused_for_bf16x3(self):
        with pytest.raises(ValueError, match="rounds each product to 16 bits, so three of them do not add up to FP32"):
            products.route("bfloat16x2", "autocast", emulate=True)

    def test_unknown_route_lists_the_known(self):
        with pytest.raises(ValueError, match="unknown route 'magic'; there are cblas, mkldnn, widen, autocast, ref"):
            products.route("bfloat16", "magic")

    def test_features_can_be_pretended(self, monkeypatch):
        monkeypatch.setenv(processor.FEATURES, "avx2, amx_bf16")
        assert processor.features.__wrapped__() == {"avx2", "amx_bf16"}
        monkeypatch.setenv(processor.FEATURES, "")
        assert processor.features.__wrapped__() == frozenset()

    @pytest.mark.parametrize("form", products.FORMS)
    def test_lookup_without_a_source_takes_the_best_route(self, form):
        row = table.lookup("gemm", "cpu", form, "float32")
        assert row.source == f"{form}/{products.route(form).name}"

    def test_narrow_rows_do_not_replace_those_of_fp32(self):
        table.lookup("gemm", "cpu", "bfloat16", "float32", "bfloat16/reference")
        assert {"/" in table.lookup(op, "cpu", "float32", "float32").source for op in products.OPS} == {False}


@every_route
class TestProducts:
    @settings(max_examples=8)
    @given(m=st.integers(1, 70), n=st.integers(1, 70), k=st.integers(1, 70), seed=st.integers(0, 9), rows=st.booleans())
    def test_gemm_is_exact_up_to_the_accumulation(self, form, name, m, n, k, seed, rows):
        rng = np.random.default_rng(seed)
        a, b = narrow(normal(rng, m, k), form), narrow(normal(rng, n, k), form)
        big = np.asarray(normal(rng, m + 3, n + 5), order="C" if rows else "F")
        c = big[1 : m + 1, 2 : n + 2]
        wanted, before = exact_update(a, b, c), big.copy()
        kernel("gemm", form, name)(a, b, c)
        size = np.abs(widened(a)) @ np.abs(widened(b)).T + np.abs(before[1 : m + 1, 2 : n + 2])
        u = (k + 2) * 2.0**-24 + (U[form] if name == "autocast" else 0) + (2.0**-15 if form == "bfloat16x2" else 0)
        assert (np.abs(c - wanted) <= 2 * u * size).all()
        big[1 : m + 1, 2 : n + 2] = before[1 : m + 1, 2 : n + 2]
        assert np.array_equal(big, before)  # nothing beside the tile

    @settings(max_examples=6)
    @given(
        m=st.integers(1, 70),
        n=st.integers(1, 70),
        k=st.integers(1, 70),
        seed=st.integers(0, 9),
        order=st.sampled_from("CF"),
    )
    def test_gemmn_is_the_product_without_a_transpose_and_its_bits_do_not_depend_on_the_layout(
        self, form, name, m, n, k, seed, order
    ):
        rng = np.random.default_rng(seed)
        a, b, c = narrow(normal(rng, m, k), form), narrow(normal(rng, k, n), form), normal(rng, m, n)
        wanted = c.astype(np.float64) - widened(a).astype(np.float64) @ widened(b).astype(np.float64)
        size = np.abs(widened(a)) @ np.abs(widened(b)) + np.abs(c)
        columns = [x.swapaxes(-1, -2).copy().swapaxes(-1, -2) for x in (a, b, c)]
        kernel("gemmn", form, name)(*columns)
        u = (k + 2) * 2.0**-24 + (U[form] if name == "autocast" else 0) + (2.0**-15 if form == "bfloat16x2" else 0)
        assert (np.abs(columns[2] - wanted) <= 2 * u * size).all()
        big = np.asarray(normal(rng, m + 3, n + 5), order=order)
        inside = big[1 : m + 1, 2 : n + 2]
        inside[...] = c
        before = big.copy()
        kernel("gemmn", form, name)(a, b, inside)
        assert np.array_equal(inside, columns[2])
        inside[...] = c
        assert np.array_equal(big, before)  # nothing beside the tile

    def test_sum_of_a_thousand_ones_is_exact(self, form, name):
        """16-bit sums would stop at 256 (BF16) or 2048 (FP16)."""
        ones = narrow(np.ones((40, 4096), np.float32), form)
        c = np.zeros((40, 40), np.float32)
        kernel("gemm", form, name)(ones, ones, c)
        assert (c == -4096).all()

    @pytest.mark.parametrize("n", [1, 256, 300, 600])
    def test_syrk_updates_the_lower_triangle(self, form, name, n):
        rng = np.random.default_rng(n)
        a, c = narrow(normal(rng, n, 60), form), normal(rng, n, n)
        wanted = exact_update(a, a, c)
        kernel("syrk", form, name)(a, c)
        assert np.allclose(
            np.tril(c), np.tril(wanted), atol=3 * U[form] * 30 if name == "autocast" else 1e-2 * U[form] * 60 + 1e-4
        )

    @pytest.mark.parametrize("n", [1, 100, 257, 520])
    def test_potrf_and_trsm_have_the_error_of_the_format(self, form, name, n):
        rng = np.random.default_rng(n)
        x = normal(rng, n, 2 * n).astype(np.float64)
        a = x @ x.T / (2 * n) + np.eye(n)
        lower = a.astype(np.float32)
        assert kernel("potrf", form, name)(lower) == 0
        lower = np.tril(lower)
        u = U[form] if n > products.BLOCK else 2.0**-22
        assert np.linalg.norm(lower.astype(float) @ lower.T - a) < 3 * u * np.linalg.norm(a)
        b = normal(rng, 90, n)
        solved = b.copy()
        kernel("trsm", form, name)(lower, solved)
        assert np.linalg.norm(solved.astype(float) @ lower.T - b) < 4 * u * np.linalg.norm(b) + 1e-5 * n**0.5

    def test_info_of_potrf_counts_over_blocks(self, form, name):
        a = np.eye(520, dtype=np.float32)
        a[515, 515] = -1
        assert kernel("potrf", form, name)(a) == 516

    def test_shapes_that_do_not_fit_raise(self, form, name):
        a, c = narrow(np.ones((3, 4), np.float32), form), np.zeros((3, 5), np.float32)
        with pytest.raises(ValueError, match="gemm: A .* do not fit"):
            kernel("gemm", form, name)(a, a, c)
        with pytest.raises(ValueError, match="syrk: A .* do not fit"):
            kernel("syrk", form, name)(a, c)
        with pytest.raises(ValueError, match="trsm: L .* do not fit"):
            kernel("trsm", form, name)(c[:, :3], np.zeros((2, 4), np.float32))
        with pytest.raises(ValueError, match="potrf: A .* is not square"):
            kernel("potrf", form, name)(c)


@pytest.mark.parametrize(("form", "name"), [pair for pair in HERE if pair[1] != "autocast"])
class TestModel:
    """What a tensor core computes: operands rounded to nearest, products exact, sums in FP32.

    Whole numbers whose sums have less than 24 bits leave no choice, so FP64 gives the bits.
    """

    def operands(self, form, m, seed):
        """Small whole numbers, and in one column one that is rounded in this form."""
        x = np.random.default_rng(seed).integers(-4, 5, (m, 70)).astype(np.float32)
        edge = {"bfloat16": 257.0, "float16": 2049.0, "bfloat16x2": 257 + 2.0**-9}[form]
        x[:, 3] = np.where(np.arange(m) % 2, edge, 1)
        rounded = tw.FORMATS[{"bfloat16": "bf16", "float16": "fp16", "bfloat16x2": "bf16x3"}[form]].round(x)
        assert (rounded != x).any() == (m > 1)
        return narrow(x, form), rounded

    def product(self, form, x, y):
        """In FP64; of bf16x3 the product of the low parts is left out."""
        high_x, high_y = (tw.FORMATS["bf16"].round(z) if form == "bfloat16x2" else z for z in (x, y))
        return x @ y.T - (x - high_x) @ (y - high_y).T

    @pytest.mark.parametrize("order", ["C", "F"])
    @pytest.mark.parametrize("m", [1, 37, 300])
    def test_gemm(self, form, name, m, order):
        (a, x), (b, y) = self.operands(form, m, 1), self.operands(form, 29, 2)
        before = np.asarray(np.random.default_rng(3).integers(-4, 5, (m, 29)).astype(np.float32), order=order)
        c = before.copy(order=order)
        kernel("gemm", form, name)(a, b, c)
        assert np.array_equal(c, before - self.product(form, x, y))

    @pytest.mark.parametrize("m", [1, 37, 300])
    def test_syrk(self, form, name, m):
        a, x = self.operands(form, m, 1)
        c = np.zeros((m, m), np.float32)
        kernel("syrk", form, name)(a, c)
        assert np.array_equal(np.tril(c), np.tril(-self.product(form, x, x)))


@pytest.mark.parametrize("form", products.FORMS)
@pytest.mark.parametrize("m", [5, 300])
def test_an_operand_that_a_task_has_widened_gives_the_same_bits(form, m):
    rng = np.random.default_rng(m)
    a, b = (narrow(normal(rng, rows, 50), form) for rows in (m, m + 3))
    wide = []
    for tile in (a, b):
        wide.append(np.empty((3, *tile.shape[1:]) if tile.ndim == 3 else tile.shape, np.float32))
        assert convert(tile, wide[-1]) == 0
    for op, narrow_ones, wide_ones in (("gemm", (a, b), wide), ("syrk", (a,), wide[:1])):
        c = normal(rng, m, m + 3 if op == "gemm" else m)
        d = c.copy()
        kernel(op, form, "widen")(*narrow_ones, c)
        dtype = table.dtype_name(wide[0])
        table.lookup(op, "cpu", dtype, "float32", f"{form}/widen").function(*wide_ones, d)
        assert np.array_equal(c, d)


class TestTorch:
    def test_addmm_under_autocast_would_round_the_target(self):
        """Why no kernel uses it."""
        c = torch.full((4, 4), 1 + 2.0**-12)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.addmm(c, torch.zeros(4, 4), torch.zeros(4, 4)).dtype == torch.bfloat16

    def test_autocast_route_keeps_the_target_in_fp32(self):
        c = np.full((20, 20), 1 + 2.0**-12, np.float32)
        zero = np.zeros((20, 20), np.uint16)
        with torch.autocast("cpu", torch.bfloat16):
            kernel("gemm", "bfloat16", "autocast")(zero, zero, c)
        assert (c == np.float32(1 + 2.0**-12)).all()

    @pytest.mark.needs("torch")
    def test_mkldnn_switch_is_restored(self):
        before = torch.backends.mkldnn.matmul.fp32_precision
        one = narrow(np.ones((20, 20), np.float32), "bfloat16")
        kernel("gemm", "bfloat16", "mkldnn")(one, one, np.zeros((20, 20), np.float32))
        assert torch.backends.mkldnn.matmul.fp32_precision == before


class TestNarrow:
    @pytest.fixture(params=["torch", "numpy"])
    def library(self, request, monkeypatch):
        """With torch, and where it is not installed."""
        if request.param == "numpy":
            monkeypatch.setattr(moves, "_torch", lambda: None)

    ANY = np.random.default_rng(0).integers(0, 2**32, (200, 130), dtype=np.uint32).view(np.float32)

    @pytest.mark.parametrize("form", ["bfloat16", "float16", "bfloat16x2"])
    def test_numbers_of_any_size_are_rounded_as_the_format_says_and_widened_exactly(self, form, library):
        x = np.where(np.isnan(self.ANY), 1, self.ANY)
        with np.errstate(all="ignore"):
            tile = moves.narrowed(form, x, 0).copy()
            wide = np.empty((3, *x.shape) if form == "bfloat16x2" else x.shape, np.float32)
            assert convert(tile, wide) == 0
        wanted = tw.FORMATS[{"bfloat16": "bf16", "float16": "fp16", "bfloat16x2": "bf16x3"}[form]].round(x)
        fits = np.isfinite(wanted)
        assert fits.sum() > 3000
        assert np.array_equal((wide[0] if form == "bfloat16x2" else wide)[fits], wanted[fits])
        if form == "bfloat16x2":
            assert np.array_equal(wide[1][fits], tw.FORMATS["bf16"].round(x)[fits])
            assert np.array_equal(wide[0][fits], (wide[1] + wide[2])[fits])

    def test_smallest_and_largest_numbers_of_a_format_survive_it_and_half_of_the_smallest_does_not(self, library):
        for name, form in (("bf16", "bfloat16"), ("bf16x3", "bfloat16x2"), ("fp16", "float16")):
            f = tw.FORMATS[name]
            ends = np.array([[f.smallest, f.tiny, f.max, f.smallest / 2]], np.float32)
            tile = moves.narrowed(form, ends, 0)
            assert np.array_equal(widened(tile)[0], [f.smallest, f.tiny, f.max, 0]), name
            assert np.array_equal(f.round(ends), widened(tile))

    @pytest.mark.parametrize("form", ["bfloat16", "float16", "bfloat16x2"])
    def test_memory_of_any_shape_is_rounded(self, form, library):
        """Views backwards, of fields of packed records, read-only, of columns: torch takes only some of them."""
        x = normal(np.random.default_rng(1), 40, 30)
        record = np.zeros((40, 30), np.dtype([("kind", "u1"), ("value", "<f4")], align=False))
        record["value"] = x
        read_only = x.copy()
        read_only.flags.writeable = False
        back = x[::-1, ::-1].copy()[::-1, ::-1]
        wanted = moves.narrowed(form, x, 0).copy()
        for source in (record["value"], read_only, back, np.asfortranarray(x), np.repeat(x, 2, axis=1)[:, ::2]):
            target = np.empty_like(wanted)
            if form == "bfloat16x2":
                split(source, target)
            else:
                assert convert(source, target) == 0
            assert np.array_equal(target, wanted)

    @given(st.lists(st.floats(width=32), min_size=1, max_size=40))
    def test_bf16_is_torchs_with_and_without_torch(self, values):
        x = np.array([values], np.float32)
        wanted = torch.from_numpy(x.copy()).to(torch.bfloat16).float().numpy()
        for source in (
            x,
            np.frombuffer(x.tobytes(), np.float32).reshape(x.shape),
        ):  # the second is read-only: NumPy's way
            target = np.empty(x.shape, np.uint16)
            to_bf16(source, target)
            assert np.array_equal(widened(target), wanted, equal_nan=True)

    def test_two_parts_hold_sixteen_bits(self):
        x = np.random.default_rng(0).standard_normal((200, 30)).astype(np.float32)
        parts = narrow(x, "bfloat16x2")
        assert np.abs(widened(parts) - x).max() <= (2.0**-16 * np.abs(x)).max()

    def test_tf32_has_eleven_bits_and_keeps_special_values(self):
        x = np.array([[1 + 2.0**-11, 1 + 3 * 2.0**-11, 1 + 2.0**-10, np.inf, -np.inf, 0.0]], np.float32)
        y = np.empty_like(x)
        round_tf32(x, y)
        assert y.tolist() == [[1.0, 1 + 2 * 2.0**-10, 1 + 2.0**-10, np.inf, -np.inf, 0.0]]
        nan = np.full((1, 1), np.nan, np.float32)
        round_tf32(nan, nan)
        assert np.isnan(nan[0, 0])

    def test_convert_says_when_a_number_does_not_fit(self):
        half = np.empty((1, 2), np.float16)
        assert convert(np.array([[65504.0, 65519.0]], np.float32), half) == 0
        assert convert(np.array([[1.0, 65520.0]], np.float32), half) == 2
        single = np.empty((1, 2), np.float32)
        assert convert(np.array([[1.0, 1e39]]), single) == 2
        assert convert(np.array([[1.0, np.inf]]), single) == 0

    def test_subnormal_fp16_operands_count(self):
        tiny = np.full((16, 64), 2.0**-24, np.float16)
        one = np.ones((16, 64), np.float16)
        for form, name in HERE:
            if form == "float16":
                c = np.zeros((16, 16), np.float32)
                kernel("gemm", form, name)(tiny, one, c)
                assert (c == -64 * 2.0**-24).all(), name


class TestScaling:
    @pytest.fixture(params=["torch", "numpy"])
    def library(self, request, monkeypatch):
        """Both ways to multiply."""
        if request.param == "numpy":
            monkeypatch.setattr(moves, "_torch", lambda: None)

    @given(st.integers(1, 300), st.integers(1, 40), st.sampled_from([None, 0.0, 0.5]))
    @settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_scaled_rounds_the_fp64_product_once_and_sums_are_those_of_the_matrix(self, library, p, q, shift):
        rng = np.random.default_rng(p * 41 + q)
        q = p if shift is not None else q
        a, di, dj = rng.standard_normal((p, q)), rng.random((p, 1)) + 0.1, rng.random((q, 1)) + 0.1
        if shift is not None:
            a, dj = np.tril(a), di
            a[np.diag_indices(p)] = di[:, 0] ** -2
        plain, target, sums = np.empty((p, q), np.float32), np.empty((p, q), np.float32), np.empty((2, max(p, q)))
        extra = () if shift is None else (shift,)
        assert scaled(a, di, dj, plain, *extra) == scalen(a, di, dj, target, sums, *extra) == 0
        wanted = (a * dj[:, 0] * di).astype(np.float32)
        if shift is not None:
            wanted[np.diag_indices(p)] = 1 + shift
        assert np.array_equal(plain, wanted)
        assert np.allclose(target, wanted, rtol=2.0**-21, atol=0)
        whole = np.abs(a) if shift is None else np.abs(a + np.tril(a, -1).T)
        assert np.allclose(sums[0, :p], whole.sum(axis=1), rtol=1e-5)
        assert np.allclose(sums[1, :q], whole.sum(axis=0), rtol=1e-5)

    @pytest.mark.parametrize("order", "CF")
    @pytest.mark.parametrize("spread", [0, 3, 40, 41, 60])
    def test_powers_of_two_round_once_also_where_they_are_multiplied_in_fp32(self, library, order, spread):
        rng = np.random.default_rng(spread)
        a = rng.standard_normal((150, 530))
        di, dj = (2.0 ** rng.integers(-spread, spread + 1, (size, 1)) for size in a.shape)
        target = np.empty(a.shape, np.float32, order)
        assert scaled(a, di, dj, target) == 0
        assert np.array_equal(target, (a * dj[:, 0] * di).astype(np.float32))

    @pytest.mark.parametrize("order", "CF")
    def test_scaled_takes_a_number_that_fits_only_after_it_was_scaled(self, library, order):
        a, ones = np.full((3, 2), 2.0**140), np.ones((3, 1))
        target = np.empty((3, 2), np.float32, order)
        assert scaled(a, 2.0**-30 * ones, ones[:2], target) == 0
        assert (target == 2.0**110).all()
        assert [scaled(value * a, ones, ones[:2], target) for value in (1, np.inf, np.nan)] == [2, 1, 1]

    @pytest.mark.parametrize("scale", [2.0**-1000, 1e-60, 1e-20, 1.0, 1e60])
    def test_scalen_of_numbers_beyond_fp32_that_fit_once_scaled(self, library, scale):
        a = np.tril(np.random.default_rng(0).standard_normal((40, 40)))
        d = np.full((40, 1), scale**-0.5)
        target, sums = np.empty((40, 40), np.float32), np.empty((2, 40))
        assert scalen(a * scale, d, d, target, sums) == 0
        assert np.allclose(target, a, rtol=1e-6, atol=0)
        assert np.allclose(sums[0], np.abs(a).sum(axis=1) * scale, rtol=1e-5, atol=0)

    def test_scalen_takes_a_number_that_fits_only_after_it_was_scaled(self, library):
        a = np.full((3, 2), 1e40)
        ones = np.ones((3, 1))
        target, sums = np.empty((3, 2), np.float32), np.empty((2, 3))
        assert scalen(a, 1e-6 * ones, ones[:2], target, sums) == 0
        assert np.allclose(target, 1e34, rtol=1e-6)

    @pytest.mark.parametrize(("value", "info"), [(np.nan, 1), (np.inf, 1), (1e60, 2)])
    def test_scalen_says_what_does_not_fit(self, library, value, info):
        a = np.ones((200, 7))
        a[150, 3] = value
        ones = np.ones((200, 1))
        assert scalen(a, ones, ones[:7], np.empty((200, 7), np.float32), np.empty((2, 200))) == info


def test_reference_product_is_that_of_the_fp32_reference():
    rng = np.random.default_rng(1)
    a, b, c = narrow(normal(rng, 9, 8), "bfloat16"), narrow(normal(rng, 7, 8), "bfloat16"), normal(rng, 9, 7)
    wanted = c.copy()
    reference.gemm(widened(a), widened(b), wanted)
    kernel("gemm", "bfloat16", "reference")(a, b, c)
    assert np.array_equal(c, wanted)
