"""Every record of a benchmark says on which computer, with which software and by which kernels it was made."""

import json
import os

import pytest

from tilewright.benchmarks import computer, record
from tilewright.kernels import blas, choice, cpu

XEON = {"model name": "Xeon", "vendor_id": "GenuineIntel", "flags": "fpu sse2 avx2 avx512f amx_bf16 avx512_bf16"}
ARM = {"Features": "fp asimd asimdhp bf16 i8mm sve"}


def test_a_record_carries_the_fingerprint_and_can_be_read_again(tmp_path):
    path = tmp_path / "records.jsonl"
    record.append(path, [{"n": 1}, {"n": 2}])
    first, second = record.read(path)
    assert (first.pop("n"), second.pop("n")) == (1, 2)
    assert first == second == json.loads(json.dumps({"environment": record.environment()}))
    found = first["environment"]
    assert {"cpu", "vendor", "instructions", "cores", "cpus", "caches", "memory"} == set(found["computer"])
    assert found["computer"]["cores"] >= 1
    assert {"numpy", "scipy", "tilewright"} <= set(found["packages"])


def test_a_record_says_which_library_served_which_op(restore_blas):
    for name, library in blas.available().items():
        if isinstance(library, blas.Library):
            choice.use(name)
            found = record.environment()["blas"]
            assert set(found["ops"]) == set(choice.ROUTINES)
            assert {word for row in found["ops"].values() for word in row.split()} == {name}
            assert found["versions"] == {name: library.version}
            assert set(found["modes"]) == {name}


@pytest.mark.parametrize(
    ("facts", "instructions"),
    [
        (XEON, ["avx2", "avx512f", "avx512_bf16", "amx_bf16"]),
        (ARM, ["asimd", "asimdhp", "bf16", "i8mm", "sve"]),
        ({}, []),
    ],
    ids=["Xeon", "Arm", "unknown"],
)
def test_instructions_are_those_that_matter(facts, instructions, monkeypatch):
    monkeypatch.setattr(cpu, "facts", lambda: facts)
    assert computer.computer.__wrapped__()["instructions"] == instructions


def test_settings_are_the_variables_that_change_what_libraries_do(monkeypatch):
    for name in os.environ:
        if name.startswith(computer._SWITCHES):
            monkeypatch.delenv(name)
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    monkeypatch.setenv("EDITOR", "ed")
    assert computer.settings() == {"OPENBLAS_CORETYPE": "Haswell"}
