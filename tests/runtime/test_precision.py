"""Formats and precision maps."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matrices import spd_matrix
from optional import torch

import tilewright as tw
from tilewright.linalg.norms import tile_norms
from tilewright.precision import FORMATS, PrecisionMap, find_format

#          u        largest                  smallest normal  smallest subnormal
TABLE = {
    "fp64": (2.0**-53, 1.7976931348623157e308, 2.2250738585072014e-308, 5e-324),
    "fp32": (2.0**-24, 3.4028234663852886e38, 1.1754943508222875e-38, 1.401298464324817e-45),
    "tf32": (2.0**-11, 3.4011621342146535e38, 1.1754943508222875e-38, 1.1479437019748901e-41),
    "bf16x3": (2.0**-16, 3.3961515677461674e38, 3.009265538105056e-36, 9.183549615799121e-41),
    "bf16": (2.0**-8, 3.3895313892515355e38, 1.1754943508222875e-38, 9.183549615799121e-41),
    "fp16": (2.0**-11, 65504.0, 6.103515625e-05, 5.960464477539063e-08),
}


class TestFormats:
    @pytest.mark.parametrize("name", TABLE)
    def test_constants(self, name):
        f = FORMATS[name]
        assert (f.u, f.max, f.tiny, f.smallest) == TABLE[name]
        assert f.eps == 2 * f.u  # the two are never mixed up

    @pytest.mark.parametrize(
        ("name", "dtype"),
        [("fp64", torch.float64), ("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)],
    )
    def test_constants_are_torchs(self, name, dtype):
        f, info = FORMATS[name], torch.finfo(dtype)
        assert (f.bits, f.eps, f.max, f.tiny) == (info.bits, info.eps, info.max, info.tiny)

    @given(x=st.floats(width=32), name=st.sampled_from(["bf16", "fp16"]))
    def test_rounding_is_torchs(self, x, name):
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}[name]
        wanted = torch.tensor(x, dtype=torch.float32).to(dtype).double().item()
        assert np.array_equal(FORMATS[name].round(x), wanted, equal_nan=True)

    @given(x=st.floats(allow_nan=False, allow_infinity=False))
    def test_fp64_is_not_rounded(self, x):
        assert FORMATS["fp64"].round(x) == x

    def test_relative_error_is_at_most_u_and_reaches_it(self):
        for f in FORMATS.values():
            if f.name not in ("fp64", "bf16x3"):
                assert abs(f.round(1 + f.u) - (1 + f.u)) == f.u
                assert f.round(1 + 1.01 * f.u) == 1 + f.eps

    @given(x=st.floats(2.0**-118, 2.0**127, width=32))
    def test_two_parts_have_at_least_the_digits_of_the_format(self, x):
        assert abs(FORMATS["bf16x3"].round(x) - x) <= FORMATS["bf16x3"].u * x

    def test_unknown_name_lists_the_known(self):
        with pytest.raises(ValueError, match="unknown precision 'fp8'; known: fp64, fp32, tf32, bf16x3, bf16, fp16"):
            find_format("fp8")


class TestMaps:
    def test_uniform(self):
        pm = PrecisionMap.uniform(3, "bf16")
        assert pm.single is FORMATS["bf16"]
        assert pm.counts() == {"bf16": 6}
        assert pm.accumulate == "float32"

    def test_band_goes_by_distance(self):
        pm = PrecisionMap.band(5, {0: "fp64", 1: "fp32", 3: "fp16"})
        assert [pm[4, j].name for j in range(5)] == ["fp16", "fp16", "fp32", "fp32", "fp64"]
        assert pm.accumulate == "float64" and pm.single is None

    def test_users_array(self):
        pm = PrecisionMap([["fp32", "?"], ["bf16", "fp32"]])
        assert str(pm) == "fp32\nbf16 fp32"
        assert pm == PrecisionMap.band(2, {0: "fp32", 1: "bf16"})
        assert len({pm, PrecisionMap.band(2, {0: "fp32", 1: "bf16"})}) == 1

    @pytest.mark.parametrize(
        ("formats", "message"),
        [([["fp32", "fp32"]], "square array"), ([["fp7"]], "unknown precision 'fp7'"), (["fp32"], "square array")],
    )
    def test_bad_arrays(self, formats, message):
        with pytest.raises(ValueError, match=message):
            PrecisionMap(formats)

    def test_above_the_diagonal_there_is_nothing(self):
        with pytest.raises(IndexError, match=r"tile \(0, 1\) is not in the lower triangle"):
            PrecisionMap.uniform(2, "fp32")[0, 1]

    def test_band_needs_a_start(self):
        with pytest.raises(ValueError, match="from distance 0 on"):
            PrecisionMap.band(3, {1: "bf16"})

    def test_tile_norms(self):
        a = spd_matrix(50)
        norms, largest = tile_norms(a, 20, workers=2)
        assert np.isclose(norms[2, 0] * largest[2, 0], np.linalg.norm(a[40:, :20]))
        assert np.isclose(norms[1, 1] * largest[1, 1], np.linalg.norm(a[20:40, 20:40]))
        assert largest[2, 1] == np.abs(a[40:, 20:40]).max()
        assert tile_norms(np.zeros((4, 4)), 2)[0].sum() == 0

    @pytest.mark.parametrize("tolerance", [1e-1, 1e-3, 1e-5, 1e-8])
    @pytest.mark.parametrize("formats", [("bf16", "fp32", "fp64"), ("fp16", "fp32", "fp64")])
    def test_norm_rule_keeps_its_promise(self, tolerance, formats):
        """||A - A'||_F <= tolerance ||A||_F, with every tile rounded to its format."""
        x = np.linspace(0, 1, 96)
        a = np.exp(-np.abs(x[:, None] - x) / 0.1) + np.diag(np.full(96, 0.1))
        pm = PrecisionMap.norm(a, tile_size=16, tolerance=tolerance, formats=formats, workers=2)
        rounded = a.copy()
        for i, j in pm:
            rows, columns = slice(16 * i, 16 * i + 16), slice(16 * j, 16 * j + 16)
            rounded[rows, columns] = pm[i, j].round(a[rows, columns])
            rounded[columns, rows] = rounded[rows, columns].T
        assert np.linalg.norm(rounded - a) <= tolerance * np.linalg.norm(a)
        assert {pm[i, i].name for i in range(6)} == {"fp64"}
        assert (formats[0] in pm.counts()) == (tolerance >= 1e-5)

    def test_norm_rule_respects_the_range(self):
        a = np.eye(40)
        a[30, 5] = 1e5
        a[0, 0] = 1e12
        pm = PrecisionMap.norm(a, tile_size=20, tolerance=0.1, formats=("fp16", "fp32"))
        assert pm[1, 0].name == "fp32"

    @pytest.mark.parametrize("scale", [1e-290, 1e-160, 1e160, 1e300, np.finfo(float).max / 2])
    def test_norm_rule_does_not_depend_on_the_scale(self, scale):
        """Squares of such numbers overflow or underflow; that of a whole tile may be larger than any number."""
        a = np.exp(-np.abs(np.subtract.outer(np.arange(60), np.arange(60))) / 4.0)
        formats = ("tf32", "fp64") if scale < 1 else ("fp64",)  # those that may have the range
        wanted = PrecisionMap.norm(a, tile_size=12, tolerance=1e-4, formats=formats)
        with np.errstate(all="raise"):
            got = PrecisionMap.norm(a * scale, tile_size=12, tolerance=1e-4, formats=formats, workers=1)
        assert got == wanted

    def test_bad_tolerance(self):
        with pytest.raises(ValueError, match="tolerance must be positive"):
            PrecisionMap.norm(np.eye(4), tile_size=2, tolerance=0)


class TestFactorsWithMaps:
    def test_map_of_one_format_gives_the_bits_of_the_name(self):
        a = spd_matrix(90)
        for name in FORMATS:
            wanted = tw.tiled_cholesky(a, precision=name, tile_size=30, workers=2)
            assert np.array_equal(tw.tiled_cholesky(a, precision=PrecisionMap.uniform(3, name), workers=2), wanted)

    @pytest.mark.parametrize("backend", ["serial", "threads", "mpi"])
    def test_mixed_map_has_the_same_bits_everywhere(self, backend):
        a = spd_matrix(100)
        pm = PrecisionMap.band(5, {0: "fp64", 1: "bf16x3", 2: "fp32", 3: "bf16", 4: "fp16"})
        wanted = tw.tiled_cholesky(a, precision=pm, backend="serial")
        got = tw.tiled_cholesky(a, precision=pm, backend=backend, workers=2)
        assert got.dtype == np.float64
        assert np.array_equal(got, wanted)
        assert np.linalg.norm(got @ got.T - a) < 1e-4 * np.linalg.norm(a)

    def test_error_follows_the_tolerance(self):
        x = np.linspace(0, 1, 160)
        a = np.exp(-np.abs(x[:, None] - x) / 0.05) + 0.1 * np.eye(160)
        errors = []
        for tolerance in (1e-1, 1e-3, 1e-6, 1e-10):
            pm = PrecisionMap.norm(a, tile_size=20, tolerance=tolerance)
            factor = tw.tiled_cholesky(a, precision=pm, workers=2)
            errors.append(np.linalg.norm(factor @ factor.T - a) / np.linalg.norm(a))
            assert errors[-1] < tolerance
        assert errors == sorted(errors, reverse=True)

    def test_map_of_another_size_is_refused(self):
        with pytest.raises(ValueError, match="3 x 3 tiles, but a matrix of 100 rows has 4 x 4 tiles of 25"):
            tw.tiled_cholesky(spd_matrix(100), precision=PrecisionMap.uniform(3, "bf16"), tile_size=25)

    def test_complex_matrices_are_refused(self):
        with pytest.raises(TypeError, match="mixed precision is for real matrices, not complex128"):
            tw.tiled_cholesky(np.eye(3, dtype=complex), precision="bf16")

    def test_unknown_precision_is_refused(self):
        with pytest.raises(ValueError, match="unknown precision 'half'"):
            tw.tiled_cholesky(np.eye(3), precision="half")
