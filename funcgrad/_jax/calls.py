"""Jitted functions, as a rule table recognises them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax

from funcgrad._jax.compat import ClosedJaxpr
from funcgrad._jax.names import batching, weakref_lru_cache

JittedFunction = type(jax.jit(lambda: None))


def jitted(function: Any) -> Any:
    """The jitted function that ``function`` is, or is a ``custom_jvp`` or ``custom_vjp`` form of; else None."""
    if isinstance(function, jax.custom_jvp | jax.custom_vjp):
        function = getattr(function, "__wrapped__", None)
    return function if isinstance(function, JittedFunction) else None


def static_names(function) -> frozenset[str]:
    return frozenset(function._jit_info.static_argnames)


def is_own_program(program) -> bool:
    """Whether a jitted function's program was traced from the function, and not made of such a program by batching."""
    return program.jaxpr.debug_info.result_paths is not None


class Batching(NamedTuple):
    """How a program was batched: the axis, and where it is in each input and output, None where it is not."""

    size: int
    name: Any
    spmd_name: Any
    in_axes: Sequence[int | None]
    out_axes: Sequence[int | None]


@weakref_lru_cache
def batching_of(program) -> tuple[ClosedJaxpr, Batching] | None:
    """The program that ``program`` is the batched form of, and how; None where that is not known any more.

    JAX does not say, but it keeps what it has batched, to do so once.
    """
    for ref, _, (axis, in_axes), _ in batching._batch_jaxpr2.cache_keys():
        single = ref()
        if single is None or single.jaxpr.debug_info.func_src_info != program.jaxpr.debug_info.func_src_info:
            continue
        batched, out_axes = batching._batch_jaxpr2(single, axis, in_axes)
        if batched is program or (batched.in_avals == program.in_avals and str(batched) == str(program)):
            return single, Batching(axis.size, axis.name, axis.spmd_name, in_axes, out_axes)
    return None
