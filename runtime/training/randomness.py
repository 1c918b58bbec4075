"""Random numbers of a training: dropout, noise and whatever else a forward pass draws from a generator of the process.

Torch has one generator a device for all threads of a process; `numpy.random` and `random` have one each, which models
of others use as well. A training has streams of its own: whoever is about to draw takes the generators over, under a
lock, and what was in them is put aside. One worker that draws again and again finds its own numbers there and moves
nothing.

One worker that takes a batch whole draws one stream, from the first step to the last, which begins where
``torch.manual_seed(seed)``, ``numpy.random.seed(seed)`` and ``random.seed(seed)`` begin: the numbers of the plain loop.
Where micro-batches of a step may be drawn for in any order, each begins a stream of its own, by a hash of (seed, step,
micro-batch, segment): no matter who draws, or when. A generator that a model keeps to itself is the model's business.
"""

from __future__ import annotations

import random
import threading
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

__all__ = ["Stream", "leave", "may_draw", "may_recompute"]

_LOCK = threading.RLock()


class Stream:
    """A sequence of random numbers. ``with stream:`` around what draws from the generators of the process.

    Parameters
    ----------
    device
        The generators of the CPU (torch's, NumPy's, Python's) belong to a stream, and that of a CUDA device.
    seed
        What `torch.manual_seed` and the other generators are seeded with.
    keyed
        Begin anew at each `at`.
    """

    def __init__(self, device: torch.device, seed: int, keyed: bool = False) -> None:
        self.device = str(device)
        self.seed = seed
        self.keyed = keyed
        self.states = {name: _fresh(name).manual_seed(seed % 2**64).get_state() for name in self._names}

    @property
    def _names(self) -> tuple[str, ...]:
        return _OF_CPU if self.device == "cpu" else (*_OF_CPU, self.device)

    def __enter__(self) -> Stream:
        _LOCK.acquire()
        for name in self._names:
            if _holders.get(name, _outside) is not self:
                _hand_over(name, self)
        return self

    def __exit__(self, *error: object) -> None:
        _LOCK.release()

    def at(self, *key: int) -> None:
        """Begin where (seed, *key) begins; within ``with``, and only if the stream is keyed."""
        if self.keyed:
            seed = _hash(self.seed, *key)
            for name in self._names:
                _generator(name).manual_seed(seed)

    def state(self) -> dict[str, torch.Tensor]:
        """By generator, where the stream is: what `resume` takes."""
        with self:
            return {name: _generator(name).get_state() for name in self._names}

    def resume(self, state: dict[str, torch.Tensor]) -> None:
        """Go on where another stream was; of generators that it lacks, and states of another version, no word."""
        with _LOCK:
            for name in self._names:
                if name in state and _fits(state[name], self.states[name]):
                    self.states[name] = state[name].clone()
                    if _holders.get(name) is self:
                        _generator(name).set_state(self.states[name])


class _Outside(Stream):
    """What was in the generators before any training came."""

    def __init__(self) -> None:
        self.states = {}


_outside = _Outside()
_holders: dict[str, Stream] = {}
"""By generator, whose numbers are in it."""


def leave() -> None:
    """Give the generators back, as they were outside of trainings."""
    with _LOCK:
        for name, holder in _holders.items():
            if holder is not _outside:
                _hand_over(name, _outside)


def _hand_over(name: str, stream: Stream) -> None:
    """Put aside what is in a generator, and put in what the stream has."""
    generator = _generator(name)
    _holders.get(name, _outside).states[name] = generator.get_state()
    generator.set_state(stream.states[name])
    _holders[name] = stream


_OF_CPU = ("cpu", "numpy", "random")


class _Numpy(NamedTuple):
    """A generator of NumPy's old kind, as torch would have it; `numpy.random` is one."""

    kept: Any

    def get_state(self) -> torch.Tensor:
        _, key, *rest = self.kept.get_state()
        return torch.tensor([*key.tolist(), *rest], dtype=torch.float64)  # exact: words of 32 bits, and a double

    def set_state(self, state: torch.Tensor) -> None:
        *key, position, there, gauss = state.tolist()
        self.kept.set_state(("MT19937", np.array(key, np.uint32), int(position), int(there), gauss))

    def manual_seed(self, seed: int) -> _Numpy:
        self.kept.seed(seed % 2**32)
        return self


class _Python(NamedTuple):
    """The same of Python's; the module `random` is one."""

    kept: Any

    def get_state(self) -> torch.Tensor:
        _, words, gauss = self.kept.getstate()
        return torch.tensor([*words, gauss is not None, gauss or 0.0], dtype=torch.float64)

    def set_state(self, state: torch.Tensor) -> None:
        *words, there, gauss = state.tolist()
        self.kept.setstate((3, tuple(map(int, words)), gauss if there else None))

    def manual_seed(self, seed: int) -> _Python:
        self.kept.seed(seed)
        return self


def _fits(state: torch.Tensor, like: torch.Tensor) -> bool:
    """Whether it can be the state of a generator that has one like that: NumPy believes any position."""
    if state.shape != like.shape or state.dtype != like.dtype:
        return False
    if like.dtype != torch.float64:
        return True
    words, position = state[:-3], state[-3]
    return bool(((words >= 0) & (words < 2**32) & (words == words.floor())).all() and 0 <= position <= len(words))


_NUMPY, _PYTHON = _Numpy(np.random), _Python(random)


def _fresh(name: str) -> Any:
    """A generator that nobody else draws from."""
    if name == "numpy":
        return _Numpy(np.random.RandomState(0))
    return _Python(random.Random(0)) if name == "random" else torch.Generator(device=name)


def _generator(name: str) -> Any:
    """The generator of the process."""
    if name == "cpu":
        return torch.default_generator
    if name in _OF_CPU:
        return _NUMPY if name == "numpy" else _PYTHON
    torch.cuda.init()
    index = torch.device(name).index
    return torch.cuda.default_generators[torch.cuda.current_device() if index is None else index]


_WORD = 2**64 - 1


def _hash(*key: int) -> int:
    """64 bits of a key: splitmix64, word after word (see `tilewright.training.data.augment`)."""
    state = 0
    for word in key:
        z = ((state ^ (word & _WORD)) + 0x9E3779B97F4A7C15) & _WORD
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _WORD
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _WORD
        state = z ^ (z >> 31)
    return state


_DRAW = (
    nn.modules.dropout._DropoutNd,
    nn.RReLU,
    nn.FractionalMaxPool2d,
    nn.FractionalMaxPool3d,
    nn.MultiheadAttention,
    nn.RNNBase,
)


def may_draw(*parts: Any) -> bool:
    """Whether some of these modules and losses may draw random numbers.

    Not so are torch's own layers and losses, without hooks, but for those of them that do: only what is known is
    trusted, as code can draw where its name does not tell.
    """
    return any(
        not isinstance(part, nn.Module) or any(not _known(module) or _draws(module) for module in part.modules())
        for part in parts
    )


def may_recompute(module: nn.Module) -> bool:
    """Whether a backward pass may draw again what the forward pass drew: activation checkpointing, in code of others.

    It puts torch's generator back to where it was, so meanwhile nobody else may use that.
    """
    return any(not _known(part) for part in module.modules())


def _draws(module: nn.Module) -> bool:
    if isinstance(module, nn.RNNBase | nn.MultiheadAttention):
        return bool(module.dropout > 0)
    return isinstance(module, _DRAW)


_OURS = ("torch.nn.modules.", "tilewright.training.")


def _known(module: nn.Module) -> bool:
    return type(module).__module__.startswith(_OURS) and not hooked(module) and "forward" not in vars(module)


def hooked(module: nn.Module) -> bool:
    """Whether a module has hooks around its passes."""
    return bool(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    )
