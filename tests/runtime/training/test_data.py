"""Data sets: the small ones, CIFAR-10 in five forms, and files that are damaged or mean harm."""

import gzip
import io
import os
import pickle
import tarfile
import zipfile

import numpy as np
import pytest

from tilewright.training import data
from tilewright.training.data import CIFAR10_STD, CIFAR10_TRUE_STD, FORMS, Dataset
from tilewright.training.data.unpickler import loads

TRAIN, TEST = data.synthetic(60, test=12)


def write(folder, form):
    return data.write_cifar10(folder, form, TRAIN, TEST)


@pytest.mark.parametrize("form", FORMS)
def test_each_form_gives_back_what_was_written(tmp_path, form):
    train, test = data.cifar10(write(tmp_path, form))
    assert np.array_equal(train.images, TRAIN.images) and np.array_equal(train.labels, TRAIN.labels)
    assert np.array_equal(test.images, TEST.images) and np.array_equal(test.labels, TEST.labels)
    assert f", {form}, checksums.md5 is right" in train.source
    assert train.recipe.pad == 4 and train.recipe.flip and train.recipe.std == CIFAR10_STD


@pytest.mark.parametrize("form", FORMS)
def test_a_changed_byte_is_found_by_its_checksum(tmp_path, form):
    write(tmp_path, form)
    file = next(f for f in sorted(tmp_path.iterdir()) if f.name != "checksums.md5" and "meta" not in f.name)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(ValueError, match=f"{file.name} is damaged: its MD5 is"):
        data.cifar10(tmp_path)


@pytest.mark.parametrize("form", FORMS)
def test_a_truncated_file_is_an_error_that_names_it(tmp_path, form):
    write(tmp_path, form)
    (tmp_path / "checksums.md5").unlink()
    file = next(f for f in sorted(tmp_path.iterdir()) if "meta" not in f.name)
    file.write_bytes(file.read_bytes()[: file.stat().st_size * 2 // 3 - 1])
    with pytest.raises(ValueError, match=f"{file.name}.*(damaged|truncated)"):
        data.cifar10(tmp_path)


class Malice:
    """Leaves a file behind when it is unpickled by anyone who is careless."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("inside", ["batch", "labels"])
def test_a_malicious_pickle_is_refused_and_does_nothing(tmp_path, inside):
    trap = tmp_path / "executed"
    bad = Malice(str(trap))
    write(tmp_path, "pickle")
    (tmp_path / "checksums.md5").unlink()
    content = bad if inside == "batch" else {"data": np.zeros((1, 3072), np.uint8), "labels": [bad]}
    (tmp_path / "test_batch").write_bytes(pickle.dumps(content))
    with pytest.raises(ValueError, match=r"test_batch is damaged.*asks for (posix|nt)\.mkdir"):
        data.cifar10(tmp_path)
    assert not trap.exists()


def test_arrays_of_objects_do_not_get_in(tmp_path):
    np.savez(tmp_path / "cifar10.npz", images=np.array([Malice(str(tmp_path / "executed"))]), labels=np.array([0]))
    with pytest.raises(ValueError, match=r"cifar10\.npz is damaged, or not an npz file of plain arrays"):
        data.cifar10(tmp_path)
    assert not (tmp_path / "executed").exists()


def test_batches_of_python_2_have_keys_of_bytes(tmp_path):
    write(tmp_path, "pickle")
    (tmp_path / "checksums.md5").unlink()
    batch = loads((tmp_path / "test_batch").read_bytes(), "test_batch")
    (tmp_path / "test_batch").write_bytes(pickle.dumps({key.encode(): value for key, value in batch.items()}))
    assert np.array_equal(data.cifar10(tmp_path)[1].images, TEST.images)


def test_files_that_are_not_the_official_ones_can_be_refused(tmp_path):
    write(tmp_path, "pickle")
    with pytest.raises(ValueError, match="data_batch_1 is not the official file: its MD5 is .*c99cafc152244af753f7"):
        data.cifar10(tmp_path, verify=True)
    with pytest.raises(ValueError, match="no official checksum is known"):
        data.cifar10(write(tmp_path / "npz", "npz"), verify=True)


def test_a_tar_with_a_lying_header_is_an_error(tmp_path):
    path = write(tmp_path, "tar")
    (tmp_path / "checksums.md5").unlink()
    with tarfile.open(path, "w:gz") as archive:
        member = tarfile.TarInfo("cifar-10-batches-py/test_batch")
        member.size = 3
        archive.addfile(member, io.BytesIO(b"abc"))
    with pytest.raises(ValueError, match="test_batch is damaged"):
        data.cifar10(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"data": np.zeros((2, 3072), np.uint8), "labels": [1]}, "2 images but 1 labels"),
        ({"data": np.zeros((1, 3072), np.uint8), "labels": [10]}, "labels go from 10 to 10"),
        ({"data": np.zeros((1, 3000), np.uint8), "labels": [1]}, r"pixels of shape \(1, 3000\)"),
        ({"data": np.zeros((1, 3072)), "labels": [1]}, "pixels are float64"),
        ({"data": np.zeros((1, 3072), np.uint8), "labels": ["cat"]}, "labels are no numbers"),
        ({"pixels": 1}, "has pixels, not data and labels"),
        ([1], "holds a list"),
    ],
)
def test_a_batch_with_other_content_says_what_is_wrong(tmp_path, content, message):
    write(tmp_path, "pickle")
    (tmp_path / "checksums.md5").unlink()
    (tmp_path / "test_batch").write_bytes(pickle.dumps(content))
    with pytest.raises(ValueError, match=message):
        data.cifar10(tmp_path)


def test_images_and_labels_in_one_npz_give_a_sixth_to_the_test(tmp_path):
    np.savez(tmp_path / "mine.npz", images=TRAIN.images.transpose(0, 2, 3, 1), labels=TRAIN.labels)
    train, test = data.cifar10(tmp_path / "mine.npz")
    assert (len(train), len(test)) == (50, 10)
    assert np.array_equal(test.images, TRAIN.images[50:])


@pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
def test_labels_of_an_npz_may_stand_in_a_row_or_in_a_column(tmp_path, shape):
    pixels = {"x_train": TRAIN.images, "x_test": TEST.images.transpose(0, 2, 3, 1)}
    labels = {"y_train": TRAIN.labels.reshape(shape), "y_test": TEST.labels.reshape(shape)}
    np.savez(tmp_path / "cifar10.npz", **pixels, **labels)
    train, test = data.cifar10(tmp_path)
    assert np.array_equal(train.images, TRAIN.images) and np.array_equal(test.images, TEST.images)
    assert np.array_equal(train.labels, TRAIN.labels) and test.labels.shape == (12,)


def test_parquet_files_may_have_their_older_names(tmp_path):
    write(tmp_path, "parquet")
    (tmp_path / "checksums.md5").unlink()
    for split in ("train", "test"):
        (tmp_path / f"{split}-00000-of-00001.parquet").rename(tmp_path / f"cifar10-{split}.parquet")
    train, test = data.cifar10(tmp_path)
    assert np.array_equal(train.images, TRAIN.images) and np.array_equal(test.labels, TEST.labels)


def test_a_folder_without_data_says_what_was_looked_for(tmp_path):
    with pytest.raises(FileNotFoundError, match="looked for data_batch_1"):
        data.cifar10(tmp_path)


def test_digits_and_mnist_are_real_and_split_by_class():
    for (train, test), n, shape in ((data.digits(), 1797, (1, 8, 8)), (data.mnist5k(), 5000, (1, 28, 28))):
        assert len(train) + len(test) == n and train.shape == shape
        counts = np.bincount(test.labels, minlength=10)
        assert counts.max() - counts.min() <= 2 and abs(len(test) - n / 5) < 5


@pytest.mark.parametrize("name", ["digits", "mnist5k"])
def test_small_images_become_colour_images_of_32_x_32(name):
    train, _ = data.load(name)
    rgb = train.as_rgb()
    assert rgb.shape == (3, 32, 32) and len(rgb.recipe.mean) == 3
    assert np.array_equal(rgb.images[:, 0], rgb.images[:, 2])
    assert rgb.images[0].max() == train.images[0].max()


def test_synthetic_images_do_not_depend_on_how_many_there_are():
    few, _ = data.synthetic(20, seed=7)
    many, _ = data.synthetic(50, seed=7)
    assert np.array_equal(few.images, many.images[:20])
    assert not np.array_equal(few.images, data.synthetic(20, seed=8)[0].images)


def test_both_deviations_of_cifar10_have_a_name():
    """Erratum 9."""
    assert CIFAR10_STD == (0.2023, 0.1994, 0.2010) and CIFAR10_TRUE_STD == (0.2470, 0.2435, 0.2616)


@pytest.mark.parametrize("name", ["cifar10", "imagenet", "digits:3", "synthetic:x"])
def test_an_unknown_name_lists_those_there_are(name):
    with pytest.raises(ValueError, match="known: digits, mnist5k, cifar10:PATH"):
        data.load(name)


def test_images_and_labels_have_to_belong_together():
    images, labels = np.zeros((2, 1, 4, 4), np.uint8), np.zeros(2, np.int64)
    for bad in ((images[0], labels), (images, labels[:1]), (images, labels + 10), (images.astype(float), labels)):
        with pytest.raises(ValueError):
            Dataset(*bad)


def test_without_scikit_learn_the_digits_say_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match=r"pip install .*\[training\]'"):
        data.digits()


# ------------------------------------------------------------------ forged pickles and archives

MARK = b"\x80\x02"


def batch(array, labels="(lp0\nI1\na"):
    """A pickle of a batch whose pixels are what these opcodes leave on the stack."""
    return b"(dp0\nS'labels'\n" + labels.encode() + b"sS'data'\n" + array + b"s."


def array(dtype, shape="(I1\nI3072\nt", state="S''\n"):
    """An array as NumPy pickles it: made by _reconstruct, then given its parts."""
    return (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n"
        + shape.encode()
        + dtype
        + b"I00\n"
        + state.encode("latin1")
        + b"tb"
    )


PLAIN = b"cnumpy\ndtype\n(S'u1'\nI00\nI01\ntR(I3\nS'|'\nNNNI-1\nI-1\nI0\ntb"
OBJECT = b"cnumpy\ndtype\n(S'O8'\nI00\nI01\ntR(I3\nS'|'\nNNNI-1\nI-1\nI63\ntb"
FIELDS = b"cnumpy\ndtype\n(S'V8'\nI00\nI01\ntR(I3\nS'|'\nN(S'a'\nt(dS'a'\n(" + OBJECT + b"I0\ntsI8\nI1\nI0\ntb"
SUBTLE = b"cnumpy\ndtype\n(S'u1'\nI00\nI01\ntR(I3\nS'|'\n(" + OBJECT + b"(I8\ntt(S'a'\ntNI8\nI1\nI63\ntb"

FORGED = {
    "objects over raw bytes": batch(array(OBJECT, "(I1\nt", "S'AAAAAAAA'\n")),
    "fields of objects": batch(array(FIELDS, "(I1\nt", "S'AAAAAAAA'\n")),
    "a number's dtype that becomes one of objects": batch(array(SUBTLE, "(I1\nt", "S'AAAAAAAA'\n")),
    "fewer bytes than the shape": batch(array(PLAIN)),
    "a negative extent": batch(array(PLAIN, "(I-1\nI3072\nt")),
    "a shape of 2^62": batch(array(PLAIN, "(L4611686018427387904L\nt")),
    "an array without parts": batch(b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"),
    "another array class": batch(b"cnumpy\nndarray\n(I1\ntR"),
    "a changed function": batch(b"c_codecs\nencode\n(dS'__defaults__'\n(I1\ntsb"),
    "a changed function by slots": batch(b"c_codecs\nencode\n(N(dS'make'\nNstb"),
    "a huge place in the memo": MARK + b"]r\xff\xff\xff\x7f.",
    "a huge string": b"\x80\x04\x8e" + (2**62).to_bytes(8, "little") + b".",
    "a huge bytearray": b"\x80\x05\x96" + (2**62).to_bytes(8, "little") + b".",
    "labels of 2^70": batch(array(PLAIN, state="S'" + "A" * 3072 + "'\n"), "(lp0\nL1180591620717411303424L\na"),
    "labels of labels": batch(array(PLAIN, state="S'" + "A" * 3072 + "'\n"), "(lp0\ng0\na"),
    "an attribute's way out": batch(b"cnumpy\nf2py.os.system\n(S'true'\ntR"),
    "another module": batch(b"cos\nsystem\n(S'true'\ntR"),
}  # fmt: skip


def test_a_pickle_written_by_hand_is_read():
    found = loads(batch(array(PLAIN, state="S'" + "A" * 3072 + "'\n")), "batch")
    assert found["labels"] == [1] and found["data"].shape == (1, 3072) and set(found["data"].flat) == {65}


@pytest.mark.parametrize("kind", FORGED)
@pytest.mark.parametrize("form", ["pickle", "tar"])
def test_a_forged_pickle_is_refused_in_one_sentence(kind, form, tmp_path):
    path = write(tmp_path, form)
    (tmp_path / "checksums.md5").unlink()
    if form == "pickle":
        (tmp_path / "test_batch").write_bytes(FORGED[kind])
    else:
        with tarfile.open(path, "w:gz") as archive:
            member = tarfile.TarInfo("cifar-10-batches-py/test_batch")
            member.size = len(FORGED[kind])
            archive.addfile(member, io.BytesIO(FORGED[kind]))
    with pytest.raises(ValueError, match=r"test_batch(:| is damaged, or not a batch of CIFAR-10: )") as caught:
        data.cifar10(path)
    assert "\n" not in str(caught.value)


def header(kind, size):
    info = tarfile.TarInfo("x")
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.REGTYPE])
@pytest.mark.parametrize("size", [1 << 27, 1 << 33, 1 << 62])
def test_a_header_of_a_tar_that_claims_much_is_refused(kind, size, tmp_path):
    path = tmp_path / "cifar-10-python.tar.gz"
    path.write_bytes(gzip.compress(header(kind, size) + bytes(1 << 16)))
    with pytest.raises(ValueError, match="cifar-10-python.tar.gz (is damaged or truncated|has no data_batch_1)"):
        data.cifar10(path)


def test_a_tar_of_many_members_is_refused(tmp_path):
    path = tmp_path / "cifar-10-python.tar.gz"
    path.write_bytes(gzip.compress(header(tarfile.DIRTYPE, 0) * 2000))
    with pytest.raises(ValueError, match="more than 1000 members"):
        data.cifar10(path)


def test_an_npz_that_claims_much_is_refused_before_it_is_unpacked(tmp_path):
    with zipfile.ZipFile(tmp_path / "cifar10.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("images.npy", bytes(1 << 20))
    content = bytearray((tmp_path / "cifar10.npz").read_bytes())
    place = content.index(b"PK\x01\x02") + 24  # the size, unpacked, in the directory
    content[place : place + 4] = (2**31).to_bytes(4, "little")
    (tmp_path / "cifar10.npz").write_bytes(content)
    with pytest.raises(ValueError, match="it claims 2147483648 bytes"):
        data.cifar10(tmp_path)


@pytest.mark.parametrize("labels", [np.array([2**63], np.uint64), np.array([np.nan]), np.array(["1"]), np.array([-1])])
def test_labels_of_an_npz_are_numbers_from_0_to_9(labels, tmp_path):
    np.savez(tmp_path / "cifar10.npz", images=np.zeros((1, 3, 32, 32), np.uint8), labels=labels)
    with pytest.raises(ValueError, match=r"labels (are no numbers|go from)"):
        data.cifar10(tmp_path)
