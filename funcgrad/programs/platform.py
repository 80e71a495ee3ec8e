"""What depends on the platform is decided here, and nowhere else: when a program is lowered, and once for all of it.

XLA on the CPU updates a carried array in place only where reads and writes are kept apart for it: over 16,384 numbers a
step of a gradient takes 0.05 microseconds with that and 6.7 without (``in_place``). It multiplies a few rows with
transposed weights at half the speed (``turn``). Neither is so elsewhere, so other platforms get the plain program.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax import lax

from funcgrad import _jax
from funcgrad._jax import ClosedJaxpr, Var


def on_cpu(cpu: Callable[..., Any], default: Callable[..., Any], *operands: Any) -> Any:
    """``cpu(*operands)`` on the CPU, ``default(*operands)`` elsewhere; both return the same types.

    What is run eagerly is lowered here and now.
    """
    if _jax.current_trace() is _jax.eval_trace:
        return (cpu if jax.default_backend() == "cpu" else default)(*operands)
    return lax.platform_dependent(*operands, cpu=cpu, default=default)


def choice(cpu: ClosedJaxpr, default: ClosedJaxpr, operands: Sequence[Any], outs: Sequence[Var]) -> list[Any]:
    """The equations of ``on_cpu`` for two programs as they are: to trace them again would take longer than all else."""
    index, cond = equations_of_choice()
    at, here = Var(index.outvars[0].aval), default.jaxpr.eqns[-1]
    place = {"source_info": here.source_info, "ctx": here.ctx}
    params = {**cond.params, "branches": (cpu, default)}
    return [
        index.replace(outvars=[at], **place),
        cond.replace(invars=[at, *operands], outvars=list(outs), params=params, **place),
    ]


@functools.cache
def equations_of_choice() -> tuple[Any, Any]:
    """What JAX writes for ``platform_dependent``: which of the platforms it is, and a conditional of that."""
    same = lambda x: x  # noqa: E731
    index, cond = jax.make_jaxpr(lambda x: lax.platform_dependent(x, cpu=same, default=same))(0.0).eqns
    return index, cond


def zeros_of(avals: Sequence[Any]) -> list[Any]:
    """Zeros of many types, made once for each."""
    zeros = {aval: _jax.zeros(aval) for aval in dict.fromkeys(avals)}
    return [zeros[aval] for aval in avals]
