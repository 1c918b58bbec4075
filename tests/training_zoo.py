"""Models on which trainings went wrong, or might: what a plain loop of torch makes of them is what `fit` has to make.

Inputs are tiny images of 16 values in [0, 1], outputs four classes.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812
from torch.nn.utils import parametrizations, parametrize
from torch.utils.checkpoint import checkpoint


class Fn(nn.Module):
    """Parameters w (4, 16) and b (4,), and a forward pass that is a function of (module, flat input)."""

    def __init__(self, forward, **tensors):
        super().__init__()
        self.w = nn.Parameter(torch.randn(4, 16) / 4)
        self.b = nn.Parameter(torch.zeros(4))
        self.way = forward
        for name, value in tensors.items():
            setattr(self, name, nn.Parameter(value) if isinstance(value, torch.Tensor) else value)

    def forward(self, x):
        return self.way(self, x.flatten(1))


def mlp(*middle, hidden=16):
    return nn.Sequential(nn.Flatten(), nn.Linear(16, hidden), *middle, nn.Linear(hidden, 4))


# ------------------------------------------------------------ gradients of every kind


def einsum():
    return Fn(lambda m, x: torch.einsum("bi,io->bo", x, m.v) + m.b, v=torch.randn(16, 4).t().contiguous().t() / 4)


def einsum_transposed():
    return Fn(lambda m, x: torch.einsum("bi,oi->bo", x, m.w) + m.b)


def transposed():
    return Fn(lambda m, x: x @ m.w.T.contiguous() + m.b)


def strided_parameter():
    return Fn(lambda m, x: x @ m.v + m.b, v=torch.randn(16, 8)[:, ::2])


def expanded():
    return Fn(lambda m, x: F.linear(x, m.w, m.b) * (1 + 0.1 * m.v.sum()), v=torch.randn(3, 5))


def shared_gradient():
    return Fn(lambda m, x: F.linear(x, m.w) + (m.b + m.v), v=torch.zeros(4))


def shared_gradient_of_matrices():
    return Fn(lambda m, x: F.linear(x, m.w + m.v, m.b), v=torch.randn(4, 16) / 4)


class KeepsGradient(torch.autograd.Function):
    """Gives the same memory as gradient at each step, and looks at it later."""

    kept: list = []  # noqa: RUF012

    @staticmethod
    def forward(ctx, x, w):
        ctx.save_for_backward(x)
        return x @ w

    @staticmethod
    def backward(ctx, dy):
        (x,) = ctx.saved_tensors
        memory = torch.empty(16, 4)
        torch.mm(x.T.float(), dy.float(), out=memory)
        KeepsGradient.kept[:] = [memory]
        return None, memory


def kept_gradient():
    return Fn(lambda m, x: KeepsGradient.apply(x, m.v) + m.b, v=torch.randn(16, 4) / 4)


class Idle(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.unused = mlp(), nn.Parameter(torch.ones(3))

    def forward(self, x):
        return self.layer(x)


def frozen_layer():
    model = mlp(nn.ReLU())
    model[1].requires_grad_(False)
    return model


def gradient_hooks():
    model = mlp(nn.ReLU())
    mask = (torch.rand(16, 16) > 0.5).float()
    model[1].weight.register_hook(lambda g: g * mask)
    return model


def clipping_hooks():
    model = mlp(nn.ReLU())
    model[3].bias.register_hook(lambda g: g.clamp(-0.01, 0.01))
    return model


# ------------------------------------------------------------ the model's own forward pass


class Reversed(nn.Sequential):
    """A Sequential with a forward pass of its own."""

    def forward(self, x):
        x = x.flatten(1)
        for k, module in enumerate(self):
            x = module(x) if k % 2 == 0 else torch.tanh(module(x)) + x
        return x


def own_forward():
    return Reversed(nn.Linear(16, 8), nn.Linear(8, 8), nn.Linear(8, 4))


class Scaled(nn.Sequential):
    """A Sequential with a parameter and a buffer of its own."""

    def __init__(self, *parts):
        super().__init__(*parts)
        self.scale = nn.Parameter(torch.full((4,), 0.5))
        self.register_buffer("shift", torch.linspace(-1, 1, 4))

    def forward(self, x):
        return super().forward(x) * self.scale + self.shift


def own_parameters():
    return Scaled(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4))


def forward_hooks():
    model = mlp(nn.ReLU())
    model.register_forward_hook(lambda m, args, y: y * 0.5)
    model[1].register_forward_hook(lambda m, args, y: y + 0.1)
    return model


def pre_hooks():
    model = mlp(nn.ReLU())
    model.register_forward_pre_hook(lambda m, args: (args[0] * 2 - 1,))
    return model


def hook_with_a_parameter():
    """A hook that knows the model by its name, as in scripts."""
    model = mlp(nn.ReLU())
    model.register_parameter("scale", nn.Parameter(torch.full((4,), 0.3)))
    model.register_forward_hook(lambda m, args, y: y * model.scale)
    return model


def backward_hooks():
    model = mlp(nn.ReLU())
    model[2].register_full_backward_hook(lambda m, dx, dy: (dx[0] * 1.5,))
    model[3].register_full_backward_hook(lambda m, dx, dy: (dx[0] * 0.5,))
    return model


def twice_the_same():
    layer = nn.Linear(16, 16)
    return nn.Sequential(nn.Flatten(), layer, nn.Tanh(), layer, nn.Tanh(), nn.Linear(16, 4))


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.encode, self.decode, self.head = nn.Linear(16, 8), nn.Linear(8, 16), nn.Linear(16, 4)
        self.decode.weight = nn.Parameter(torch.randn(16, 8) / 4)
        self.again = nn.Linear(8, 16)
        self.again.weight = self.decode.weight

    def forward(self, x):
        z = torch.tanh(self.encode(x.flatten(1)))
        return self.head(torch.tanh(self.decode(z)) + torch.tanh(self.again(z)))


class Pair(nn.Module):
    """Gives a pair, which the next module takes."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(16, 16)

    def forward(self, x):
        return x, self.layer(x)


class Adds(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(16, 4)

    def forward(self, pair):
        return self.layer(torch.relu(pair[0] + pair[1]))


def pairs_between_children():
    return nn.Sequential(nn.Flatten(), Pair(), Adds())


class InPlace(nn.Module):
    """Changes its input in place."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(16, 4)

    def forward(self, x):
        return self.layer(x.relu_())


def in_place_between_children():
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 16), InPlace())


def residual_and_dense():
    class Dense(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(16, 8), nn.Linear(24, 4)

        def forward(self, x):
            x = x.flatten(1)
            return self.two(torch.cat([x, F.gelu(self.one(x))], 1))

    return Dense()


# ------------------------------------------------------------ buffers of every kind


class Buffers(nn.Module):
    """Persistent, not persistent, shared, reassigned, made in the forward pass, None at first."""

    def __init__(self):
        super().__init__()
        self.inner, self.layer = nn.Linear(16, 8), nn.Linear(8, 4)
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("mean", torch.zeros(8), persistent=False)
        self.register_buffer("seen", torch.zeros(0))
        self.register_buffer("last", None)
        self.inner.register_buffer("share", torch.ones(8))
        self.layer.register_buffer("share", self.inner.share)
        self.calls = 0

    def forward(self, x):
        y = torch.tanh(self.inner(x.flatten(1))) * self.layer.share.clone()
        if self.training:
            self.calls += 1
            self.count += 1
            self.mean = 0.9 * self.mean + 0.1 * y.detach().mean(0)
            self.seen = torch.cat([self.seen, y.detach().mean().reshape(1)])
            self.last = y.detach()[0].clone()
            self.inner.share.mul_(0.99)
            if not hasattr(self, "late"):
                self.register_buffer("late", torch.ones(3))
            self.late = self.late * 1.01
        return self.layer(y - self.mean)


class Extra(nn.Module):
    """State that is no tensor, handed over by get_extra_state."""

    def __init__(self):
        super().__init__()
        self.layer, self.temperature = mlp(nn.ReLU()), 1.0

    def get_extra_state(self):
        return {"temperature": self.temperature}

    def set_extra_state(self, state):
        self.temperature = state["temperature"]

    def forward(self, x):
        if self.training:
            self.temperature *= 0.99
        return self.layer(x) / self.temperature


def batch_norm():
    return mlp(nn.BatchNorm1d(16), nn.ReLU())


def frozen_batch_norm():
    model = mlp(nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 16), nn.BatchNorm1d(16))
    model[2].eval()
    return model


class KeepsFrozen(nn.Sequential):
    """Freezes its norm whenever it is set to train, as many models do."""

    def train(self, mode=True):
        super().train(mode)
        self[2].eval()
        return self


def frozen_by_its_own_train():
    return KeepsFrozen(*batch_norm())


def convolutions(channels_last=False):
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(inplace=True),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(32, 4),
    )
    return model.to(memory_format=torch.channels_last) if channels_last else model


class ChannelsLastInside(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two, self.head = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1), nn.Linear(128, 4)

    def forward(self, x):
        x = torch.relu(self.one(x)).to(memory_format=torch.channels_last)
        return self.head(torch.relu(self.two(x)).flatten(1))


# ------------------------------------------------------------ random numbers


class Draws(nn.Module):
    def __init__(self, draw):
        super().__init__()
        self.draw = draw

    def forward(self, x):
        return self.draw(x, self.training)


def functional_dropout():
    return mlp(Draws(lambda x, training: F.dropout(torch.relu(x), 0.3, training)))


def noise():
    return mlp(Draws(lambda x, training: torch.relu(x) + 0.1 * torch.randn_like(x) if training else torch.relu(x)))


def stochastic_depth():
    return mlp(nn.Tanh(), Draws(lambda x, training: x * 2 if training and torch.rand(()) < 0.5 else x))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru, self.head = nn.GRU(4, 8, num_layers=2, dropout=0.4, batch_first=True), nn.Linear(8, 4)

    def forward(self, x):
        return self.head(self.gru(x.reshape(-1, 4, 4))[0][:, -1])


class Attends(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, dropout=0.3, batch_first=True)
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        x = x.reshape(-1, 4, 4)
        return self.head(self.attention(x, x, x)[0].flatten(1))


class Checkpointed(nn.Module):
    """Forgets activations and computes them again, dropout included."""

    def __init__(self):
        super().__init__()
        self.inner, self.head = mlp(nn.ReLU(), nn.Dropout(0.4), hidden=32), nn.Linear(4, 4)

    def forward(self, x):
        return self.head(checkpoint(self.inner, x, use_reentrant=False))


# ------------------------------------------------------------ parametrisations


class Symmetric(nn.Module):
    def forward(self, w):
        return w.triu() + w.triu(1).T


def parametrised():
    model = mlp(nn.ReLU())
    parametrize.register_parametrization(model[1], "weight", Symmetric())
    return model


def weight_norm():
    model = mlp(nn.ReLU())
    parametrizations.weight_norm(model[1])
    return model


def old_weight_norm():
    import warnings

    model = mlp(nn.ReLU())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        nn.utils.weight_norm(model[1])
    return model


def spectral_norm():
    model = mlp(nn.ReLU())
    parametrizations.spectral_norm(model[1])
    return model


def orthogonal():
    model = mlp(nn.Tanh())
    parametrizations.orthogonal(model[1])
    return model


def lists_and_dicts():
    class Lists(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList([nn.Linear(16, 16) for _ in range(2)])
            self.heads = nn.ModuleDict({"a": nn.Linear(16, 4), "b": nn.Linear(16, 4)})
            self.weights = nn.ParameterList([torch.ones(1), torch.ones(1)])
            self.segments = nn.ModuleList()  # the name of a method that `fit` knows

        def forward(self, x):
            x = x.flatten(1)
            for layer in self.layers:
                x = torch.relu(layer(x))
            return self.weights[0] * self.heads["a"](x) + self.weights[1] * self.heads["b"](x)

    return Lists()


def layer_norm_and_residual():
    return nn.Sequential(nn.Flatten(), nn.LayerNorm(16), nn.Linear(16, 16), nn.GELU(), nn.Linear(16, 4))


STEADY = [
    einsum,
    einsum_transposed,
    transposed,
    strided_parameter,
    expanded,
    shared_gradient,
    shared_gradient_of_matrices,
    kept_gradient,
    Idle,
    frozen_layer,
    gradient_hooks,
    own_forward,
    own_parameters,
    forward_hooks,
    pre_hooks,
    hook_with_a_parameter,
    backward_hooks,
    twice_the_same,
    Tied,
    pairs_between_children,
    in_place_between_children,
    residual_and_dense,
    frozen_by_its_own_train,
    ChannelsLastInside,
    parametrised,
    weight_norm,
    old_weight_norm,
    orthogonal,
    lists_and_dicts,
    layer_norm_and_residual,
]
"""A batch in parts has the gradients of the whole."""

STATEFUL = [Buffers, Extra, batch_norm, frozen_batch_norm, convolutions, spectral_norm, clipping_hooks]
"""Each forward pass leaves something behind, or sees a batch as a whole."""

RANDOM = [functional_dropout, noise, stochastic_depth, Recurrent, Attends, Checkpointed]

MODELS = [*STEADY, *STATEFUL, *RANDOM]
