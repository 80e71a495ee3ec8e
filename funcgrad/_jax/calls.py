"""Jitted functions, as a rule table recognises them."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax

from funcgrad._jax.compat import ClosedJaxpr
from funcgrad._jax.names import batch_program, jit_p, trace_to_program, weakref_lru_cache
from funcgrad._jax.values import add_arrays

JittedFunction = type(add_arrays)


def jitted(function: Any) -> Any:
    """The jitted function that ``function`` is, or is a ``custom_jvp`` or ``custom_vjp`` form of; else None."""
    if isinstance(function, jax.custom_jvp | jax.custom_vjp):
        function = getattr(function, "__wrapped__", None)
    return function if isinstance(function, JittedFunction) else None


def static_names(function: Any) -> frozenset[str]:
    """The arguments that a jitted function was told are static, by name or by number: it says so nowhere in public."""
    told = function._jit_info
    numbered = enumerate(inspect.signature(function).parameters.values())
    by_number = [p.name for i, p in numbered if i in told.static_argnums and p.kind is p.POSITIONAL_OR_KEYWORD]
    return frozenset((*told.static_argnames, *by_number))


def source_of(function: Any) -> str:
    """Where a jitted function says that it comes from: the very string that the programs traced from it carry on.

    Another function has another string, even with the same text. But functions that are equal share their programs, so
    those may carry that of another ``jit`` of the same function.
    """
    info = getattr(function._fun, "__fun_debug_info__", None)
    source: str = function._jit_info.fun_sourceinfo if info is None else info.func_src_info
    return source


def traced_under(source: str) -> Iterator[Any]:
    """The functions that JAX has traced in this thread under the very string ``source``."""
    for ref, _settings, args, _keywords in trace_to_program.cache_keys():
        if any(getattr(arg, "func_src_info", None) is source for arg in args):
            yield ref()


def jitted_inside(custom: Any) -> Any:
    """The jitted function that a ``custom_jvp`` or ``custom_vjp`` is of, its program once it is staged; else None."""
    function = custom.f
    if isinstance(function, JittedFunction):
        return function
    args: Any = getattr(function, "args", ())
    if len(args) != 1 or not isinstance(args[0], ClosedJaxpr) or len(args[0].eqns) != 1:
        return None
    staged, eqn = args[0], args[0].eqns[0]
    return eqn.params["jaxpr"] if eqn.primitive is jit_p and eqn.outvars == staged.jaxpr.outvars else None


def is_own_program(program: ClosedJaxpr) -> bool:
    """Whether a jitted function's program was traced from the function, and not made of such a program by batching."""
    return program.jaxpr.debug_info.result_paths is not None


class Batching(NamedTuple):
    """How a program was batched: the axis, and where it is in each input and output, None where it is not."""

    size: int
    name: Any
    spmd_name: Any
    in_axes: Sequence[int | None]
    out_axes: Sequence[int | None]


def known_batchings() -> Iterator[tuple[ClosedJaxpr, Any, tuple[int | None, ...]]]:
    """The programs that ``vmap`` has batched in this thread, along which axis, and where their inputs have it.

    JAX keeps them, to batch each once. The keys of that cache are the least certain thing that funcgrad asks of it.
    """
    for ref, _settings, (axis, in_axes), _keywords in batch_program.cache_keys():
        single = ref()
        if single is not None:
            yield single, axis, in_axes


@weakref_lru_cache
def batching_of(program: ClosedJaxpr) -> tuple[ClosedJaxpr, Batching] | None:
    """The program that ``program`` is the batched form of, and how; None where that is not known any more.

    Whatever was batched is batched again and compared: by its text, for under other settings JAX makes it anew.
    """
    source = program.jaxpr.debug_info.func_src_info
    for single, axis, in_axes in known_batchings():
        if single.jaxpr.debug_info.func_src_info is source:
            batched, out_axes = batch_program(single, axis, in_axes)
            if batched is program or (batched.in_avals == program.in_avals and str(batched) == str(program)):
                return single, Batching(axis.size, axis.name, axis.spmd_name, in_axes, out_axes)
    return None
