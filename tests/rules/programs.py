"""Programs as data, to be drawn by hypothesis and shown when one fails.

A program is a list of steps, each an operation on earlier values; an operation may be a program itself, under ``jit``,
``vmap``, ``checkpoint``, ``scan`` or ``cond``. All values of a program have the dtype of its inputs. Their shapes are
known while it is drawn, and so are bounds for their entries, which keep operations in their domains.
"""

from __future__ import annotations

import copy
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
    """A function of arrays of the shapes ``inputs``. It returns those of its values that no step uses.

    ``types`` are those of the inputs where they say more: how they are sharded, or that dimensions are open, of which
    ``inputs`` are the least sizes.
    """

    def __init__(self, inputs: Sequence[tuple[int, ...]], dtype: np.dtype, types: Sequence[Any] | None = None):
        self.count, self.dtype, self.is_complex = len(inputs), dtype, dtype.kind == "c"
        self.shapes, self.bounds = list(inputs), [2.0] * len(inputs)
        self.types = None if types is None else list(types)
        self.steps: list[Step] = []

    def append(self, step: Step) -> bool:
        """Add a step, unless there would be nothing in its value, or JAX does not do that with values of such types."""
        plain = [jax.ShapeDtypeStruct(shape, self.dtype) for shape in self.shapes]
        try:
            out, kind = (
                None if types is None else jax.eval_shape(step.function, *(types[i] for i in step.operands))
                for types in (plain, self.types)
            )
        except Exception:
            if self.types is None:
                raise
            return False
        assert out.dtype == self.dtype, step
        if math.prod(out.shape) == 0:
            return False
        if self.types is not None:
            self.types.append(kind)
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

    def rules(self) -> dict[Callable, Any]:
        """The rules of the functions in it that have some."""
        return {key: rule for f in self.functions(Nested) for key, rule in f.rules().items()}

    def by_custom_vjp(self) -> Program:
        """The same program with ``jax.custom_vjp`` around these functions."""
        program = copy.copy(self)
        program.steps = [
            step._replace(function=step.function.by_custom_vjp()) if isinstance(step.function, Nested) else step
            for step in self.steps
        ]
        return program

    def functions(self, kind: type) -> list[Any]:
        return [step.function for step in self.steps if isinstance(step.function, kind)]

    def __repr__(self) -> str:
        types = self.shapes if self.types is None else self.types
        lines = [f"v{i} {self.dtype} {kind}" for i, kind in enumerate(types[: self.count])]
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

    def rules(self) -> dict[Callable, Any]:
        return self.program.rules()

    def by_custom_vjp(self) -> Nested:
        return Nested(self.program.by_custom_vjp(), self.wrap)


class Ruled(Nested):
    """A program with a rule, which need not be its derivative: a formula of ``ct, x, y, out`` for each operand."""

    def __init__(self, program: Program, formulas: Sequence[Callable | None], as_pair: bool):
        self.formulas, self.as_pair = formulas, as_pair
        # Every instance has a function of its own, of one name and one line.
        self.jitted = jax.jit(lambda x, y: self.one_value(x, y))
        super().__init__(program, lambda _: self.jitted)

    def rules(self) -> dict[Callable, Any]:
        return {**super().rules(), self.jitted: self.pair() if self.as_pair else self.formulas}

    def by_custom_vjp(self) -> Nested:
        def wrap(function):
            custom = jax.custom_vjp(function)
            custom.defvjp(*self.pair(function))
            return custom

        return Nested(self.program.by_custom_vjp(), wrap)

    def pair(self, function: Callable | None = None) -> tuple[Callable, Callable]:
        """Forward and backward, as for ``custom_vjp``."""

        def forward(x, y):
            out = (function or self.jitted)(x, y)
            return out, (x, y, out)

        def backward(residuals, ct):
            return tuple([None if f is None else f(ct, *residuals) for f in self.formulas])

        return forward, backward


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
