"""Algebra that a person would not write down, as rewrites of single operations.

Each keeps the numbers: what is exact in floating point, up to the sign of a zero, and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from funcgrad._jax import Literal
from funcgrad.inspect.source.identities import identity
from funcgrad.inspect.source.program import Equation, dtype_of
from funcgrad.inspect.source.simplify import Rewrite, Rule, Simplifier, instead, is_value, literal, same_type

FOLDED: dict[str, Callable] = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide, "neg": np.negative, "sqrt": np.sqrt,
    "max": np.maximum, "min": np.minimum, "lt": np.less, "le": np.less_equal, "gt": np.greater, "eq": np.equal,
    "ge": np.greater_equal, "ne": np.not_equal, "not": np.logical_not, "square": np.square,
    "convert_element_type": np.asarray,
}  # fmt: skip
UNIFORM = ("add", "sub", "mul")


def folded(s: Simplifier, eqn: Equation) -> Rewrite | None:
    """Operations on numbers, and those in ``UNIFORM`` on arrays whose elements are all one number."""
    out = eqn.outputs[0].aval
    numbers = [x if (made := s.maker(x, "full")) is None else made.inputs[0] for x in eqn.inputs]
    if any(type(x) is not Literal for x in numbers) or (out.shape and eqn.name not in UNIFORM):
        return None
    with np.errstate(all="ignore"):
        value = literal(FOLDED[eqn.name](*[np.asarray(x.val) for x in numbers]), out)
    return instead(eqn, "full", value) if out.shape else Rewrite(value)


def scaled(s: Simplifier, eqn: Equation) -> Rewrite | None:
    """A constant times a constant times a value, where taking the constants together does not round."""
    x, y = eqn.inputs
    made = s.maker(y, "mul")
    if type(x) is not Literal or made is None or type(made.inputs[0]) is not Literal:
        return None
    first, second = x.val, made.inputs[0].val
    if not jnp.issubdtype(dtype_of(x), np.floating) or not (is_power_of_two(first) or is_power_of_two(second)):
        return None
    factor = literal(np.asarray(first) * np.asarray(second), x.aval)
    if not 1e-30 < abs(float(factor.val)) < 1e30:
        return None
    return instead(eqn, "mul", factor, made.inputs[1])


def is_power_of_two(x: Any) -> bool:
    return math.isfinite(float(x)) and abs(math.frexp(float(x))[0]) == 0.5


def powers(s: Simplifier, eqn: Equation) -> Rewrite | None:
    if eqn.params["y"] == 1:
        return Rewrite(eqn.inputs[0])
    return instead(eqn, "square", eqn.inputs[0]) if eqn.params["y"] == 2 else None


def triangle(s: Simplifier, eqn: Equation) -> Rewrite | None:
    """Row numbers compared with column numbers."""
    x, y = eqn.inputs
    offset = 0
    shifted = s.maker(x, "add")
    if shifted is not None:
        numbers = [v for v in shifted.inputs if type(v) is Literal]
        if len(numbers) != 1:
            return None
        offset = int(numbers[0].val)
        x = next(v for v in shifted.inputs if type(v) is not Literal)
    rows, columns = s.maker(x, "iota"), s.maker(y, "iota")
    if rows is None or columns is None or rows.inputs or columns.inputs or len(eqn.outputs[0].aval.shape) != 2:
        return None
    if x.aval.shape != y.aval.shape or (rows.params["dimension"], columns.params["dimension"]) != (0, 1):
        return None
    return instead(eqn, "tri", offset=offset)


def mean(s: Simplifier, eqn: Equation) -> Rewrite | None:
    """A sum divided by the number of its terms."""
    x, y = eqn.inputs
    made = s.maker(x, "reduce_sum")
    if made is None or type(y) is not Literal or not s.only_use(x) or made.inputs[0].aval.dtype not in WIDE:
        return None
    count = math.prod(made.inputs[0].aval.shape[i] for i in made.params["axes"])
    if not is_value(y, count) or not same_type(eqn.outputs[0], x):
        return None
    return instead(eqn, "mean", made.inputs[0], **made.params)


#: Types in which ``jnp`` sums as ``lax`` does.
WIDE = (np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.complex64), np.dtype(np.complex128))


REWRITES: dict[str, tuple[Rule, ...]] = {
    **dict.fromkeys(FOLDED, (folded, identity)),
    "mul": (folded, identity, scaled),
    "div": (folded, identity, mean),
    **dict.fromkeys(("add_any", "select_n"), (identity,)),
    "ge": (folded, triangle),
    "integer_pow": (powers,),
}
