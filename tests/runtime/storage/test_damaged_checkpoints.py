"""Checkpoints that are damaged, foreign or forged: one sentence that names the file, nothing executed, nothing lost."""

import json
import os
import shutil
import zlib
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from matrices import po_matrix, random_matrix

import tilewright as tw
from tilewright import cli
from tilewright.host.files import open_regular
from tilewright.kernels.swaps import swap_rows
from tilewright.linalg.trees import PANEL
from tilewright.storage import parts
from tilewright.storage.checkpoint import Checkpoint, read_call

N, NB = 24, 8
A = random_matrix(N, N)
PLACES = {"in core": {}, "out of core": {"out": ("Q.npy", "R.npy"), "overwrite_out": True}}
WANTED = {"in core": tw.qr(A, tile_size=NB), "out of core": tw.qr(A, tile_size=NB, tree=PANEL)}
ODD = [None, -1, 2**70, 1e300, float("nan"), "x", [], {}, True, [[]], [-1, 5], [2**40, 2**40], ["x"]]
"""What stands where a number, a name or a list is to stand."""


def qr(folder, **how):
    return tw.qr(A, tile_size=NB, checkpoint=folder, **how)


def same(place, found):
    return all(np.array_equal(one, other) for one, other in zip(found, WANTED[place], strict=True))


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """Whole checkpoints of a QR factorisation in core and out of core, and of LU and Cholesky out of core."""
    folder = tmp_path_factory.mktemp("begun")
    for place, how in PLACES.items():
        out = {name: tuple(str(folder / file) for file in value) for name, value in how.items() if name == "out"}
        assert same(place, qr(folder / place, **how | out))
    np.save(folder / "A.npy", A)
    tw.lu_factor(folder / "A.npy", tile_size=NB, checkpoint=folder / "lu", out=folder / "F.npy")
    return folder


@pytest.fixture
def there(begun, tmp_path, monkeypatch):
    """Copies of them in the current folder."""
    shutil.copytree(begun, tmp_path / "there")
    monkeypatch.chdir(tmp_path / "there")


def trap(path):
    path.write_bytes(b"cpathlib\nPath\n(Vran\ntR(cpathlib\nPath.touch\n.")


def pipe(path):
    os.mkfifo(path)


DAMAGES = {
    "a folder": lambda path, data: path.mkdir(),
    "a pipe": lambda path, data: pipe(path),
    "a link to itself": lambda path, data: path.symlink_to(path.name),
    "gone": lambda path, data: None,
    "empty": lambda path, data: path.write_bytes(b""),
    "cut off": lambda path, data: path.write_bytes(data[: len(data) // 2]),
    "longer": lambda path, data: path.write_bytes(data + b"\0" * 4096),
    "a bit of its head": lambda path, data: path.write_bytes(data[:40] + bytes([data[40] ^ 8]) + data[41:]),
    "a bit of its end": lambda path, data: path.write_bytes(data[:-300] + bytes([data[-300] ^ 8]) + data[-299:]),
    "deeply nested": lambda path, data: path.write_bytes(b"[" * 200_000),
    "other bytes": lambda path, data: path.write_bytes(bytes(range(256)) * 20),
    "a pickle": lambda path, data: trap(path),
}
CHECKED = (tw.CheckpointError, OSError)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_one_sentence_or_the_right_result(there, place, damage):
    """Nothing else changes: with the file brought back the run goes on to the same bits."""
    for path in sorted(Path(place).iterdir()):
        data = path.read_bytes()
        if len(data) < 400 and damage.startswith("a bit"):
            continue  # the log of a run in parts is empty
        path.unlink()
        DAMAGES[damage](path, data)
        others = {p.name: p.read_bytes() for p in Path(place).iterdir() if p != path and p.is_file()}
        try:
            assert same(place, qr(place, resume=True, **PLACES[place])), path
        except CHECKED as error:
            said = str(error)
            assert "\n" not in said and Path(place).name in said
            assert isinstance(error, tw.CheckpointError) or "cannot read" in said
            assert not any("goes on from" in note for note in getattr(error, "__notes__", ()))
            assert others == {name: (Path(place) / name).read_bytes() for name in others}
            if path.name.startswith("part") and isinstance(error, tw.CheckpointError):
                assert "remove it, and the run makes again what it had" in said
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        path.unlink(missing_ok=True)
        path.write_bytes(data)
    assert same(place, qr(place, resume=True, **PLACES[place]))
    assert not Path("ran").exists()


@pytest.mark.parametrize("place", PLACES)
def test_what_a_removed_part_had_is_made_again(there, place):
    for path in sorted(Path(place).glob("part-*.bin")):
        path.unlink()
        assert same(place, qr(place, resume=True, **PLACES[place]))


@pytest.mark.parametrize("place", PLACES)
def test_parts_of_another_run_are_refused_by_name(there, place):
    """Under other names they are the run's all the same. How many there are in core is a matter of time."""
    for number, path in enumerate(sorted(Path(place).glob("part-*.bin"))):
        one = path.rename(path.with_name(f"part-{number:016x}.bin"))
    assert same(place, qr(place, resume=True, **PLACES[place]))
    how = {"out": ("Q2.npy", "R2.npy")} if "out" in PLACES[place] else {}
    tw.qr(A + 1, tile_size=NB, checkpoint="foreign", **how)
    one.write_bytes(next(Path("foreign").glob("part-*.bin")).read_bytes())
    with pytest.raises(tw.CheckpointError, match=rf"{one.name} is of another run than .*{place}/run\.json"):
        qr(place, resume=True, **PLACES[place])


def forge(path, change):
    """Change what the head of a part says, and see to it that its checksum is right."""
    raw = path.read_bytes()
    line, rest = raw.split(b"\n", 1)
    size = int(line.split()[-1])
    body = raw[-(-(len(line) + 1 + size) // 4096) * 4096 :]
    said = change(json.loads(rest[:size]))
    text = said if isinstance(said, bytes) else json.dumps(said).encode()
    head = b"%s %08x %012d\n" % (parts._MAGIC, zlib.crc32(text), len(text)) + text
    path.write_bytes(head + b"\n" * (-len(head) % 4096) + body)


def test_a_forged_head_of_a_part_is_refused_or_names_places_in_the_file(there):
    path = next(p for p in Path("in core").glob("part-*.bin") if parts.read_part(p).sources)
    whole, refused = path.read_bytes(), 0
    rows = [("tiles", column) for column in range(7)] + [("sources", column) for column in range(3)]
    for key, column in [("run", None), ("size", None), ("tiles", None), ("sources", None), *rows]:
        for value in ODD:

            def change(said, key=key, column=column, value=value):
                if column is None:
                    said[key] = value
                else:
                    said[key][0][column] = value
                return said

            path.write_bytes(whole)
            forge(path, change)
            try:
                found = parts.read_part(path)
            except tw.CheckpointError as error:
                refused += 1
                assert path.name in str(error) and "remove it" in str(error)
            else:
                end = path.stat().st_size
                assert all(0 <= tile.start <= end for tile in found.tiles.values()), (key, column, value)
    assert refused > 120
    for text in (b"[" * 100_000, b"", b"null", b"\xff", b"[1]", b"{}"):
        path.write_bytes(whole)
        forge(path, lambda said, text=text: text)
        with pytest.raises(tw.CheckpointError, match="its head says what no run writes; remove it"):
            qr("in core", resume=True)
    path.write_bytes(b"%s %08x %012d\n" % (parts._MAGIC, 0, 999_999_999_999))  # of which nobody makes room
    with pytest.raises(tw.CheckpointError, match="its head is not as it was written"):
        parts.read_part(path)


@pytest.mark.parametrize("key", ["panel", "tiles", "of", "piv"])
def test_a_forged_line_of_the_log_is_refused(there, key):
    """Each line has a checksum, which whoever forges it knows; row exchanges stay in the matrix."""
    log = Path("lu/panels.log")
    first, *others = log.read_bytes().splitlines()
    how = {"tile_size": NB, "checkpoint": "lu", "out": "F.npy", "resume": True, "overwrite_out": True}
    for value in [*ODD, "gone", [N] * NB, [0] * (NB + 1), [1.5] * NB, ["a"] * 3]:
        entry = json.loads(first.rpartition(b" ")[0]) | {key: value}
        if value == "gone":
            del entry[key]
        text = json.dumps(entry).encode()
        log.write_bytes(b"\n".join([b"%s %08x" % (text, zlib.crc32(text)), *others]) + b"\n")
        with pytest.raises(tw.CheckpointError, match="damaged in line 1|has panel|has other numbers"):
            tw.lu_factor("A.npy", **how)


def test_row_exchanges_that_leave_the_matrix_are_not_given_to_lapack():
    for dtype in ("f4", "f8", "c8", "c16"):
        for row in (5, -1, 2**31 - 1, -(2**31)):
            a = np.asfortranarray(np.ones((5, 3), dtype))
            with pytest.raises(ValueError, match=f"a matrix of 5 rows go to row {row}: pivots are damaged"):
                swap_rows(np.array([0, row], np.int32), [a])


@pytest.mark.parametrize("text", ["", "[]", "null", '{"format": 1}', "[" * 100_000, '{"format": 1, "facts": [1]}'])
def test_a_damaged_run_file_is_one_sentence_on_the_command_line(there, text):
    Path("lu/run.json").write_text(text)
    with pytest.raises(tw.CheckpointError, match=r"lu/run\.json is (damaged|of another version)"):
        read_call(Path("lu"))
    result = CliRunner().invoke(cli.main, ["resume", "lu"], catch_exceptions=False)
    assert result.exit_code == 2 and "run.json is " in result.output and "Traceback" not in result.output


@pytest.mark.parametrize(
    ("change", "message"),
    [
        *((lambda call, value=value: value, "does not say which call") for value in ([], None, 3, "x")),
        *((lambda call, v=value: call | {"keywords": v}, "does not say which call") for value in ([], None, 3)),
        (lambda call: call | {"routine": ["qr"]}, "does not say what was called"),
        (lambda call: call | {"a": 3}, "does not say what was called"),
        (lambda call: call | {"out": ["F.npy", 4]}, "does not say what was called"),
        *(
            (lambda call, k=key: call | {"keywords": {k: "tcp://10.0.0.1:8786"}}, f"keyword '{key}', which no run")
            for key in ("client", "pool", "progress", "out", "checkpoint", "__class__")
        ),
    ],
)
def test_a_checkpoint_cannot_say_what_a_stranger_would(there, change, message):
    said = json.loads(Path("lu/run.json").read_text())
    Path("lu/run.json").write_text(json.dumps(said | {"call": change(said["call"])}))
    result = CliRunner().invoke(cli.main, ["resume", "lu"], catch_exceptions=False)
    assert result.exit_code == 2 and message in result.output and "Traceback" not in result.output


@pytest.mark.parametrize("call", [tw.tiled_cholesky, tw.lu_factor, tw.qr], ids=["cholesky", "lu", "qr"])
def test_numbers_of_a_run_whose_run_file_is_gone_are_kept(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    a, out = po_matrix(2, N), ("Q.npy", "R.npy") if call is tw.qr else "F.npy"
    for folder, how in (("core", {}), ("out", {"out": out})):
        call(a, tile_size=NB, checkpoint=folder, **how)
        kept = {path.name: path.read_bytes() for path in Path(folder).iterdir()}
        said = kept.pop("run.json")
        Path(folder, "run.json").unlink()
        for resume in (False, True):
            with pytest.raises(tw.CheckpointError, match=f"{folder} has .* but no run.json that says of which; bring"):
                call(
                    a, tile_size=NB, checkpoint=folder, resume=resume, **how | ({"overwrite_out": True} if how else {})
                )
        assert {path.name: path.read_bytes() for path in Path(folder).iterdir()} == kept
        Path(folder, "run.json").write_bytes(said)
        call(a, tile_size=NB, checkpoint=folder, resume=True, **how | ({"overwrite_out": True} if how else {}))


def test_a_file_to_be_read_is_a_file(tmp_path):
    pipe(tmp_path / "pipe")
    for path, message in (
        (tmp_path, "Is a directory"),
        (tmp_path / "pipe", "no regular file"),
        ("/dev/null", "no reg"),
    ):
        with pytest.raises(OSError, match=f"cannot read {path}: .*{message}"):
            open_regular(path)
    with pytest.raises(FileNotFoundError, match=r"cannot read .*gone: No such file"):
        open_regular(tmp_path / "gone")
    (tmp_path / "file").write_bytes(b"abc")
    with open_regular(tmp_path / "file") as file:
        assert file.read() == b"abc"


def test_a_checkpoint_folder_that_is_a_file_or_has_a_folder_for_its_log_is_refused_before_work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("mine")
    with pytest.raises(FileExistsError, match="cannot write a checkpoint in file"):
        Checkpoint("file", {}, {})
    Path("run/panels.log").mkdir(parents=True)
    with pytest.raises((OSError, tw.CheckpointError), match=r"panels\.log"):
        Checkpoint("run", {}, {})
    assert Path("file").read_text() == "mine" and not Path("run/run.json").exists()
