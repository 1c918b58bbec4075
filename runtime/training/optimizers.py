"""Optimizers by name, and several of them for one model under one loss scale.

Several optimizers follow the rule of torch's GradScaler: each leaves out the step in which its own gradients are not
finite, and the loss scale, which they share, backs off if any of them did. What torch cannot say, which of them it
was, is in the log.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from tilewright.scalars import plain
from tilewright.training.contents import dense
from tilewright.training.identity import described

__all__ = ["OPTIMIZERS", "Optimizers", "optimizers"]

Maker = Callable[[list[nn.Parameter]], Any]
"""Makes a torch optimizer for some parameters."""


def _sgd(parameters: list[nn.Parameter], **options: Any) -> torch.optim.SGD:
    """Fused where that is right: a fused step takes the numbers of a tensor as they lie in memory, holes included."""
    return torch.optim.SGD(parameters, fused=all(map(dense, parameters)), **options)


OPTIMIZERS: dict[str, tuple[Callable[..., Any], float, dict[str, Any]]] = {
    "sgd": (_sgd, 0.1, {"momentum": 0.9, "weight_decay": 5e-4}),
    "adam": (torch.optim.Adam, 1e-3, {}),
    "adamw": (torch.optim.AdamW, 1e-3, {"weight_decay": 1e-2}),
}
"""By name: the torch optimizer, its usual learning rate, its other arguments. sgd is that of the notebook, *Lab
2.1.4: Mixed Precision Training - Speed Up with AMP*, in one pass over its tensors where torch by default makes five."""


@dataclass(frozen=True)
class Optimizers:
    """What makes the optimizer of each parameter, by the longest prefix of the parameter's name."""

    makers: Mapping[str, Maker]
    said: str
    """What they are called in a checkpoint."""

    @property
    def names(self) -> tuple[str, ...]:
        """The prefixes; a single optimizer has none, "" ."""
        return tuple(self.makers)

    def owner(self, parameter: str) -> str | None:
        """The prefix that a parameter's name begins with, in whole words between dots; None if no one has it."""
        fits = [p for p in self.makers if not p or parameter == p or parameter.startswith(f"{p}.")]
        return max(fits, key=len, default=None)

    def make(self, names: Sequence[str], parameters: Sequence[nn.Parameter]) -> dict[str, Any]:
        """By prefix, a torch optimizer for its share of the parameters that are trained."""
        shares: dict[str, list[nn.Parameter]] = {}
        for name, parameter in zip(names, parameters, strict=True):
            owner = self.owner(name)
            if parameter.requires_grad and owner is not None:
                shares.setdefault(owner, []).append(parameter)
        return {owner: self.makers[owner](share) for owner, share in shares.items()}

    def check(self, model: nn.Module) -> None:
        """What an optimizer has to be, before any work.

        Raises
        ------
        ValueError
            A parameter that is trained has no optimizer, or an optimizer no parameter. Or an optimizer evaluates the
            model itself, wants sparse gradients, or has other parameters than those it was given.
        TypeError
            A function makes something else than a torch optimizer.
        """
        trained = [name for name, p in model.named_parameters() if p.requires_grad]
        owners = {name: self.owner(name) for name in trained}
        left = [name for name, owner in owners.items() if owner is None]
        idle = [repr(p) for p in self.makers if p not in owners.values()] if trained else []
        if left:
            raise ValueError(
                f"no optimizer has the parameters {', '.join(left[:3])}{' ...' if len(left) > 3 else ''}; the prefixes "
                f"are {', '.join(map(repr, self.makers))}: add '' for all others"
            )
        if idle:
            raise ValueError(
                f"no parameter's name begins with {', '.join(idle)}; they are {', '.join(trained[:4])} ..."
            )
        sparse = [
            name
            for name, module in model.named_modules()
            if isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.sparse and module.weight.requires_grad
        ]
        if sparse:
            raise ValueError(f"layer {sparse[0]!r} has sparse gradients, and fit takes dense ones: sparse=False")
        for prefix, maker in self.makers.items():
            _check_one(maker, [p for name, p in model.named_parameters() if owners.get(name) == prefix])


def _check_one(maker: Maker, parameters: list[nn.Parameter]) -> None:
    made = maker(parameters)
    what = f"optimizer makes {type(made).__name__}"
    if isinstance(made, list | tuple):
        raise TypeError(f"{what} of {len(made)}, not one torch optimizer; pass several as {{prefix: optimizer}}")
    if not all(hasattr(made, name) for name in ("param_groups", "state", "step")):
        raise TypeError(f"{what}, which is no torch optimizer")
    if isinstance(made, torch.optim.SparseAdam):
        raise ValueError(f"{what}, which wants sparse gradients; fit has dense ones: use 'adam'")
    first = next(iter(inspect.signature(made.step).parameters.values()), None)
    if (
        first is not None
        and first.default is inspect.Parameter.empty
        and first.kind in (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    ):
        raise ValueError(
            f"{what}, whose step() evaluates the model by itself; fit takes optimizers that make a step of gradients"
        )
    holes = [p for group in made.param_groups if group.get("fused") for p in group["params"] if not dense(p)]
    if holes:
        raise ValueError(
            f"{what} with fused=True, which takes memory as it lies, and a parameter of shape {tuple(holes[0].shape)} "
            f"has strides {holes[0].stride()}: pass fused=False, or make the parameter contiguous"
        )
    have = [p for group in made.param_groups for p in group["params"]]
    if {id(p) for p in have} - {id(p) for p in parameters}:
        raise ValueError(f"{what} of parameters that it was not given; make it of those that the function gets")
    if len({id(p) for p in have}) < len(parameters):
        raise ValueError(
            f"{what} of {len(have)} of {len(parameters)} parameters; freeze the others with requires_grad_(False), or "
            f"pass several optimizers as {{prefix: optimizer}}"
        )


def optimizers(given: Any, lr: float | None) -> Optimizers:
    """Optimizers from what `fit` takes: a name, a function, or a mapping of prefixes to those or to (those, lr).

    ValueError for anything else.
    """
    if not isinstance(given, Mapping):
        said, maker = _one(given, lr)
        return Optimizers({"": maker}, said)
    if not given:
        raise ValueError("optimizer is an empty mapping; it needs at least one")
    pairs = {prefix: _one(*(value if isinstance(value, tuple) else (value, lr))) for prefix, value in given.items()}
    said = "; ".join(f"{prefix or 'others'}: {said}" for prefix, (said, _) in pairs.items())
    return Optimizers({prefix: maker for prefix, (_, maker) in pairs.items()}, said)


def _one(given: Any, lr: float | None) -> tuple[str, Maker]:
    """(what it is called in a checkpoint, a function from parameters to an optimizer)."""
    lr = plain(lr)
    if lr is not None and not (isinstance(lr, int | float) and 0 <= lr < math.inf):
        raise ValueError(f"lr must be a finite number from 0, not {lr!r}")
    if isinstance(given, str):
        if given not in OPTIMIZERS:
            raise ValueError(
                f"unknown optimizer {given!r}; known: {', '.join(OPTIMIZERS)}, or a function of parameters"
            )
        kind, usual, others = OPTIMIZERS[given]
        rate = usual if lr is None else lr
        return f"{given}, lr {rate:g}", partial(kind, lr=rate, **others)
    if not callable(given):
        raise ValueError(
            f"optimizer must be a name or a function from parameters to a torch optimizer, such as torch.optim.Adam, "
            f"not {type(given).__name__}"
        )
    make = given if lr is None else partial(given, lr=lr)
    return described(make), make
