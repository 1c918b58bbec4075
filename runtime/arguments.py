"""The one way by which an array enters, and the way out.

Whatever a public call takes as an array goes through `dense`: NumPy arrays of any byte order, stride and subclass,
memory maps, CPU tensors, tiled matrices, objects with ``__array__``, ``__array_interface__`` or DLPack, lists, numbers.
Calls that compute go on with `numbers`, which knows LAPACK's four dtypes. `like` is the way out: tensors for tensors.

==============================  ========================================================================================
what comes in                   what is made of it
==============================  ========================================================================================
booleans, integers              float64 (`numbers`)
float16, longdouble, object     refused, with the dtypes to convert to (`numbers`)
another byte order              the native one, in a copy
misaligned, negative strides,   a copy in the order that comes next to the memory; so is every view that BLAS and torch
strides that split items        cannot describe
rows or columns contiguous,     as it is, with its order; bits do not depend on it (`tilewright.kernels.layout`)
or other strides
a subclass                      its base: a `numpy.matrix` is an array, and multiplies like one
a masked array                  refused where entries are masked
sparse, dask.array, on a GPU,   refused, with what to call
that requires gradients
==============================  ========================================================================================
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

__all__ = [
    "LAPACK",
    "check_chunks",
    "check_structure",
    "dense",
    "entered",
    "is_chunked",
    "is_tensor",
    "like",
    "numbers",
    "numeric",
    "overlaps",
]

LAPACK = ("float32", "float64", "complex64", "complex128")
"""The dtypes there are kernels for."""


def dense(value: Any, what: str) -> np.ndarray:
    """``value`` as a plain array that kernels can read; its memory where that is possible. ``what`` is its name.

    Returns
    -------
    array
        A `numpy.ndarray` itself, in native byte order, aligned, strides not negative and multiples of the item. The
        dtype is that of ``value``, whatever it is.

    Raises
    ------
    TypeError
        It is sparse, a dask collection, None, a pair as `scipy.linalg.cho_factor` returns, a record, a tensor that is
        on a device, requires gradients or has a dtype NumPy has not; or nothing that NumPy can read.
    ValueError
        It is a masked array, and some entries are masked; or a list of lists of several lengths.

    Examples
    --------
    >>> import numpy as np
    >>> dense([[1, 2]], "A")
    array([[1, 2]])
    >>> dense(np.ma.masked_less([1.0, 2.0], 2.0), "b")
    Traceback (most recent call last):
        ...
    ValueError: b has 1 masked entries; say what they are with .filled(value)
    """
    if type(value) is not np.ndarray:
        value = _read(value, what)
    array: np.ndarray = value
    if array.dtype.fields is not None:
        raise TypeError(
            f"{what} is a record array with the fields {', '.join(array.dtype.names or ())}; pass one of "
            f"them, such as {what}[{(array.dtype.names or ('x',))[0]!r}]"
        )
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="), order="K")
    item = array.itemsize or 1
    if not array.flags.aligned or any(step < 0 or step % item for step in array.strides):
        array = array.copy(order="K")
        if any(step < 0 for step in array.strides):  # order "K" keeps their sign in some versions of NumPy
            array = np.ascontiguousarray(array)
    return array


def _read(value: Any, what: str) -> np.ndarray:
    """An array of anything but an array."""
    if value is None:
        raise TypeError(f"{what} is None, not an array")
    if hasattr(value, "toarray") and hasattr(value, "nnz"):
        kind = type(value).__name__
        raise TypeError(f"{what} is sparse, a {kind}; pass its .toarray(), or use tw.SparseOperator and tw.cg")
    if is_tensor(value):
        return _memory(value, what)
    if _is_lazy(value):
        kind = f"{type(value).__module__.partition('.')[0]} {type(value).__name__}"
        raise TypeError(
            f"{what} is a {kind}, whose values are computed elsewhere; pass its .compute(). Of dask.arrays "
            f"tw.tiled_cholesky works on the workers"
        )
    if isinstance(value, tuple) and len(value) == 2 and np.ndim(value[1]) == 0 and hasattr(value[0], "shape"):
        raise TypeError(f"{what} is a pair (c, lower), as of scipy.linalg.cho_factor; pass c itself and lower=lower")
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        count = int(np.ma.getmaskarray(value).sum())
        raise ValueError(f"{what} has {count} masked entries; say what they are with .filled(value)")
    try:
        array = np.asarray(value)
        if array.dtype == object and not array.ndim and hasattr(value, "__dlpack__"):
            array = np.from_dlpack(value)
    except ValueError as error:
        raise ValueError(f"{what} cannot be read as an array: {error}") from error
    except Exception as error:  # whatever the object raises: one of another device, say
        raise TypeError(f"{what} cannot be read as an array: {error}") from error
    return array


def _memory(tensor: Any, what: str) -> np.ndarray:
    """The memory of a CPU tensor as an array."""
    if tensor.device.type != "cpu":
        raise TypeError(f"{what}: a tensor on {tensor.device} needs kernels for that device; pass tensor.cpu()")
    if tensor.requires_grad:
        raise TypeError(f"{what} requires gradients, and this call is not differentiable; pass tensor.detach()")
    if str(tensor.layout) != "torch.strided":
        raise TypeError(f"{what} is a sparse tensor ({tensor.layout}); pass tensor.to_dense()")
    try:
        array: np.ndarray = tensor.resolve_conj().resolve_neg().numpy()
    except (TypeError, RuntimeError) as error:
        raise TypeError(
            f"{what} has dtype {tensor.dtype}, which NumPy has not; convert it to one of {', '.join(LAPACK)}"
        ) from error
    return array


def _is_lazy(value: Any) -> bool:
    """Whether it is a dask collection: an array, a data frame, or what xarray makes of them."""
    graph = getattr(value, "__dask_graph__", None)
    return "dask" in sys.modules and callable(graph) and not isinstance(value, type) and graph() is not None


def entered(value: Any, what: str) -> Any:
    """``value`` if it is of a kind with its own way through the library; anything else as an array, read by `dense`.

    Those kinds are arrays, tensors, tiled matrices and dask.arrays, and None, which says that another rank has it. What
    only looks like one of them, a data frame or a class with a ``shape``, is none.
    """
    tensor = is_tensor(value) and str(value.layout) == "torch.strided" and not value.requires_grad
    known = value is None or isinstance(value, np.ndarray) or tensor or _is_lazy(value)
    return value if known or hasattr(type(value), "from_numpy") else dense(value, what)


def numeric(value: Any, what: str) -> np.ndarray:
    """`dense` of any numeric dtype. Raises as that, and TypeError for strings, dates and objects."""
    array = dense(value, what)
    if array.dtype.kind not in "biufc":
        raise TypeError(f"{what} must have numbers, not {array.dtype}")
    return array


def numbers(value: Any, what: str, dtypes: tuple[str, ...] = LAPACK) -> np.ndarray:
    """`dense` in one of ``dtypes``; booleans and integers become float64.

    Raises as `dense`, and TypeError for another dtype.

    >>> numbers([True, False], "x")
    array([1., 0.])
    """
    array = dense(value, what)
    if array.dtype.kind in "biu":
        return array.astype(np.float64)
    if str(array.dtype) not in dtypes:
        *most, last = dtypes
        raise TypeError(f"{what} must be {', '.join(most)} or {last}, not {array.dtype}")
    return array


def like(result: np.ndarray, *given: Any) -> Any:
    """``result``, as a tensor if something that was given is one."""
    return sys.modules["torch"].from_numpy(result) if any(map(is_tensor, given)) else result


def overlaps(array: np.ndarray) -> bool:
    """Whether some elements of a matrix share memory, as the windows of `sliding_window_view` do.

    Items (i, j) and (i + p, j + q) lie at one address if p s = -q t with the strides s and t: the least such numbers
    are p = t/g, q = s/g with g = gcd(s, t), and they fit in the matrix or not.

    >>> overlaps(np.lib.stride_tricks.sliding_window_view(np.arange(5.0), 3)), overlaps(np.ones((3, 3)))
    (True, False)
    """
    (m, n), (s, t) = array.shape, map(abs, array.strides)
    if (m > 1 and not s) or (n > 1 and not t):
        return bool(array.size)
    if m < 2 or n < 2:
        return False
    g = int(np.gcd(s, t))
    return t // g < m and s // g < n


def check_chunks(a: Any, what: str = "the dask.array") -> None:
    """ValueError for a dask.array of which Dask does not know how many rows or columns it has."""
    if any(extent != extent for extent in a.shape):
        raise ValueError(f"{what} does not know its chunk sizes; call compute_chunk_sizes() on it first")


def check_structure(A: Any) -> None:
    """ValueError if the indices of a sparse matrix point outside of it: SciPy's products believe them. O(entries).

    Formats without compressed or coordinate indices pass, as does what is not sparse.
    """
    form = getattr(A, "format", "")
    if form == "coo":
        for indices, extent in zip((A.row, A.col), A.shape, strict=True):
            _check_indices(indices, extent)
        if not len(A.row) == len(A.col) == len(A.data):
            raise ValueError(f"a sparse matrix has {len(A.row)} rows, {len(A.col)} columns and {len(A.data)} entries")
    if form not in ("csr", "csc", "bsr"):
        return
    rows, columns = A.shape if form != "csc" else A.shape[::-1]
    if form == "bsr":
        rows, columns = rows // A.blocksize[0], columns // A.blocksize[1]
    starts = np.asarray(A.indptr)
    if starts.ndim != 1 or starts.dtype.kind not in "iu" or len(starts) != rows + 1 or starts[0] != 0:
        raise ValueError(f"indptr of a sparse matrix has to have {rows + 1} integers from 0")
    if np.any(starts[1:] < starts[:-1]):
        raise ValueError("indptr of a sparse matrix decreases")
    if starts[-1] > min(len(A.indices), len(A.data)):
        raise ValueError(
            f"indptr of a sparse matrix ends at {starts[-1]}, but there are {len(A.indices)} indices of {len(A.data)} "
            f"entries"
        )
    _check_indices(np.asarray(A.indices)[: starts[-1]], columns)


def _check_indices(indices: np.ndarray, extent: int) -> None:
    if indices.ndim != 1 or indices.dtype.kind not in "iu":
        raise ValueError(f"indices of a sparse matrix are {indices.dtype} of shape {indices.shape}, not 1-D integers")
    if len(indices) and not (indices.min() >= 0 and indices.max() < extent):
        raise ValueError(
            f"indices of a sparse matrix go from {indices.min()} to {indices.max()}, in an extent of {extent}"
        )


def is_tensor(value: Any) -> bool:
    """Whether it is a torch tensor. Imports nothing."""
    torch = sys.modules.get("torch")  # who has a tensor has imported torch
    return torch is not None and isinstance(value, torch.Tensor)


def is_chunked(value: Any) -> bool:
    """Whether it is a `dask.array.Array`; whoever has one has imported Dask."""
    module = sys.modules.get("dask.array")
    return module is not None and isinstance(value, module.Array)
