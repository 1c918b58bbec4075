"""Values as memory: arrays and tensors in, the same bits out, and buffers that are used again."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tilewright.backends.execution.buffers import Spare, kind, layout, memory, span, view, wrap
from tilewright.backends.ranks.pickling import dumps, loads
from tilewright.backends.ranks.segments import Mappings, Segment, arrays_in, like, placer, reference, room

KINDS = (torch.bfloat16, torch.float16, torch.float32, torch.float64, torch.complex64, torch.int8, torch.bool)


@pytest.mark.parametrize("dtype", KINDS)
def test_view_and_wrap_are_inverse_and_share_memory(dtype):
    tensor = torch.zeros(4, 6, dtype=dtype)[:, 1:4]
    array = view(tensor)
    assert array.strides == tuple(np.array(tensor.stride()) * tensor.element_size())
    array[2, 1] = 1
    again = wrap(array, kind(tensor))
    assert again.dtype == dtype
    assert torch.equal(again, tensor)
    assert again.data_ptr() == tensor.data_ptr()


@pytest.mark.parametrize(
    "value",
    [
        3,
        "text",
        None,
        np.array([None]),
        torch.zeros(2, requires_grad=True),
        torch.zeros(2, device="meta"),
        torch.zeros(2, 2).to_sparse(),
        torch.zeros(2, dtype=torch.complex64).conj(),
        torch.nn.Parameter(torch.zeros(2)),
    ],
)
def test_what_is_not_plain_memory_has_no_view(value):
    assert view(value) is None
    with pytest.raises(TypeError, match="cannot take the place of an array or a CPU tensor"):
        memory(value)


def test_a_tensor_pickles_as_what_it_looks_at_not_as_its_storage():
    tile = torch.arange(10000, dtype=torch.bfloat16).reshape(100, 100)[:5, :5]
    data = dumps({"tile": tile})
    assert len(data) < 1000
    again = loads(data, Mappings())["tile"]
    assert again.dtype == torch.bfloat16
    assert torch.equal(again, tile)


def test_tensors_and_arrays_move_into_a_segment_and_pickle_as_references():
    values = {"t": torch.ones(50, 50, dtype=torch.bfloat16), "a": np.ones((50, 50), np.float16)}
    assert [array.nbytes for array in arrays_in(values)] == [5000, 5000]
    there = like(values, placer(Segment.create(room(arrays_in(values)))))
    assert there["t"].dtype == torch.bfloat16
    assert arrays_in(there) == []
    data = dumps(there)
    assert len(data) < 1500
    again = loads(data, Mappings())
    again["t"][3, 4], again["a"][1, 2] = 7, 8  # the same memory
    assert (float(there["t"][3, 4]), there["a"][1, 2]) == (7, 8)


def test_structured_dtypes_keep_their_fields_in_a_segment():
    array = np.zeros(3, [("row", "i4"), ("value", "f8")])
    there = like(array, placer(Segment.create(room([array]))))
    there["value"] = 2
    assert loads(dumps(there), Mappings())["value"].tolist() == [2, 2, 2]


@given(st.lists(st.sampled_from([(3, 4), (4, 3), (0, 2), (12,), (5, 5)]), max_size=8), st.sampled_from("CF"))
def test_buffers_have_shape_dtype_and_layout_and_are_used_again(shapes, order):
    spare = Spare()
    patterns = [np.zeros(shape, np.float32, order) for shape in shapes]
    taken = [spare.take(pattern) for pattern in patterns]
    for pattern, array in zip(patterns, taken, strict=True):
        assert (array.shape, array.dtype, layout(array)) == (pattern.shape, pattern.dtype, layout(pattern))
        assert array.ctypes.data % 64 == 0
    addresses = {array.ctypes.data for array in taken}
    assert len(addresses) == len(taken)
    for array in taken:
        spare.give(array)
    again = {spare.take(pattern).ctypes.data for pattern in patterns}
    assert again == addresses


def test_no_more_is_kept_than_said():
    spare = Spare()
    patterns = [np.zeros(1000, np.uint8), np.zeros(1000, np.uint8), np.zeros(3000, np.uint8)]
    for array in [spare.take(pattern) for pattern in patterns]:
        spare.give(array)
    spare.keep(1500)
    assert spare.free_bytes == 1000
    spare.keep(0)
    assert spare.free_bytes == 0


def test_descriptor_that_another_segment_has_taken_is_not_mapped():
    segment = Segment.create(100)
    place = reference(segment.array(0, (3,), np.dtype(float), "C"))
    assert place.nbytes == 24 and reference(np.zeros(3)) is None
    del segment
    other = Segment.create(200)
    assert other.path == place.path
    with pytest.raises(FileNotFoundError, match=rf"is not segment {place.serial} any more, but"):
        Mappings().array(place)


def test_a_span_is_from_the_first_byte_to_behind_the_last():
    a = np.zeros((6, 8))
    start = a.__array_interface__["data"][0]
    assert span(a) == (start, start + 384)
    assert span(a.T) == (start, start + 384)
    assert span(a[1:3, 2:5]) == (start + 80, start + 168)
    assert span(a[::-2, ::-3]) == (start + 8 * 8 + 8, start + 6 * 64)
    assert span(a[2:2]) == span(np.zeros((3, 0))[::2]) == (0, 0)


def test_a_span_of_a_tensor_is_that_of_its_array():
    a = torch.zeros(6, 8, dtype=torch.bfloat16)
    start = a.data_ptr()
    assert span(a) == (start, start + 96)
    assert span(a[1:3, 2:5]) == (start + 20, start + 42)
    assert span(a.T[2:5]) == (start + 4, start + 90)
    assert span(a[:0]) == span(a.to_sparse()) == span(a.to("meta")) == (0, 0)
