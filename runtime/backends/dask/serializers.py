"""Serialisation that Dask lacks: tensors that are no NumPy array as they are, and record arrays.

Dask sends a tensor as the NumPy array in it, and a record array as an array without its class. Tensors of dtypes that
NumPy does not have, such as bfloat16, go as a header and their raw bytes; conjugate and sparse ones, and record arrays,
are pickled.
"""

from __future__ import annotations

import pickle
import sys
from typing import Any

import numpy as np

__all__ = ["install"]


def install() -> None:
    """Teach Dask. Torch is not imported before the first tensor is met."""
    from distributed.protocol.serialize import dask_deserialize, dask_serialize

    global _installed
    if _installed:
        return
    _installed = True
    dask_serialize.register(np.recarray)(_pickled)
    dask_deserialize.register(np.recarray)(_unpickled)
    if "distributed.protocol.torch" in sys.modules:  # Dask has met tensors before us
        _register()
    else:
        for dispatch in (dask_serialize, dask_deserialize):
            dispatch.register_lazy("torch", _register)


_installed = False


def _pickled(value: Any, context: Any = None) -> tuple[dict[str, Any], list[Any]]:
    return {"pickled": True}, [pickle.dumps(value, pickle.HIGHEST_PROTOCOL)]


def _unpickled(header: dict[str, Any], frames: list[Any]) -> Any:
    return pickle.loads(b"".join(frames))


def _register() -> None:
    import torch
    from distributed.protocol import torch as theirs
    from distributed.protocol.serialize import dask_deserialize, dask_serialize

    numpy_less = {torch.bfloat16} | {
        dtype
        for name in dir(torch)
        if name.startswith("float8") and isinstance(dtype := getattr(torch, name), torch.dtype)
    }

    def serialize_tensor(tensor: Any, context: Any = None) -> tuple[dict[str, Any], list[Any]]:
        if tensor.layout is not torch.strided or tensor.is_conj() or tensor.is_neg():
            return _pickled(tensor)
        if tensor.dtype not in numpy_less or tensor.device.type != "cpu":
            return theirs.serialize_torch_Tensor(tensor)
        raw = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
        header = {
            "raw": str(tensor.dtype).removeprefix("torch."),
            "shape": tuple(tensor.shape),
            "requires_grad": tensor.requires_grad,
        }
        return header, [raw.data]

    def deserialize_tensor(header: dict[str, Any], frames: list[Any]) -> Any:
        if "pickled" in header:
            return _unpickled(header, frames)
        if "raw" not in header:
            return theirs.deserialize_torch_Tensor(header, frames)
        raw = np.array(np.frombuffer(frames[0], np.uint8)) if frames else np.empty(0, np.uint8)
        tensor = torch.from_numpy(raw).view(getattr(torch, header["raw"])).reshape(header["shape"])
        return tensor.requires_grad_(header["requires_grad"])

    dask_serialize.register(torch.Tensor)(serialize_tensor)
    dask_deserialize.register(torch.Tensor)(deserialize_tensor)
