"""Caches of the CPU: read from Linux, pretended, or not known."""

import pytest

from tilewright.benchmarks import computer
from tilewright.kernels import caches
from tilewright.kernels.caches import Cache

KIB, MIB = 1 << 10, 1 << 20


def folder_of(path, *found):
    """A folder as Linux has it: level, type, size and which CPUs share it."""
    for number, row in enumerate(found):
        folder = path / f"index{number}"
        folder.mkdir()
        for name, text in zip(("level", "type", "size", "shared_cpu_list"), row, strict=False):
            (folder / name).write_text(text + "\n")
    return path


def test_sizes_are_bytes_by_level_and_kind(tmp_path):
    found = caches.read(
        folder_of(
            tmp_path,
            ("1", "Data", "48K", "0"),
            ("1", "Instruction", "32K", "0"),
            ("2", "Unified", "2048K", "0"),
            ("3", "Unified", "105M", "0-1"),
            ("4", "?", "1K"),
            ("5", "Unified", "many"),
            ("6", "Unified", ""),
            ("7", "Unified", "0K"),
        )
    )
    assert {name: cache.size for name, cache in found.items()} == {
        "L1d": 48 * KIB,
        "L1i": 32 * KIB,
        "L2": 2 * MIB,
        "L3": 105 * MIB,
    }


@pytest.mark.parametrize(
    ("first", "second", "share"),
    [
        ("0", "0", 4 * MIB),
        ("0", "0-3", MIB),
        ("0,32", "0,32", 4 * MIB),
        ("0-1", "0-7", MIB),
        (None, None, 4 * MIB),
        ("0", "?", 4 * MIB),
        ("", "0-1", 2 * MIB),
    ],
    ids=["own", "of four", "two threads", "four cores, two threads", "not said", "not clear", "first not clear"],
)
def test_a_core_has_its_share_and_threads_of_one_core_share_nothing(tmp_path, first, second, share):
    rows = [("1", "Data", "32K", first), ("2", "Unified", "4M", second)]
    found = caches.read(folder_of(tmp_path, *[row if row[3] is not None else row[:3] for row in rows]))
    assert found["L2"] == Cache(4 * MIB, share)


def test_where_nothing_is_said_nothing_is_known_and_the_second_level_is_that_of_most_servers(tmp_path, monkeypatch):
    monkeypatch.delenv(caches.VARIABLE, raising=False)
    assert caches.read(tmp_path / "nowhere") == {}
    monkeypatch.setattr(caches, "_system", dict)
    assert caches.caches() == {} and caches.level2() == MIB


def test_caches_can_be_pretended(monkeypatch):
    monkeypatch.setenv(caches.VARIABLE, "L1d=32K, L2=512K,L3=16M")
    assert caches.caches() == {
        name: Cache(s, s) for name, s in (("L1d", 32 * KIB), ("L2", 512 * KIB), ("L3", 16 * MIB))
    }
    assert caches.level2() == 512 * KIB
    assert computer.computer.__wrapped__()["caches"] == {"L1d": 32 * KIB, "L2": 512 * KIB, "L3": 16 * MIB}
    monkeypatch.setenv(caches.VARIABLE, "L1d=32K")
    assert caches.level2() == MIB
    monkeypatch.setenv(caches.VARIABLE, "none")
    assert caches.caches() == {} and caches.level2() == MIB


@pytest.mark.parametrize("text", ["", "L2", "L2=", "L2=K", "L2=-1M", "L2=0", "L2=1X", "second=1M", "L2=1M,,"])
def test_a_wrong_pretence_is_named_and_nothing_is_known(text, monkeypatch):
    monkeypatch.setenv(caches.VARIABLE, text)
    with pytest.warns(RuntimeWarning, match="TILEWRIGHT_CPU_CACHES"):
        assert caches.caches() == {}
