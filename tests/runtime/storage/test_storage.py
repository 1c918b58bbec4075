"""Blocks of matrices in files go to where they belong, whatever the order of file and memory."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from matrices import DTYPES, random_matrix

import tilewright as tw
from tilewright.storage import batches
from tilewright.storage.lines import Lines
from tilewright.storage.matrix import Held, StoredTiles
from tilewright.storage.npy import create_npy, open_npy
from tilewright.storage.opening import Output, hold, open_source, scratch_file

M, N = 23, 17


def blocks(nb):
    return [(i, j) for i in range(0, M, nb) for j in range(0, N, nb)]


def shape(i, j, nb):
    return min(nb, M - i), min(nb, N - j)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("memory", ["C", "F"])
@pytest.mark.parametrize("nb", [1, 5, 17, 40])
def test_blocks_are_read_and_written_one_by_one_and_in_rows_and_columns(tmp_path, dtype, order, memory, nb):
    a = np.asarray(random_matrix(M, N, dtype), order=order)
    np.save(tmp_path / "a.npy", a)
    with (tmp_path / "b.npy").open("w+b", buffering=0) as file:
        written = create_npy(file, tmp_path / "b.npy", (M, N), dtype, order)
        source = open_npy(tmp_path / "a.npy")
        by_rows = [[(i, j) for j in range(0, N, nb)] for i in range(0, M, nb)]
        by_columns = [[(i, j) for i in range(0, M, nb)] for j in range(0, N, nb)]
        single = [[place] for place in blocks(nb)]
        for places in (*by_rows, *by_columns, *single):
            tiles = [np.empty(shape(i, j, nb), dtype, memory) for i, j in places]
            source.read(places, tiles)
            for (i, j), tile in zip(places, tiles, strict=True):
                assert np.array_equal(tile, a[i : i + nb, j : j + nb])
            written.write(places, tiles)
            turned = [np.empty(shape(i, j, nb)[::-1], dtype, memory) for i, j in places]
            source.T.read([(j, i) for i, j in places], turned)
            assert all(np.array_equal(one, other.T) for one, other in zip(tiles, turned, strict=True))
        source.close()
    found = np.load(tmp_path / "b.npy")
    assert np.array_equal(found, a) and found.flags.f_contiguous == (order == "F")


@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize("memory", ["C", "F"])
def test_many_lines_of_several_tiles_with_a_system_that_takes_lists_and_one_that_does_not(
    tmp_path, monkeypatch, listed, memory
):
    m, n, nb = 2500, 12, 5
    if not listed:
        monkeypatch.setattr(batches, "_system", lambda: None)
    a = random_matrix(m, n)
    np.save(tmp_path / "a.npy", a)
    places = [(3, j) for j in range(0, n, nb)]
    with (tmp_path / "b.npy").open("w+b", buffering=0) as file:
        source, target = open_npy(tmp_path / "a.npy"), create_npy(file, tmp_path / "b.npy", (m, n), "f8", "C")
        for some in (places, places[1:2]):
            tiles = [np.empty((m - 7, min(nb, n - j)), order=memory) for _, j in some]
            source.read(some, tiles)
            target.write(some, tiles)
            assert all(np.array_equal(tile, a[3:-4, j : j + nb]) for (_, j), tile in zip(some, tiles, strict=True))
        source.close()
    wanted = np.zeros((m, n))
    wanted[3:-4] = a[3:-4]
    assert np.array_equal(np.load(tmp_path / "b.npy"), wanted)


def test_a_list_of_lines_says_what_became_of_each(tmp_path):
    if batches._system() is None:
        pytest.skip("this system takes no lists of reads")
    (tmp_path / "file").write_bytes(bytes(range(100)))
    memory = np.zeros((3, 10), np.uint8)
    at = memory.__array_interface__["data"][0]
    pieces = np.array([[[at + 10 * k, 4], [at + 10 * k + 5, 4]] for k in range(3)], np.uint64)
    with (tmp_path / "file").open("rb") as file:
        done = batches.moved(file.fileno(), np.array([10, 95, 200]), pieces, write=False)
        if done is None:
            pytest.skip("this system takes no lists of reads")
        assert done.tolist() == [8, 5, 0]
        assert memory[0].tolist() == [10, 11, 12, 13, 0, 14, 15, 16, 17, 0]
        refused = batches.moved(file.fileno(), np.array([0]), pieces[:1], write=True)
        assert refused is not None and refused[0] < 0


def test_a_read_that_comes_back_in_parts_goes_on(tmp_path, monkeypatch):
    a = random_matrix(M, N)
    np.save(tmp_path / "a.npy", a)
    source = open_npy(tmp_path / "a.npy")
    preadv = os.preadv
    monkeypatch.setattr(
        os, "preadv", lambda fd, pieces, place: preadv(fd, [memoryview(pieces[0]).cast("B")[:7]], place)
    )
    tiles = [np.empty((M, 9)), np.empty((M, 8))]
    source.read([(0, 0), (0, 9)], tiles)
    assert np.array_equal(np.hstack(tiles), a)
    source.close()


def test_a_file_that_is_cut_off_while_it_is_read_is_told(tmp_path):
    np.save(tmp_path / "a.npy", random_matrix(M, N))
    source = open_npy(tmp_path / "a.npy")
    os.truncate(tmp_path / "a.npy", 400)
    with pytest.raises(ValueError, match=r"a\.npy ends at byte 400: it was cut off"):
        source.read([(0, 0)], [np.empty((M, N))])
    source.close()


def test_files_of_other_versions_of_npy(tmp_path):
    for version in ((1, 0), (2, 0)):
        with (tmp_path / "a.npy").open("wb") as file:
            np.lib.format.write_array(file, np.eye(3), version)
        source = open_source(tmp_path / "a.npy")
        assert source.shape == (3, 3)
        source.close()
    with (tmp_path / "a.npy").open("wb") as file:
        np.lib.format.write_array(file, np.zeros((2, 2), [("ä", "f8")]), (3, 0))
    with pytest.raises(ValueError, match=r"version \(3, 0\)"):
        open_source(tmp_path / "a.npy")


def test_tiles_of_a_stored_matrix_know_their_place():
    tile = StoredTiles(Held(random_matrix(M, N)), 5)[4, 3]
    assert (tile.row, tile.column, tile.shape, tile.nbytes) == (20, 15, (3, 2), 0)


def test_a_scratch_file_has_no_name_and_no_room_until_it_is_written(tmp_path):
    matrix = scratch_file(tmp_path, (1000, 1000), "float64", "F")
    assert os.listdir(tmp_path) == []
    assert os.fstat(matrix.file.fileno()).st_blocks * 512 < 100_000
    matrix.close()


def test_an_output_is_whole_or_not_there(tmp_path):
    path = tmp_path / "x.npy"
    output = Output(path, (3, 2), np.dtype("f8"), "C", 2)
    output.matrix.write([(0, 0)], [np.ones((3, 2))])
    assert sorted(os.listdir(tmp_path)) == ["x.npy.part"]
    with pytest.raises(BlockingIOError, match="another run writes"):
        Output(path, (3, 2), np.dtype("f8"), "C", 2)
    output.abandon(keep=False)
    assert os.listdir(tmp_path) == []
    output = Output(path, (3, 2), np.dtype("f8"), "C", 2)
    assert np.array_equal(output.finish(), np.zeros((3, 2))) and os.listdir(tmp_path) == ["x.npy"]


@pytest.mark.needs("h5py")
@pytest.mark.parametrize("dtype", DTYPES)
def test_an_hdf5_output_is_written_past_the_library_and_gone_on_with(tmp_path, dtype):
    import h5py

    a, path = random_matrix(M, N, dtype), tmp_path / "x.h5"
    named = f"{path}:/group/x"
    output = Output(named, (M, N), a.dtype, "F", 5)
    output.matrix.write([(0, 0)], [a[:, :9]])
    with pytest.raises(BlockingIOError, match="another run writes"):
        Output(named, (M, N), a.dtype, "F", 5)
    output.abandon(keep=True)
    assert os.listdir(tmp_path) == ["x.h5.part"]
    with pytest.raises(ValueError, match=r"has 23 x 17 numbers of .*, not 17 x 23"):
        Output(named, (N, M), a.dtype, "F", 5, again=True)
    with pytest.raises(ValueError, match="has no dataset group/y as it was begun"):
        Output(f"{path}:/group/y", (M, N), a.dtype, "F", 5, again=True)
    output = Output(named, (M, N), a.dtype, "F", 5, again=True)
    output.matrix.write([(0, 9)], [a[:, 9:]])
    found = output.finish()
    assert np.array_equal(found[:], a) and found.dtype == a.dtype
    found.file.close()
    with h5py.File(path) as file:
        assert np.array_equal(file["group/x"][:], a) and os.listdir(tmp_path) == ["x.h5"]
    empty = Output(tmp_path / "y.h5", (0, 3), a.dtype, "C", 5).finish()
    assert empty.shape == (0, 3)
    empty.file.close()


@pytest.mark.needs("h5py")
@pytest.mark.parametrize("name", ["a.h5:/", "a.h5://", "a.h5:/.", Path("a.h5:/")])
def test_the_root_of_an_hdf5_file_is_no_matrix_to_read_or_write(tmp_path, monkeypatch, name):
    import h5py

    monkeypatch.chdir(tmp_path)
    with h5py.File("a.h5", "w") as file:
        file["x"] = np.eye(4)
    with pytest.raises(ValueError, match=r"the matrix a: 'a\.h5:.*' is the root of the file, a group, .*'a\.h5:/name'"):
        open_source(name)
    with pytest.raises(ValueError, match=r"out: 'a\.h5:.*' is the root of the file"):
        Output(name, (4, 4), np.dtype("f8"), "C", 2, overwrite=True)
    assert [*h5py.File("a.h5")] == ["x"]
    for same in ("a.h5:/x", "a.h5:/x/", "a.h5://x", "a.h5:/./x"):
        assert open_source(same).shape == (4, 4)
    with pytest.raises(ValueError, match="zero byte in its name"):
        open_source("a.h5:/x\0y")


@pytest.mark.needs("zarr", "h5py")
@pytest.mark.parametrize("suffix", ["npy", "h5", "zarr"])
def test_an_output_takes_the_place_of_nothing_of_another_kind(tmp_path, suffix):
    """Before work, also where a file may be replaced: a folder of the user stays, and so does what is in it."""
    path = tmp_path / f"L.{suffix}"
    what = (4, 4), np.dtype("f8"), "C", 2
    for place in (path, path.with_name(path.name + ".part")):
        place.mkdir()
        (place / "mine").write_text("mine")
        with pytest.raises(OSError, match=rf"cannot write .*{place.name}: it is a folder"):
            Output(path, *what, overwrite=True)
        assert (place / "mine").read_text() == "mine" and len(list(tmp_path.iterdir())) == 1
        (place / "mine").unlink()
        place.rmdir()
        os.mkfifo(place)
        with pytest.raises(OSError, match=rf"cannot write .*{place.name}: "):
            Output(path, *what, overwrite=True)
        place.unlink()
    assert Output(path, *what).finish() is not None
    if suffix == "zarr":
        (tmp_path / "link.zarr").symlink_to(path)
        with pytest.raises(NotADirectoryError, match=r"link\.zarr: an array of zarr is a folder"):
            Output(tmp_path / "link.zarr", *what, overwrite=True)
    Output(path, *what, overwrite=True).finish()


def test_two_results_do_not_go_to_one_file(tmp_path):
    for out in (("Q.npy", "Q.npy"), ("a.h5:/q", "a.h5:/r")):
        with pytest.raises(ValueError, match="out of qr has Q and R in one file, which the second would replace"):
            tw.qr(np.eye(8), tile_size=4, out=tuple(f"{tmp_path}/{name}" for name in out))
    assert not list(tmp_path.iterdir())


def test_who_holds_a_file_is_alone_until_it_is_closed(tmp_path):
    path = tmp_path / "x"
    with path.open("wb") as first, path.open("wb") as second:
        hold(first, "mine")
        with pytest.raises(BlockingIOError, match="mine"):
            hold(second, "mine")
        first.close()
        hold(second, "mine")


def test_a_function_has_a_shape_and_tiles():
    for how, message in (
        ({"make": 3}, "make must be a function"),
        ({"shape": 4}, "shape must be two numbers"),
        ({"shape": (2, -1)}, "an extent of shape"),
        ({"tile_size": 0}, "tile_size"),
        ({"dtype": "int8"}, "unknown dtype"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            tw.TileFunction(**{"make": len, "shape": (4, 4), "tile_size": 2} | how)


def test_lines_beyond_what_one_call_takes_are_moved(tmp_path):
    a = random_matrix(3, 3000)
    np.save(tmp_path / "a.npy", a)
    source = open_npy(tmp_path / "a.npy")
    tiles = [np.empty((3, 1)) for _ in range(3000)]
    source.read([(0, j) for j in range(3000)], tiles)
    assert np.array_equal(np.hstack(tiles), a) and isinstance(source.lines, Lines)
    source.close()


@pytest.mark.needs("zarr")
@pytest.mark.parametrize("dtype", ["<f8", "|O"])
@pytest.mark.parametrize("where", ["filters", "compressor"])
def test_a_zarr_array_whose_chunks_would_be_executed_is_refused_before_one_is_read(tmp_path, where, dtype, monkeypatch):
    import zarr

    monkeypatch.setattr("numcodecs.pickles.ALLOW_UNSAFE_PICKLE_DECODE", True, raising=False)
    path = tmp_path / "a.zarr"
    zarr.create_array(str(path), shape=(2, 2), chunks=(2, 2), dtype="f8", zarr_format=2, compressors=None)
    meta, codec = path / ".zarray", {"id": "pickle"}
    changed = {"dtype": dtype, "fill_value": 0, where: [codec] if where == "filters" else codec}
    meta.write_text(json.dumps({**json.loads(meta.read_text()), **changed}))
    ran = tmp_path / "ran"
    (path / "0.0").write_bytes(b"cpathlib\nPath\n(V" + str(ran).encode() + b"\ntR(cpathlib\nPath.touch\n.")
    with pytest.raises((ValueError, TypeError), match="is no zarr array|has dtype object"):
        tw.tiled_cholesky(path, out=tmp_path / "L.npy")
    assert not ran.exists()


@pytest.mark.needs("zarr")
def test_a_matrix_that_says_it_is_huge_is_refused_at_once(tmp_path):
    import zarr

    zarr.create_array(str(tmp_path / "a.zarr"), shape=(2**60, 2**60), chunks=(8, 8), dtype="f8", compressors=None)
    for call in (tw.tiled_cholesky, tw.lu_factor, tw.qr):
        with pytest.raises(ValueError, match=r"says that it has 1152921504606846976 x .* tiles of 8, and a graph can"):
            call(tmp_path / "a.zarr", tile_size=8, out=tmp_path / "L.npy")


@pytest.mark.needs("h5py")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda file, h5py: file.create_group("m"), "m is a Group, not a dataset"),
        (lambda file, h5py: file.create_dataset("m", data=1.0), r"must be 2-D, not of shape \(\)"),
        (lambda file, h5py: file.create_dataset("m", data=h5py.Empty("f8")), r"must be 2-D, not of shape \(\)"),
        (lambda file, h5py: file.__setitem__("m", np.dtype("f8")), "m is a Datatype, not a dataset"),
        (lambda file, h5py: file.__setitem__("m", h5py.SoftLink("/m")), "has no dataset m that can be read"),
        (lambda file, h5py: file.__setitem__("m", h5py.ExternalLink("gone.h5", "/m")), "has no dataset m that can be"),
        (lambda file, h5py: file.create_dataset("m", (2, 2), h5py.string_dtype()), "has dtype object"),
    ],
)
def test_what_is_no_dataset_of_numbers_in_hdf5_is_named_and_the_file_closed(tmp_path, make, message):
    import h5py

    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        make(file, h5py)
    with pytest.raises((ValueError, TypeError), match=message):
        open_source(f"{path}:/m")
    with h5py.File(path, "a"):  # which no reader has open
        pass


@pytest.mark.needs("zarr")
def test_a_damaged_chunk_of_zarr_is_an_error_that_names_the_file(tmp_path):
    import zarr

    path = tmp_path / "a.zarr"
    zarr.create_array(str(path), shape=(4, 4), chunks=(2, 2), dtype="f8", zarr_format=2)[:] = np.eye(4)
    (path / "1.0").write_bytes(b"no frame of a codec")
    with pytest.warns(RuntimeWarning, match="compressed"):
        source = open_source(path)
    with pytest.raises(OSError, match=r"cannot read .*a\.zarr, which is damaged: "):
        source.read([(0, 0), (2, 0)], [np.empty((2, 2)), np.empty((2, 2))])


@pytest.mark.needs("h5py")
@pytest.mark.parametrize("seed", range(12))
def test_a_damaged_file_of_hdf5_is_refused_in_one_line_that_names_it(tmp_path, seed):
    import h5py

    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("m", data=np.eye(8), chunks=(4, 4), fletcher32=True)
    content, dice = bytearray(path.read_bytes()), np.random.default_rng(seed)
    if seed % 2:
        del content[int(dice.integers(len(content))) :]
    else:
        places = dice.integers(8, len(content), 40)
        content[8:12] = b"\xff" * 4 if seed == 0 else content[8:12]
        for place in places:
            content[place] ^= 0xFF
    path.write_bytes(content)
    target = np.empty((8, 8))
    try:
        source = open_source(path)
        source.read([(0, 0)], [target])
    except (OSError, ValueError, TypeError) as error:
        assert "a.h5" in str(error) and "\n" not in str(error)
    else:
        source.close()
        assert np.array_equal(target, np.eye(8))  # nothing that is read was hit
