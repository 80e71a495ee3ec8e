"""A function whose gradient holds no more than it was told to."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar

import jax
import jax.numpy as jnp

from funcgrad._jax import ClosedJaxpr
from funcgrad.budgets.plan import Plan
from funcgrad.programs.evaluation import evaluate
from funcgrad.programs.memo import memo
from funcgrad.units import in_bytes

P = ParamSpec("P")
R = TypeVar("R")


def checkpoint(
    fun: Callable[P, R], *, memory: int | float | str, keep: Sequence[str] = (), collectives: bool = False
) -> Callable[P, R]:
    """``fun``, with a gradient that holds no more than ``memory``, at the price of computing some values again.

    Nothing is to be marked in ``fun``. The whole program that it is, through ``jit`` and into loops, is cut into
    segments; on the way back each is computed again when its turn comes, from what was kept of it. What is kept is what
    saves most operations for its bytes.

    ``memory`` is what is held for the gradient besides parameters, inputs and results: bytes (an ``int``), a text such
    as ``"1.5 GiB"``, or a fraction (a ``float``) of what is held when nothing is computed again. Under ``shard_map`` it
    is that of a device, under ``vmap`` that of one example. Values named with ``jax.ad_checkpoint.checkpoint_name`` are
    kept where ``keep`` has their name. Effects happen once, and devices wait for each other once, unless
    ``collectives``; random numbers are the same when they are drawn again.

    The result is a function like any other, also to JAX's own transforms. On the CPU it is funcgrad's that hold to the
    budget: there XLA begins what ``jax.grad`` computes again long before its turn.

    Raises ``ValueError`` when the function is called, before anything is computed, if there is no way to do with so
    little; it says what the least is, and what holds it.

    Follows Chen et al. (2016, arXiv:1604.06174) for the segments and the min-cut partitions of PyTorch's compiler for
    what they keep.

    >>> import funcgrad as fg, jax, jax.numpy as jnp
    >>> def chain(x):
    ...     for _ in range(32):
    ...         x = jnp.sin(x) @ x
    ...     return jnp.sum(x)
    >>> def held(fun):
    ...     return jax.jit(fg.grad(fun)).lower(jnp.eye(64)).compile().memory_analysis().temp_size_in_bytes
    >>> held(fg.checkpoint(chain, memory=0.5)) < 0.6 * held(chain)
    True
    """
    if isinstance(keep, str):
        raise TypeError(f"keep={keep!r} is to be a sequence of names: keep=({keep!r},)")
    in_bytes(memory, 1.0)
    names = tuple(keep)
    # A jitted function is traced once for arguments of the same types.
    jitted = jax.jit(fun)

    def run(eqn: Any, values: Sequence[Any]) -> list[Any]:
        return evaluate(planned(eqn.params["jaxpr"], memory, names, collectives), *values)

    @functools.wraps(fun)
    def within(*args: P.args, **kwargs: P.kwargs) -> R:
        program, out = jax.make_jaxpr(jitted, return_shape=True)(*args, **kwargs)
        outs = evaluate(program, *jax.tree.leaves((args, kwargs)), run=run)
        # What does not depend on the arguments may be a number of Python's.
        arrays = [x if isinstance(x, jax.Array) else jnp.asarray(x) for x in outs]
        result: R = jax.tree.unflatten(jax.tree.structure(out), arrays)
        return result

    return within


@memo
def planned(program: ClosedJaxpr, memory: int | float | str, keep: tuple[str, ...], collectives: bool) -> ClosedJaxpr:
    """``program`` as it holds no more than ``memory``."""
    plan = Plan(program.replace(), keep, collectives)
    return plan.planned(plan.within(in_bytes(memory, plan.curve[0].held)))
