"""Random ports of random networks in evaluation mode, right ones and ones with a fault in one layer.

``python -m tests.parity.random_ports FIRST COUNT`` judges so many of either kind, from a seed on, and prints for each
the seeds of right ports that were called wrong, of faults that were missed, and of those said to be elsewhere.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from jax import lax
from jax.ad_checkpoint import checkpoint_name as named
from torch import nn

import funcgrad as fg

ACTIVATIONS = {
    nn.ReLU: jax.nn.relu,
    nn.GELU: lambda x: jax.nn.gelu(x, approximate=False),
    nn.SiLU: jax.nn.silu,
    nn.Tanh: jnp.tanh,
    nn.LeakyReLU: jax.nn.leaky_relu,
}
SMALLEST = 1e-3


@dataclass
class Fault:
    """What is wrong with a layer of a port: its value, or only its derivative, by the share ``size``."""

    layer: int
    kind: str
    size: float

    def applied(self, x: Any) -> Any:
        changed = x * (1 + self.size)
        return changed if self.kind == "value" else changed - lax.stop_gradient(self.size * x)

    def is_found_by(self, report: Any) -> bool:
        """Whether a report says where the fault is: a derivative's shows in the cotangent of the layer before."""
        if self.kind == "value":
            return report.first_value is not None and report.first_value.name == str(self.layer)
        before = str(self.layer - 1)
        return self.layer == 0 or (report.first_cotangent is not None and report.first_cotangent.name == before)


class RandomPort:
    def __init__(self, seed: int):
        self.rng = rng = np.random.default_rng(seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.module = nn.Sequential(*self.layers(rng)).eval()
            self.draw_statistics(rng)
        self.x = rng.normal(size=(3, 3, 8, 8)).astype(np.float32)
        self.power = int(rng.integers(1, 4))
        self.divides = bool(rng.integers(2))

    @staticmethod
    def layers(rng: np.random.Generator) -> list[nn.Module]:
        layers: list[nn.Module] = []
        channels = 3
        for _ in range(rng.integers(1, 4)):
            wider = int(rng.integers(2, 6))
            layers.append(nn.Conv2d(channels, wider, 3, padding=1, bias=bool(rng.integers(2))))
            layers.append(nn.BatchNorm2d(wider, eps=10.0 ** -int(rng.integers(3, 8))))
            layers.append(list(ACTIVATIONS)[rng.integers(len(ACTIVATIONS))]())
            channels = wider
        if rng.integers(2):
            layers.append(nn.MaxPool2d(2) if rng.integers(2) else nn.AvgPool2d(2))
        side = 4 if isinstance(layers[-1], nn.MaxPool2d | nn.AvgPool2d) else 8
        return [*layers, nn.Flatten(), nn.Linear(channels * side**2, 3)]

    def draw_statistics(self, rng: np.random.Generator) -> None:
        with torch.no_grad():
            for layer in self.module:
                if isinstance(layer, nn.BatchNorm2d):
                    layer.weight.uniform_(0.5, 1.5)
                    layer.bias.normal_(0, 0.3)
                    layer.running_mean.normal_()
                    if rng.integers(2):
                        layer.running_var.fill_(float(rng.uniform(0.01, 3)))
                    else:
                        layer.running_var.uniform_(0.01, 3.0)

    def apply(self, i: int, layer: nn.Module, p: Any, x: Any) -> Any:
        if isinstance(layer, nn.Conv2d):
            x = lax.conv_general_dilated(x, p["weight"], (1, 1), "SAME")
            return x + p["bias"][:, None, None] if "bias" in p else x
        if isinstance(layer, nn.BatchNorm2d):
            mean, var = (jnp.array(t.numpy())[:, None, None] for t in (layer.running_mean, layer.running_var))
            scale = 1 / jnp.sqrt(var + layer.eps)
            x = (x - mean) / jnp.sqrt(var + layer.eps) if self.divides else x * scale - mean * scale
            return x * p["weight"][:, None, None] + p["bias"][:, None, None]
        if isinstance(layer, nn.MaxPool2d):
            return lax.reduce_window(x, -jnp.inf, lax.max, (1, 1, 2, 2), (1, 1, 2, 2), "VALID")
        if isinstance(layer, nn.AvgPool2d):
            return lax.reduce_window(x, 0.0, lax.add, (1, 1, 2, 2), (1, 1, 2, 2), "VALID") / 4
        if isinstance(layer, nn.Flatten):
            return x.reshape(len(x), -1)
        if isinstance(layer, nn.Linear):
            return x @ p["weight"].T + p["bias"]
        return ACTIVATIONS[type(layer)](x)

    def fault(self) -> Fault:
        size = SMALLEST * 10 ** self.rng.uniform(0, 2)
        return Fault(int(self.rng.integers(len(self.module))), ("value", "derivative")[self.rng.integers(2)], size)

    def loss(self, params: Any, x: Any, fault: Fault | None = None) -> Any:
        for i, layer in enumerate(self.module):
            x = self.apply(i, layer, params.get(str(i), {}), x)
            x = named(fault.applied(x) if fault and fault.layer == i else x, str(i))
        return jnp.mean(jnp.abs(x) ** self.power)

    def compare(self, fault: Fault | None = None) -> Any:
        torch_loss = fg.parity.module_loss(self.module, lambda out: (out.abs() ** self.power).mean())
        loss = partial(self.loss, fault=fault)
        return fg.parity.compare(loss, torch_loss, fg.parity.params_of(self.module), self.x)

    def shows(self, fault: Fault) -> bool:
        """Whether a fault changes the loss or a gradient, by ``jax.grad`` in float64: not so behind a ReLU that is off
        everywhere, nor for the derivative of a layer before one."""
        with jax.enable_x64(True):
            params = jax.tree.map(lambda x: jnp.asarray(x, np.float64), (fg.parity.params_of(self.module), self.x))
            right, wrong = (
                jax.tree.leaves(jax.value_and_grad(partial(self.loss, fault=f))(*params)) for f in (None, fault)
            )
        return any(np.max(np.abs(x - y)) > 1e-12 * np.max(np.abs(x)) for x, y in zip(right, wrong, strict=True))


def judged(seeds: Any) -> tuple[list[int], list[int], list[int]]:
    """The seeds of right ports called wrong, of faults missed though they show, and of faults said to be elsewhere."""
    false, missed, misplaced = [], [], []
    for seed in seeds:
        port = RandomPort(seed)
        if not port.compare().ok:
            false.append(seed)
        fault = port.fault()
        report = port.compare(fault)
        if report.ok:
            missed += [seed] if port.shows(fault) else []
        elif not fault.is_found_by(report):
            misplaced.append(seed)
    return false, missed, misplaced


if __name__ == "__main__":
    torch.set_num_threads(1)
    first, count = int(sys.argv[1]), int(sys.argv[2])
    for seed in range(first, first + count):
        print(seed, *judged([seed]), flush=True)
