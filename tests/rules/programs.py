"""Programs as data, to be drawn by hypothesis and shown when one fails.

A program is a list of steps, each an operation on earlier values; an operation may be a program itself, under ``jit``,
``vmap``, ``checkpoint``, ``scan`` or ``cond``. All values of a program have the dtype of its inputs. Their shapes are
known while it is drawn, and so are bounds for their entries, which keep operations in their domains.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


class Step(NamedTuple):
    name: str
    operands: tuple[int, ...]
    function: Callable
    bound: float


class Program:
    """A function of arrays of the shapes ``inputs``. It returns those of its values that no step uses."""

    def __init__(self, inputs: Sequence[tuple[int, ...]], dtype: np.dtype):
        self.count, self.dtype, self.is_complex = len(inputs), dtype, dtype.kind == "c"
        self.shapes, self.bounds = list(inputs), [2.0] * len(inputs)
        self.steps: list[Step] = []

    def append(self, step: Step) -> bool:
        """Add a step, unless there would be nothing in its value."""
        out = jax.eval_shape(step.function, *(jax.ShapeDtypeStruct(self.shapes[i], self.dtype) for i in step.operands))
        assert out.dtype == self.dtype, step
        if math.prod(out.shape) == 0:
            return False
        self.steps.append(step)
        self.shapes.append(out.shape)
        self.bounds.append(step.bound)
        return True

    def __call__(self, *inputs: Any) -> list[Any]:
        values = list(inputs)
        for step in self.steps:
            values.append(step.function(*(values[i] for i in step.operands)))
        used = {i for step in self.steps for i in step.operands}
        return [x for i, x in enumerate(values) if i not in used]

    def __repr__(self) -> str:
        lines = [f"v{i} {self.dtype}{list(shape)}" for i, shape in enumerate(self.shapes[: self.count])]
        for i, step in enumerate(self.steps, self.count):
            operands = ", ".join(f"v{k}" for k in step.operands)
            lines.append(f"v{i} {list(self.shapes[i])} = {step.name}({operands})")
            if isinstance(step.function, Nested):
                lines += [f"    {line}" for line in repr(step.function.program).splitlines()]
        return "\n".join(lines)


class Nested:
    """A program inside of one, as a function of its own inputs with one bounded value."""

    def __init__(self, program: Program, wrap: Callable):
        self.program, self.wrap = program, wrap

    def __call__(self, *args: Any) -> Any:
        return self.wrap(self.one_value)(*args)

    def one_value(self, *args: Any) -> Any:
        *others, last = self.program(*args)
        return bounded(sum((jnp.mean(x) for x in others), last))


# Domains.


def bounded(x):
    """A smooth function to the unit ball."""
    if not jnp.iscomplexobj(x):
        return lax.tanh(x)
    return x * lax.complex(lax.rsqrt(1 + lax.real(x * lax.conj(x))), lax.full_like(lax.real(x), 0))


def fitted(x, shape):
    """``x``, or its mean, broadcast to ``shape``."""
    try:
        return jnp.broadcast_to(x, shape)
    except ValueError:
        return jnp.broadcast_to(jnp.mean(x), shape)


def of_bounded(function: Callable, shift: float = 0.0, scale: float = 1.0) -> Callable:
    """``function`` at ``shift + scale * x`` for x in the unit ball."""
    return lambda x: function(shift + scale * bounded(x))
