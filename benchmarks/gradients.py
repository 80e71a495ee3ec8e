"""The gradients of a workload by funcgrad, ``jax.grad`` and PyTorch, and whether they agree."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import funcgrad as fg
from benchmarks.workloads import Workload

#: By how much results in double precision may differ, relative to the largest number of a leaf.
DOUBLE = 1e-10
# For programs that are run once.
quick_jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


class Mismatch(Exception):
    """A gradient that is not the reference's."""


def with_funcgrad(workload: Workload) -> Callable:
    loss = partial(workload.loss, grad=fg.grad) if workload.nested else workload.loss
    return fg.value_and_grad(loss)


def with_jax(workload: Workload) -> Callable:
    return jax.value_and_grad(workload.bounded or workload.loss)


def with_torch(workload: Workload, args: tuple, device: str = "cpu") -> Callable[[], tuple]:
    """A call that gives the loss and its gradient at ``args`` as tensors, eagerly."""
    import torch

    params, *data = jax.tree.map(partial(tensor, device=device), args)
    leaves, tree = jax.tree.flatten(params)
    for leaf in leaves:
        leaf.requires_grad_()

    def run():
        value = workload.torch(torch, params, *data)
        gradient = jax.tree.unflatten(tree, torch.autograd.grad(value, leaves))
        if device != "cpu":
            torch.cuda.synchronize()
        return value.detach(), gradient

    return run


def tensor(x: Any, device: str):
    import torch

    x = np.array(x)
    return torch.tensor(x if x.dtype.kind == "f" else x.astype(np.int64), device=device)


def in_double(args: tuple) -> tuple:
    """``args`` with floats of 64 bits; to be used where those are enabled."""
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float64) if x.dtype == jnp.float32 else x, args)


def difference(ours: Any, theirs: Any) -> float:
    """The largest difference of two trees, relative to the largest number of the leaf; infinite where one is NaN."""
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    worst = 0.0
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        gap = np.max(np.abs(a - b)) / (np.max(np.abs(b)) + 1e-30)
        worst = max(worst, gap if np.isfinite(gap) else np.inf)
    return worst


def require(ours: Any, theirs: Any, tolerance: float, name: str) -> None:
    gap = difference(ours, theirs)
    if not gap <= tolerance:
        raise Mismatch(f"{name}: the gradients differ by {gap:.1e} of the largest entry, more than {tolerance:.0e}")


def require_along_itself(workload: Workload, args: tuple, ours: Any, tolerance: float, name: str) -> None:
    """Compare a gradient with forward mode: the derivative along the gradient is the sum of its squares."""
    params, *data = args
    value, gradient = ours
    length = jnp.sqrt(sum(jnp.vdot(x, x) for x in jax.tree.leaves(gradient)))
    direction = jax.tree.map(lambda x: x / length, gradient)
    forward = quick_jit(lambda p, v: jax.jvp(lambda p: workload.loss(p, *data), (p,), (v,)))
    require((value, length), forward(params, direction), tolerance, name)


def reference(workload: Workload, size: int) -> tuple[tuple, Any]:
    """Arguments in double precision, and the loss and gradient by ``jax.value_and_grad`` at them."""
    with jax.enable_x64(True):
        args = in_double(workload.example(size))
        return args, quick_jit(with_jax(workload))(*args)


def check(name: str, workload: Workload, size: int, *, torch: bool = True) -> None:
    """Compare funcgrad's value and gradient with ``jax.value_and_grad``'s, and PyTorch's with them, in 64 bits.

    Raises:
      Mismatch: they differ by more than rounding.
    """
    args, theirs = reference(workload, size)
    with jax.enable_x64(True):
        ours = quick_jit(with_funcgrad(workload))(*args)
    require(ours, theirs, DOUBLE, f"{name} of {size} {workload.size}")
    if torch and workload.measured("torch", size):
        require(with_torch(workload, args)(), theirs, DOUBLE, f"PyTorch's {name} of {size} {workload.size}")
