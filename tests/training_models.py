"""Models, losses and the plain torch loop that training tests compare with. Ranks import this module by name."""

from __future__ import annotations

import os
import signal
import threading

import numpy as np
import torch
from torch import nn

from tilewright.training import precision as precisions
from tilewright.training.data import Dataset
from tilewright.training.data.augment import crop_and_flip, normalise, order

MARK = 255


def tiny(n=96, classes=4, shape=(1, 4, 4), seed=0, marked=()):
    """Images whose class is the quarter that is bright; those in ``marked`` are white all over."""
    random = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    images = random.integers(0, 60, (n, *shape)).astype(np.uint8)
    half = shape[1] // 2
    for k, label in enumerate(labels):
        row, column = divmod(int(label) % 4, 2)
        images[k, :, row * half : (row + 1) * half, column * half : (column + 1) * half] += 120
    images[list(marked)] = MARK
    return Dataset(images, labels.astype(np.int64), classes, "tiny")


def small_net(channels=1, classes=4):
    """Two convolutions with batch norm and a head, on tiny images."""
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(channels, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU()),
        nn.Sequential(nn.Conv2d(4, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU()),
        nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, classes)),
    )


def perceptron(inputs=16, hidden=16, classes=4):
    return nn.Sequential(
        nn.Sequential(nn.Flatten(), nn.Linear(inputs, hidden), nn.ReLU()),
        nn.Sequential(nn.Linear(hidden, hidden), nn.ReLU()),
        nn.Linear(hidden, classes),
    )


def with_dropout(inputs=16, hidden=32, classes=4):
    return nn.Sequential(nn.Flatten(), nn.Linear(inputs, hidden), nn.Dropout(0.5), nn.Linear(hidden, classes))


class BurstsOnMarked(nn.Module):
    """Infinite where the batch has a marked image, while training."""

    def forward(self, x):
        marked = x.flatten(1).min(1).values >= 0.999  # normalised white
        return x * torch.where(marked.any() & torch.tensor(self.training), torch.inf, 1.0)


def bursting_net(classes=4):
    """Batch norm behind what may burst: its statistics would become NaN."""
    return nn.Sequential(
        nn.Sequential(BurstsOnMarked(), nn.Flatten(), nn.Linear(16, 16), nn.BatchNorm1d(16), nn.ReLU()),
        nn.Linear(16, classes),
    )


class AlwaysInfinite(nn.Module):
    """Activations that FP16 cannot hold, and FP32 can."""

    def forward(self, x):
        kind = x.device.type
        half = torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) == torch.float16
        return (x * 1e9).to(torch.float16).float() / 1e9 if half else x


def overflowing(classes=4):
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 16), AlwaysInfinite(), nn.Linear(16, classes))


class DiesOnce(nn.Module):
    """Ends its process in the middle of a training, if there is a file that says so."""

    def __init__(self, order, after):
        super().__init__()
        self.order, self.left = str(order), after

    def forward(self, x):
        if self.training:
            self.left -= 1
            if self.left == 0:
                try:
                    os.unlink(self.order)
                except FileNotFoundError:
                    return x
                os.kill(os.getpid(), signal.SIGKILL)
        return x


class Scatters(nn.Module):
    """Writes activations into a buffer by index: under autocast the two may have different dtypes."""

    def __init__(self, cast):
        super().__init__()
        self.flatten, self.layer, self.cast = nn.Flatten(), nn.Linear(16, 16), cast

    def forward(self, x):
        y = self.layer(self.flatten(x))
        out = torch.zeros(len(y), 20, device=y.device)
        rows = torch.arange(16, device=y.device)
        out[:, rows] = y.to(out.dtype) if self.cast else y
        return out


class Idle(nn.Module):
    """A segment with a parameter that has no part in the output."""

    def __init__(self):
        super().__init__()
        self.unused = nn.Parameter(torch.ones(3))

    def forward(self, x):
        return x


def batches(data, epochs, batch_size, seed):
    """What `fit` trains on, in its order."""
    for epoch in range(epochs):
        permutation = order(len(data), seed, epoch)
        for first in range(0, len(data), batch_size):
            index = permutation[first : first + batch_size]
            images = crop_and_flip(data.images[index], index, data.recipe, seed, epoch)
            yield torch.from_numpy(normalise(images, data.recipe)), torch.from_numpy(data.labels[index])


def plain(
    model,
    data,
    *,
    epochs=1,
    batch_size=32,
    precision="fp32",
    accumulate=1,
    clip_norm=None,
    lr=0.1,
    seed=0,
    init_scale=2.0**16,
    device="cpu",
):
    """The loop that everyone writes, with torch's own autocast and GradScaler: (losses, scales)."""
    model.to(device)
    fused = precision != "fp16"  # fused, torch's SGD for CPUs makes the steps that its scaler wants to skip
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, weight_decay=5e-4, fused=fused)
    scaler = torch.amp.GradScaler(device, enabled=precision == "fp16", init_scale=init_scale)
    criterion = nn.CrossEntropyLoss()
    model.train()
    losses, scales = [], []
    for images, labels in batches(data, epochs, batch_size, seed):
        optimizer.zero_grad()
        images, labels = images.to(device), labels.to(device)
        total = 0.0
        parts = list(zip(images.tensor_split(accumulate), labels.tensor_split(accumulate), strict=True))
        for x, y in parts:
            with precisions.autocast(precision, device):  # torch's, but for what a CPU has no instructions for
                outputs = model(x)
            loss = criterion(outputs.float(), y)
            total += loss.item() * len(y)
            scaler.scale(loss / (len(labels) / len(y)) if len(parts) > 1 else loss).backward()
        scaler.unscale_(optimizer)
        if clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
        scaler.step(optimizer)
        scales.append(scaler.get_scale())
        scaler.update()
        losses.append(total / len(labels))
    return losses, scales


def passed_on(value, _):
    """A copy of a tensor."""
    return value.clone()


def dtypes_in_two_threads(device):
    """By precision, the dtypes that one layer gave to two threads that used it at once, each in its own precision."""
    layer, x = nn.Linear(64, 64).to(device), torch.randn(8, 64, device=device)
    start, seen = threading.Barrier(2), {}

    def work(name):
        kinds = set()
        start.wait()
        for _ in range(50):
            with precisions.autocast(name, device):
                kinds.add(layer(x).dtype)
        seen[name] = kinds

    threads = [threading.Thread(target=work, args=(name,)) for name in ("fp16", "bf16")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return seen
