"""Rates of a computer, by rule or measured, and what follows from them."""

import json

import pytest
from click.testing import CliRunner

import tilewright as tw
from tilewright import rates
from tilewright.cli import main
from tilewright.kernels import cpu
from tilewright.linalg import ladder
from tilewright.linalg.gallery import conditioned_spd
from tilewright.linalg.ladder import Estimate

CPUS = {
    "Xeon with AMX": {"avx2", "avx512f", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16"},
    "EPYC Zen 4": {"avx2", "avx512f", "avx512_bf16"},
    "AVX2": {"avx2"},
    "Arm": {"asimd"},
    "unknown": set(),
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty cache folder."""
    monkeypatch.setenv("TILEWRIGHT_CACHE", str(tmp_path))
    rates.stored.cache_clear()
    yield tmp_path
    rates.stored.cache_clear()


def of(cpu):
    return rates.by_rule(frozenset(CPUS[cpu]))


@pytest.mark.parametrize("cpu", CPUS)
def test_every_cpu_has_a_positive_rate_and_a_reason_for_every_format(cpu):
    found = of(cpu)
    assert set(found.flops) == set(ladder.ROUNDOFF) == set(found.reasons)
    assert all(rate > 0 for rate in found.flops.values()) and all(found.reasons.values())


def test_narrow_products_are_much_faster_than_fp32_only_with_matrix_units():
    assert [of(cpu).flops["bf16"] > 2 * of(cpu).flops["fp32"] for cpu in CPUS] == [True, False, False, False, False]


def start(cpu, n, pivot, spread, workers=2):
    """The rung for a matrix with such a sample."""
    return ladder.cheapest(Estimate(pivot, spread, "bf16"), n, workers, of(cpu)).rung


#         condition -> (last pivot, spread) of its sample, as measured at n = 3072
SAMPLES = {1e1: (0.63, 1.0), 1e2: (0.18, 1.2), 1e4: (2.9e-3, 2.0), 1e6: (1.6e-5, 2.4), 1e8: (6.1e-8, 2.6)}


@pytest.mark.parametrize("cpu", [cpu for cpu in CPUS if "AMX" not in cpu])
@pytest.mark.parametrize("n", [3072, 4096, 8192])
def test_without_matrix_units_fp32_is_taken_at_small_conditions(cpu, n):
    assert [start(cpu, n, *SAMPLES[c]) for c in (1e1, 1e2, 1e4)] == ["fp32"] * 3


def test_with_matrix_units_bf16_is_taken_where_the_factor_outweighs_its_steps():
    assert [start("Xeon with AMX", n, *SAMPLES[1e2]) for n in (1536, 3072, 6144, 8192)] == [
        "fp64",
        "fp32",
        "bf16",
        "bf16",
    ]


@pytest.mark.parametrize("cpu", CPUS)
def test_a_rung_that_the_pivots_do_not_allow_is_never_taken(cpu):
    assert start(cpu, 16384, *SAMPLES[1e4]) == "fp32"
    assert start(cpu, 16384, *SAMPLES[1e8]) == "fp64"
    assert start(cpu, 16384, 0.0, 1.0) == "fp64"


def test_the_rung_with_the_least_predicted_time_is_taken():
    for rate in (1e9, 1e11, 1e13):
        given = rates.Rates(dict.fromkeys(ladder.ROUNDOFF, 1e11) | {"bf16": rate})
        found = ladder.cheapest(Estimate(0.5, 1.0, "fp64"), 8192, 4, given)
        assert found.rung == min(found.prices, key=lambda price: price.seconds).rung
        assert (found.rung == "bf16") == (rate == 1e13)


def test_predicted_times_are_near_those_of_a_xeon_with_amx():
    #        n: factor in fp64, fp32, bf16 and a step with fp32, bf16; ms, two cores
    measured = {2048: (35, 36, 33, 10, 10), 4096: (230, 155, 97, 18, 14.5), 6144: (724, 380, 183, 40, 24)}
    for n, taken in measured.items():
        how = n, 2, of("Xeon with AMX")
        factors = [ladder.factor_seconds(rung, *how) for rung in ("fp64", "fp32", "bf16")]
        steps = [ladder.step_seconds(rung, *how) for rung in ("fp32", "bf16")]
        for predicted, ms in zip(factors + steps, taken, strict=True):
            assert 0.7 < 1e3 * predicted / ms < 1.4


@pytest.mark.parametrize(
    ("pivot", "spread", "rung", "steps"),
    [
        (0.63, 1.0, "bf16", 5),
        (0.18, 1.2, "bf16", 6),
        (0.18, 1.2, "fp32", 3),
        (1.6e-5, 2.4, "fp32", 5),
        (1, 1, "fp64", 1),
    ],
)
def test_expected_steps_are_those_that_were_taken(pivot, spread, rung, steps):
    assert Estimate(pivot, spread, rung).steps(rung, 3072) == steps


def test_info_prints_the_predicted_price_of_each_rung_and_why(monkeypatch):
    monkeypatch.setattr(ladder, "SMALL", 1)
    monkeypatch.setattr(rates, "current", lambda: of("EPYC Zen 4"))
    a = conditioned_spd(400, 1e5)
    x, info = tw.solve(a, a.sum(axis=1), return_info=True)
    text = str(info)
    assert "predicted bf16 not allowed by the pivots" in text
    assert "predicted fp32 " in text and "after the factor); twice as many numbers in a vector" in text
    assert [price.rung for price in info.estimate.prices] == ["bf16", "fp32", "fp64"]
    assert info.precision == info.estimate.rung == "fp64"  # so small that steps are all that counts
    assert abs(x - 1).max() < 1e-9


class TestStored:
    def test_without_a_file_the_rules_hold(self, folder):
        assert rates.stored() is None
        assert rates.current() == rates.by_rule(cpu.features())

    def test_calibration_is_stored_and_used(self, folder):
        file = rates.measure(size=64, repeat=1)
        found = rates.current()
        assert file.parent == folder and found.source == f"measured, {file.name}"
        assert set(found.flops) == set(ladder.ROUNDOFF) and all(rate > 0 for rate in found.flops.values())

    @pytest.mark.parametrize("text", ["", "[]", "{}", '{"flops": {"fp64": 1}, "bandwidth": 1, "task": 1}', "\x00"])
    def test_a_file_that_cannot_be_used_is_told_of_and_left(self, folder, text):
        rates.path().write_text(text)
        with pytest.warns(RuntimeWarning, match="the stored rates are not used"):
            assert rates.current() == rates.by_rule(cpu.features())

    @pytest.mark.parametrize("rate", [0, -1, float("nan"), float("inf")])
    def test_rates_that_are_none_are_not_used(self, folder, rate):
        file = rates.measure(size=64, repeat=1)
        content = json.loads(file.read_text())
        content["flops"]["fp32"] = rate
        file.write_text(json.dumps(content))
        rates.stored.cache_clear()
        with pytest.warns(RuntimeWarning, match="positive rate"):
            assert rates.stored() is None

    def test_the_disk_is_looked_at_once_in_a_process(self, folder, monkeypatch):
        rates.measure(size=64, repeat=1)
        kept = rates.current()
        monkeypatch.setattr(rates.caches, "folder", lambda: pytest.fail("looked again"))
        assert rates.current() is kept

    def test_the_command_measures_and_forgets(self, folder):
        run = CliRunner()
        said = json.loads(run.invoke(main, ["calibrate", "--rates", "--json"]).stdout)
        assert said["rates"] == dict(rates.current().flops) and said["file"] == str(rates.path())
        assert f"Kept in {rates.path()}" in run.invoke(main, ["calibrate", "--rates"]).stdout
        assert run.invoke(main, ["calibrate", "--rates", "--forget"]).stdout == "The rules hold again.\n"
        assert rates.stored() is None and not rates.path().exists()

    @pytest.mark.parametrize("options", [["--forget"], ["--blas", "--rates"]])
    def test_the_command_refuses_what_makes_no_sense(self, options):
        done = CliRunner().invoke(main, ["calibrate", *options])
        assert done.exit_code == 2 and "--blas" in done.output
