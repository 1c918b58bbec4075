"""What a module holds, by the names that the whole model has for it; and copies of modules."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

__all__ = ["Buffers", "Contents", "dense", "duplicate"]


class Contents:
    """Parameters, buffers and extra state of a module, which may be a part of ``whole``.

    Buffers are looked up when they are asked for: a forward pass may put others in their place, or register new ones.
    Tensors that have several names, tied parameters, are here once.
    """

    def __init__(self, module: nn.Module, whole: nn.Module | None = None) -> None:
        whole = module if whole is None else whole
        prefixes = {id(m): f"{name}." if name else "" for name, m in whole.named_modules()}
        names = {id(p): name for name, p in whole.named_parameters()}
        self.homes = [(prefixes[id(m)], m) for m in module.modules() if id(m) in prefixes]
        self.parameters = {names[id(p)]: p for p in module.parameters()}

    def twin(self, modules: dict[int, nn.Module]) -> Contents:
        """The same of a copy; ``modules`` has the copy of each module, by the module's `id`."""
        made = Contents.__new__(Contents)
        made.homes = [(prefix, modules[id(m)]) for prefix, m in self.homes]
        owners = {id(p): (m, key) for _, m in self.homes for key, p in m._parameters.items() if p is not None}
        made.parameters = {}
        for name, p in self.parameters.items():
            m, key = owners[id(p)]
            made.parameters[name] = modules[id(m)]._parameters[key]
        return made

    def buffers(self) -> dict[str, torch.Tensor]:
        """The buffers themselves, of all kinds."""
        return {
            prefix + key: buffer for prefix, m in self.homes for key, buffer in m._buffers.items() if buffer is not None
        }

    def tensors(self) -> dict[str, torch.Tensor]:
        """Copies of parameters and buffers."""
        return {name: t.detach().clone() for name, t in (*self.parameters.items(), *self.buffers().items())}

    def extra(self) -> dict[str, Any]:
        """What modules have in ``get_extra_state``."""
        return {
            prefix: copy.deepcopy(m.get_extra_state())
            for prefix, m in self.homes
            if type(m).get_extra_state is not nn.Module.get_extra_state
        }

    def load(self, tensors: dict[str, torch.Tensor], extra: dict[str, Any] | None = None) -> None:
        """The inverse of `tensors` and `extra`; of what is missing, nothing changes."""
        homes = dict(self.homes)
        filled: set[int] = set()
        with torch.no_grad():
            for name, value in tensors.items():
                if name in self.parameters:
                    self.parameters[name].copy_(value)
                    continue
                prefix, dot, key = name.rpartition(".")
                home = homes.get(prefix + dot)
                if home is not None and (key in home._buffers or not hasattr(home, key)):
                    _put(home, key, value, filled)
        for prefix, state in (extra or {}).items():
            if prefix in homes:
                homes[prefix].set_extra_state(copy.deepcopy(state))


def _put(home: nn.Module, key: str, value: torch.Tensor, filled: set[int]) -> None:
    """A value for a buffer: in its place, or in that of one that has another shape, or got another value before."""
    there = home._buffers.get(key)
    fits = there is not None and (there.shape, there.dtype) == (value.shape, value.dtype)
    if there is not None and fits and (id(there) not in filled or torch.equal(there, value.to(there.device))):
        filled.add(id(there))
        there.copy_(value)
    elif key in home._buffers:
        like = there if there is not None else next((t for t in (*home.parameters(), *home.buffers())), value)
        home._buffers[key] = value.to(like.device, copy=True)
    else:
        home.register_buffer(key, value.clone(), persistent=False)


class Buffers:
    """The buffers of a segment as they are when they are looked at; in another process, as they were when they left."""

    def __init__(self, contents: Contents | dict[str, torch.Tensor]) -> None:
        self._of = contents

    def now(self) -> dict[str, torch.Tensor]:
        """Copies, by name."""
        found = self._of.buffers() if isinstance(self._of, Contents) else self._of
        return {name: buffer.detach().clone() for name, buffer in found.items()}

    def __reduce__(self) -> tuple[Any, ...]:
        return Buffers, (self.now(),)


def dense(tensor: torch.Tensor) -> bool:
    """Whether a tensor has all numbers of a piece of memory, each once, in whatever order."""
    expected = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True


def duplicate(module: nn.Module) -> nn.Module:
    """A copy that shares nothing: `copy.deepcopy`, and what that leaves out or refuses.

    Hooks on parameters are the same on the copy's; tensors that a forward pass has left in an attribute, as torch's
    older weight norm does, are copied without their history.

    Raises
    ------
    TypeError
        Something in the module cannot be copied.
    """
    memo: dict[int, Any] = {}
    for m in module.modules():
        for value in vars(m).values():
            if isinstance(value, torch.Tensor) and not value.is_leaf:
                memo[id(value)] = value.detach().clone()
    try:
        made: nn.Module = copy.deepcopy(module, memo)
    except Exception as error:
        raise TypeError(
            f"the model cannot be copied, which evaluation and further workers need: {type(error).__name__}: {error}"
        ) from error
    for old, new in zip(module.parameters(), made.parameters(), strict=True):
        for hook in (old._backward_hooks or {}).values():
            new.register_hook(hook)
        for hook in (getattr(old, "_post_accumulate_grad_hooks", None) or {}).values():
            new.register_post_accumulate_grad_hook(hook)
    return made
