"""A gradient in less memory: budgets beside ``jax.checkpoint`` with its policies and PyTorch's checkpoints.

python -m benchmarks.checkpoints

The program is the small GPT-2 of ``benchmarks.workloads.large``, 12 unrolled layers, without marks for the budgets and
checkpointed layer by layer for the rest. Memory is XLA's temporary memory, and of PyTorch the most bytes that tensors
hold at a time besides those that are there before and after; time is the median of ratios of runs in turn. Each is
divided by what the same library takes that keeps everything.
"""

from __future__ import annotations

import functools
import math
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax import checkpoint_policies as policies

import funcgrad as fg
from benchmarks.budgets import Gradient, difference
from benchmarks.measure import compare
from benchmarks.workloads.large import gpt, programs

WAYS: dict[str, Callable[[Any], Any]] = {
    "`jax.checkpoint` around each layer": jax.checkpoint,
    "with `dots_with_no_batch_dims_saveable`": functools.partial(
        jax.checkpoint, policy=policies.dots_with_no_batch_dims_saveable
    ),
    "with `dots_saveable`": functools.partial(jax.checkpoint, policy=policies.dots_saveable),
}
BUDGETS = [0.5, 0.25, 0.2]


def rows() -> Iterator[tuple[str, float, float, float]]:
    """What was done, and its memory, flops and time beside keeping everything."""
    f, args = programs()["GPT-2"]
    plain = {grad: Gradient(f, args, grad) for grad in (jax.grad, fg.grad)}

    def row(name: str, mine: Gradient, grad: Callable) -> tuple[str, float, float, float]:
        whole = plain[grad]
        assert difference(jax.tree.leaves(mine()), jax.tree.leaves(plain[jax.grad]())) < 1e-4, name
        time = compare(whole, mine, budget=15.0).ratio
        return name, mine.held / whole.held, mine.flops / whole.flops, time

    for name, wrap in WAYS.items():
        for grad in (jax.grad, fg.grad):
            marked = functools.partial(gpt, wrap=wrap)
            yield row(f"{name}, `{'jax' if grad is jax.grad else 'fg'}.grad`", Gradient(marked, args, grad), grad)
    for budget in BUDGETS:
        mine = Gradient(fg.checkpoint(f, memory=budget), args, fg.grad)
        yield row(f"`fg.checkpoint(loss, memory={budget})`, `fg.grad`", mine, fg.grad)
    yield from in_torch(args, plain[jax.grad]())


def in_torch(args: Any, expected: Any) -> Iterator[tuple[str, float, float, float]]:
    """The same in PyTorch, plain, checkpointed and checkpointed selectively, whose flops are not counted."""
    import torch
    from torch.utils import checkpoint as checkpoints

    def saving(kept: list[Any]) -> Callable:
        return functools.partial(checkpoints.create_selective_checkpoint_contexts, kept)

    mm, bmm = torch.ops.aten.mm.default, torch.ops.aten.bmm.default
    ways: dict[str, dict[str, Any] | None] = {
        "plain": None,
        "PyTorch, `checkpoint` around each layer": {},
        "PyTorch, selective: products without batch kept": {"context_fn": saving([mm])},
        "PyTorch, selective: products kept": {"context_fn": saving([mm, bmm])},
    }
    runs = {name: Torch(args, how) for name, how in ways.items()}
    whole = runs.pop("plain")
    held = whole.held()
    assert difference(whole.gradient(), jax.tree.leaves(expected)) < 1e-4
    for name, run in runs.items():
        assert difference(run.gradient(), jax.tree.leaves(expected)) < 1e-4, name
        yield name, run.held() / held, float("nan"), compare(whole, run, budget=15.0).ratio


class Torch:
    """The loss and its gradient in PyTorch; ``how`` are the arguments of its ``checkpoint``, None for none."""

    def __init__(self, args: Any, how: dict[str, Any] | None):
        import torch

        leaves, self.tree = jax.tree.flatten(args[0])
        self.leaves = [torch.tensor(np.asarray(x), requires_grad=True) for x in leaves]
        self.tokens = torch.tensor(np.asarray(args[1]), dtype=torch.int64)
        self.how = how

    def loss(self) -> Any:
        import torch
        from torch.nn import functional
        from torch.utils.checkpoint import checkpoint

        params, tokens = jax.tree.unflatten(self.tree, self.leaves), self.tokens

        def normalized(affine: Any, x: Any) -> Any:
            return functional.layer_norm(x, x.shape[-1:], *affine, 1e-5)

        def block(p: Any, x: Any, heads: int = 4) -> Any:
            batch, length, width = x.shape
            q, k, v = (normalized(p["before"], x) @ p["qkv"]).split(width, -1)
            q, k, v = (a.view(batch, length, heads, width // heads).transpose(1, 2) for a in (q, k, v))
            scores = q @ k.transpose(2, 3) / math.sqrt(width // heads)
            scores = scores.masked_fill(torch.ones(length, length, dtype=torch.bool).triu(1), -1e9)
            x = x + (scores.softmax(-1) @ v).transpose(1, 2).reshape(x.shape) @ p["projection"]
            return x + functional.gelu(normalized(p["between"], x) @ p["up"], approximate="tanh") @ p["down"]

        x = params["embedding"][tokens] + params["position"]
        for p in params["blocks"]:
            x = block(p, x) if self.how is None else checkpoint(block, p, x, use_reentrant=False, **self.how)
        logits = normalized(params["last"], x) @ params["embedding"].T
        return functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())

    def __call__(self) -> Any:
        for x in self.leaves:
            x.grad = None
        self.loss().backward()

    def gradient(self) -> list[Any]:
        self()
        return [x.grad.numpy() for x in self.leaves]

    def held(self) -> int:
        """The most bytes held at a time in one step, without the gradients that stay."""
        self()
        with counting([*self.leaves, self.tokens]) as count:
            self()
        return count.most - sum(x.grad.nbytes for x in self.leaves)


def counting(there: list[Any]) -> Any:
    """A mode that counts the bytes that tensors hold besides those that are ``there``."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Counting(TorchDispatchMode):
        def __init__(self) -> None:
            super().__init__()
            self.now = self.most = 0
            self.seen = {x.untyped_storage().data_ptr() for x in there}

        def freed(self, pointer: int, size: int) -> None:
            self.seen.discard(pointer)
            self.now -= size

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            for x in jax.tree.leaves(out):
                storage = getattr(x, "untyped_storage", lambda: None)()
                if storage is not None and storage.data_ptr() not in self.seen:
                    self.seen.add(storage.data_ptr())
                    self.now += storage.nbytes()
                    self.most = max(self.most, self.now)
                    weakref.finalize(storage, self.freed, storage.data_ptr(), storage.nbytes())
            return out

    return Counting()


def main() -> None:
    print("| GPT-2, 12 layers | memory | flops | time |\n| :-- | --: | --: | --: |")
    for name, memory, flops, time in rows():
        print(f"| {name} | {memory:.2f} | {'-' if math.isnan(flops) else f'{flops:.2f}'} | {time:.2f} |", flush=True)


if __name__ == "__main__":
    main()
