"""Efficiencies, scaling studies, calibration."""

import json
from math import log2, sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tilewright as tw
from tilewright import comm
from tilewright.comm import domains
from tilewright.comm.scaling import FORMULAS, MODEL
from tilewright.studies.network import Calibration, fit, measure

SPOT = [
    (4, 0.99800, 0.99751),
    (16, 0.99602, 0.99651),
    (64, 0.99305, 0.99552),
    (256, 0.98814, 0.99453),
    (1024, 0.97943, 0.99354),
    (4096, 0.96339, 0.99256),
]


class TestFormulas:
    @pytest.mark.parametrize(("p", "rows", "grid"), SPOT)
    def test_spot_values_of_weak_scaling(self, p, rows, grid):
        assert round(comm.weak_efficiency("dense", "rows", p, 1e6, MODEL), 5) == rows
        assert round(comm.weak_efficiency("dense", "grid", p, 1e6, MODEL), 5) == grid

    @given(
        p=st.integers(1, 10**6),
        n=st.integers(1, 10**6),
        alpha=st.floats(0, 1e-3),
        beta=st.floats(0, 1e-6),
        gamma=st.floats(1e-12, 1e-6),
    )
    def test_they_are_the_lectures(self, p, n, alpha, beta, gamma):
        machine = tw.Machine(alpha=alpha, beta=beta, gamma=gamma)
        a, b = alpha / gamma, beta / gamma
        memory = n * n / p
        wanted = {
            "rows": 1 / (1 + p * log2(p) / (2 * n**2) * a + p / (2 * n) * b),
            "columns": 1 / (1 + p * log2(p) / (2 * n**2) * a + p / (2 * n) * (b + 1)),
            "grid": 1 / (1 + p * log2(p) / (2 * n**2) * a + sqrt(p) / (2 * n) * (2 * b + 1)),
            "slab": 1 / (1 + a / (5 * memory) + sqrt(p) * b / (5 * sqrt(memory))),
            "patch": 1 / (1 + 2 * a / (5 * memory) + 2 * b / (5 * sqrt(memory))),
        }
        for problem, layout in FORMULAS:
            found = comm.efficiency(problem, layout, p, n, machine)
            assert np.isclose(found, 1.0 if p == 1 else wanted[layout], rtol=1e-12)

    def test_optimistic_scaling_tends_to_one_like_one_over_n(self):
        lost = [1 - comm.efficiency("dense", "rows", 64, n, MODEL) for n in (10**6, 10**7)]
        assert np.isclose(lost[0] / lost[1], 10, rtol=1e-2)

    def test_strong_scaling_falls_like_one_over_p_log_p_in_the_end(self):
        """The lecture says 1/p: true for rows while beta dominates."""
        machine = MODEL.replace(beta=0.0)
        E = [comm.efficiency("dense", "rows", p, 10, machine) * p * log2(p) for p in (2**20, 2**30)]
        assert np.isclose(E[0], E[1], rtol=1e-3)
        machine = tw.Machine(alpha=0.0, beta=1e-9, gamma=1e-9)
        E = [comm.efficiency("dense", "rows", p, 10, machine) * p for p in (2**20, 2**30)]
        assert np.isclose(E[0], E[1], rtol=1e-3)
        E = [comm.efficiency("dense", "grid", p, 10, machine) * sqrt(p) for p in (2**30, 2**40)]
        assert np.isclose(E[0], E[1], rtol=1e-2)

    def test_weak_scaling_of_rows_falls_like_one_over_sqrt_p_and_of_the_grid_like_one_over_log_p(self):
        machine = tw.Machine(alpha=1e-3, beta=1e-6, gamma=1e-9)
        rows = [comm.weak_efficiency("dense", "rows", p, 100, machine) * sqrt(p) for p in (2.0**60, 2.0**70)]
        assert np.isclose(rows[0], rows[1], rtol=1e-2)
        grid = [comm.weak_efficiency("dense", "grid", 2.0**k, 100, machine) * k for k in (400, 800)]
        assert np.isclose(grid[0], grid[1], rtol=2e-2)

    def test_grid_wins_beyond_the_threshold(self):
        """sqrt(p) > 2 + gamma/beta: p > 9 at beta = gamma."""
        machine = tw.Machine(alpha=0.0, beta=1e-9, gamma=1e-9)
        better = {
            p: comm.efficiency("dense", "grid", p, 1000, machine) > comm.efficiency("dense", "rows", p, 1000, machine)
            for p in (4, 8, 10, 16)
        }
        assert better == {4: False, 8: False, 10: True, 16: True}

    @given(p=st.integers(2, 10**5), target=st.floats(0.05, 0.99))
    def test_isoefficiency_is_where_the_efficiency_is_reached(self, p, target):
        for problem, layout in FORMULAS:
            n = comm.isoefficiency(problem, layout, p, target, MODEL)
            assert np.isclose(comm.efficiency(problem, layout, p, n, MODEL), target, rtol=1e-9)

    @pytest.mark.parametrize(("problem", "layout"), FORMULAS)
    def test_they_are_numbers_at_any_scale(self, problem, layout):
        """Neither squares of n nor those of the parts of iso-efficiency overflow where the answer does not."""
        for p in (1, 4, 1e10, 1e160, 10**200, 1e280):
            for n in (5e-324, 1e-200, 1, 1e160, 10**200, 1e300):
                found = [
                    comm.efficiency(problem, layout, p, n, MODEL),
                    comm.weak_efficiency(problem, layout, p, n, MODEL),
                ]
                if problem == "stencil":
                    found.append(domains.efficiency(layout, p, n, MODEL))
                    assert found[0] == pytest.approx(found[2], rel=1e-9)
                assert all(0 <= e <= 1 for e in found) and (found[0] == 1 if p == 1 else True), (p, n)
            for target in (1e-300, 1e-9, 0.5, 1 - 1e-9):
                n = comm.isoefficiency(problem, layout, p, target, MODEL)
                assert np.isfinite(n) and n >= 0
                if p > 1:
                    assert comm.efficiency(problem, layout, p, n, MODEL) == pytest.approx(target, rel=1e-6)
            assert comm.isoefficiency(problem, layout, p, 5e-324, MODEL) == 0

    @pytest.mark.parametrize("kind", ["optimistic", "strong", "weak"])
    def test_points_of_a_study_are_the_definitions(self, kind):
        """T_1 / (p T_p), with T_p counted by hand: a ring of messages there and back is not hidden behind anything."""
        machine = tw.Machine(alpha=3.0, beta=0.5, gamma=0.25)
        study = comm.scaling_study(layouts=("slab",), machine=machine, n=64, memory=256, p=4, most=16)
        for point in study.of(kind, "slab"):
            work = 10 * point.n**2 * machine.gamma
            lost = 2 * (machine.alpha + point.n * machine.beta) if point.p > 1 else 0
            assert point.formula == pytest.approx(work / (point.p * (work / point.p + lost)), rel=1e-12)
            assert point.simulated == pytest.approx(point.formula, rel=1e-12)
        assert {(q.p, q.n) for q in study.of(kind, "slab")} == {
            "optimistic": {(4, 64 * 4**k) for k in range(5)},
            "strong": {(1, 64), (4, 64), (16, 64)},
            "weak": {(1, 16), (4, 32), (16, 64)},
        }[kind]

    def test_isoefficiency_of_rows_grows_as_p(self):
        machine = MODEL.replace(alpha=0.0)
        n = [comm.isoefficiency("dense", "rows", p, 0.8, machine) for p in (10, 100, 1000)]
        assert np.allclose([n[1] / n[0], n[2] / n[1]], 10)

    @pytest.mark.parametrize(
        ("call", "sentence"),
        [
            (
                lambda: comm.efficiency("dense", "cubes", 4, 4, MODEL),
                "no efficiency formula for 'dense' 'cubes'; known: dense rows",
            ),
            (lambda: comm.efficiency("dense", "rows", 0, 4, MODEL), "p must be at least 1, not 0"),
            (lambda: comm.efficiency("dense", "rows", 4, 0, MODEL), "n must be positive, not 0"),
            (lambda: comm.efficiency("dense", "rows", 4, 4, tw.Machine()), "the machine has no gamma"),
            (
                lambda: comm.isoefficiency("dense", "rows", 4, 1.0, MODEL),
                "target must be an efficiency between 0 and 1",
            ),
            (lambda: comm.weak_efficiency("dense", "rows", 4, -1, MODEL), "memory must be positive, not -1"),
            (lambda: comm.scaling_study(p=8), "p=8 is no square"),
            (lambda: comm.scaling_study(most=0), "most must be at least 1, not 0"),
            (lambda: comm.scaling_study(layouts=["tiles"]), "no efficiency formula"),
            (lambda: comm.scaling_study(layouts=["slab", "rows"]), "no efficiency formula for 'stencil' 'rows'"),
            (lambda: comm.scaling_study(layouts=["patch"], p=8), "p=8 is no square"),
            (
                lambda: comm.scaling_study(layouts=["patch"], measured=[2]),
                "p=2 is no square, so it has no square patches",
            ),
            (
                lambda: comm.scaling_study(layouts=["slab"], most=4, measured=[4], measured_n=3),
                "n=3 points along a side are too few for 4 ranks in a line",
            ),
            (lambda: comm.scaling_study(layouts=["slab"], n=64), "256 slabs of 64 x 64 points, for strong scaling"),
        ],
    )
    def test_bad_input_is_one_sentence(self, call, sentence):
        with pytest.raises(ValueError, match=sentence):
            call()


class TestStudy:
    @pytest.fixture(scope="class")
    @staticmethod
    def study():
        return comm.scaling_study(n=256, memory=1024, p=16, most=64)

    def test_simulated_points_lie_on_the_formula(self, study):
        """But for the lecture's (p - 1)/p = 1, and a grid's sqrt(p) - 1 = sqrt(p)."""
        assert {point.kind for point in study.points} == {"optimistic", "strong", "weak"}
        for point in study.points:
            assert point.formula <= point.simulated * (1 + 1e-12) and point.simulated < 1.25 * point.formula

    def test_simulated_points_are_the_exact_cost(self, study):
        from tilewright.comm.grid import matvec_cost

        for point in study.of("weak", "rows"):
            cost = matvec_cost(point.p, point.n, MODEL, grid=(point.p, 1))
            assert point.simulated == 2 * point.n**2 * MODEL.gamma / (point.p * cost)

    def test_slabs_and_patches_are_simulated_exactly_as_their_formulas_say(self, tmp_path):
        study = comm.scaling_study(layouts=["slab", "patch"], n=64, memory=64, p=16, most=16)
        assert len(study.points) == 2 * (5 + 3 + 3)
        for point in study.points:
            assert point.simulated == pytest.approx(point.formula, rel=1e-12)
        weak = [[point.simulated for point in study.of("weak", cut)[1:]] for cut in ("slab", "patch")]
        assert weak[0][1] < weak[0][0] and weak[1][1] == pytest.approx(weak[1][0], rel=1e-12)
        study.plot(tmp_path / "cuts.svg")
        assert "Five-point stencil" in (tmp_path / "cuts.svg").read_text(encoding="utf-8")

    def test_figure_and_record(self, study, tmp_path):
        study.plot(tmp_path / "scaling.png")
        assert (tmp_path / "scaling.png").read_bytes()[:4] == b"\x89PNG"
        assert len(json.loads(study.to_json(tmp_path / "s.json"))["points"]) == len(study.points)
        assert len(str(study).splitlines()) == 1 + len(study.points)

    def test_measured_points_are_there_when_asked_for(self, tmp_path):
        study = comm.scaling_study(
            layouts=["rows"],
            n=64,
            memory=64,
            p=4,
            most=4,
            simulated=False,
            measured=[1, 2],
            measured_n=300,
            computer=MODEL,
        )
        measured = study.of("measured", "rows")
        assert [point.p for point in measured] == [1, 2]
        assert measured[0].measured == 1.0 and measured[1].measured > 0
        study.plot(tmp_path / "measured.svg")

    def test_measured_points_of_slabs_and_patches_are_beside_the_formula_of_the_computer(self):
        study = comm.scaling_study(
            layouts=["slab", "patch"],
            n=64,
            memory=64,
            p=4,
            most=4,
            simulated=False,
            measured=[1, 4],
            measured_n=96,
            computer=MODEL,
        )
        for cut in ("slab", "patch"):
            alone, four = study.of("measured", cut)
            assert (alone.p, alone.n, alone.formula, alone.measured) == (1, 96, 1.0, 1.0)
            assert (four.p, four.formula) == (4, comm.efficiency("stencil", cut, 4, 96, MODEL)) and four.measured > 0


class TestCalibration:
    def test_two_regimes_are_found(self):
        points = [(8 * w, 2e-6 + 1e-9 * w) for w in (1, 10, 100, 1000)]
        points += [(8 * w, 20e-6 + 0.5e-9 * w) for w in (4000, 16_000, 64_000, 256_000)]
        left, right = fit(points)
        assert (left.high, right.low) == (8000, 32_000)
        assert np.allclose([left.alpha, left.beta, right.alpha, right.beta], [2e-6, 1e-9, 20e-6, 0.5e-9])

    def test_one_line_stays_one(self):
        (line,) = fit([(8 * w, 1e-6 + 1e-9 * w) for w in (1, 10, 100, 1000, 10_000, 100_000)])
        assert np.allclose([line.alpha, line.beta], [1e-6, 1e-9])

    @pytest.fixture(scope="class")
    @staticmethod
    def found():
        return measure(sizes=[8, 64, 512, 4096, 32_768, 262_144], seconds=0.2, n=256)

    def test_computer_is_measured(self, found):
        assert [size for size, _ in found.messages] == [8, 64, 512, 4096, 32_768, 262_144]
        assert all(taken > 0 for _, taken in found.messages)
        assert found.gamma_gemm > 0 and found.gamma_gemv > 0
        machine = found.machine(64, "gemm")
        assert machine.gamma == found.gamma_gemm and machine.alpha == found.regimes[0].alpha
        assert json.loads(json.dumps(found.record()))["gamma_gemv"] == found.gamma_gemv

    def test_model_predicts_what_it_was_fitted_to(self):
        points = [(8 * w, 1e-6 + 1e-9 * w) for w in (1, 10, 100, 1000, 10_000)]
        found = Calibration(points, fit(points), 1e-11, 1e-10)
        assert np.allclose([found.predicted(size) for size, _ in points], [taken for _, taken in points])
        assert "8 to 80000 bytes: alpha 1.00 us, beta 1.000 ns a word (8.0 GB/s)" in str(found)

    def test_bad_input_is_one_sentence(self, found):
        with pytest.raises(ValueError, match="a ping-pong needs at least two positive sizes"):
            measure(sizes=[8])
        with pytest.raises(ValueError, match="seconds must be positive, not 0"):
            measure(seconds=0)
        with pytest.raises(ValueError, match="gamma was measured for gemv and gemm, not for 'trsm'"):
            found.machine(kernel="trsm")
