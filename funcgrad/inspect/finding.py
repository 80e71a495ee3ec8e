"""What ``find_nonfinite`` finds, and its hints: the known traps, and ways around them."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Callable, Sequence

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class NonFinite:
    """The operation that made the first NaN or infinity.

    Attributes:
      file, line, function: where it is in the user's code; of an operation of the way back, the forward operation. None
        if that is not known.
      primitive: the forward operation, such as ``"sqrt"``.
      direction: ``"forward"``, or ``"backward"`` if it was made in that operation's pullback.
      operation: the operation that ran: in the forward direction the primitive, else one of those of its rule.
      operands: the types of what it was applied to.
      values: for each operand the offending entries, at most 8; of an operation that mixes entries, the smallest and
        the largest of each operand.
      result: what was made of them; of an operation that mixes entries, the entries that are not finite, at most 8.
      index: the place of the first of these in the result.
      count: how many such entries there are.
      iterations: the iterations of the loops around it, counted from zero, from the outside in.
      hint: what the cause may be and what to do.
    """

    file: str | None = None
    line: int | None = None
    function: str | None = None
    primitive: str
    direction: str = "forward"
    operation: str
    operands: tuple[str, ...] = ()
    values: tuple[np.ndarray, ...] = ()
    result: np.ndarray
    index: tuple[int, ...] = ()
    count: int = 0
    iterations: tuple[int, ...] = ()
    hint: str = ""

    def __str__(self) -> str:
        made = "NaN" if self.is_nan() else "infinity"
        came = "was given, and taken" if self.is_given() else "is made"
        place = f"{self.file}:{self.line} ({self.function})" if self.file else "a line that is not known"
        loops = "".join(f", iteration {i}" for i in self.iterations)
        inside = "" if self.operation == self.primitive else f" (in its pullback: {self.operation})"
        where = f"[{', '.join(map(str, self.index))}]" if self.index else ""
        operands = enumerate(zip(self.operands, self.values, strict=True))
        return "\n".join(
            [
                f"The first {made} {came} on the way {self.direction} by {self.primitive}{inside}{loops}",
                f"  at {place}",
                *(f"  operand {i}, {kind}: {shown(value)}" for i, (kind, value) in operands),
                f"  result{where}: {shown(self.result)}, {self.count} in all",
                *textwrap.wrap(self.hint, 100, initial_indent="  ", subsequent_indent="  ", break_long_words=False),
            ]
        )

    def is_given(self) -> bool:
        """Whether the operation did not make it, but had it in an operand."""
        kind = np.isnan if self.is_nan() else np.isinf
        return any(kind(x).any() for x in self.values)

    def is_nan(self) -> bool:
        return bool(np.isnan(self.result).any())


def shown(x: np.ndarray) -> str:
    return np.array2string(np.asarray(x), separator=", ", precision=6, max_line_width=10**6)


# Hints.

LARGEST = {"f16": "65504", "bf16": "3.4e38", "f32": "3.4e38", "f64": "1.8e308"}


def hint_for(found: NonFinite, given: Sequence[str]) -> str:
    """What may be the matter; ``given`` are the arguments that are not finite to begin with."""
    known, otherwise = (BACKWARD, backward) if found.direction == "backward" else (FORWARD, overflow)
    parts = [f"{', '.join(given)} is not finite to begin with."] if given else []
    if found.is_given():
        return "".join(parts) or "What is not finite was given, or put in as a constant."
    hint = known.get(found.primitive, otherwise)
    return " ".join(filter(None, [*parts, hint if isinstance(hint, str) else hint(found)]))


def entries(found: NonFinite) -> np.ndarray:
    """The offending entries of the first operand; none if there is no operand."""
    return found.values[0] if found.values else np.zeros(0)


def too_large(found: NonFinite, what: str) -> str:
    kind = found.operands[0].partition("[")[0] if found.operands else ""
    limit = f"the largest {kind} is {LARGEST[kind]}" if kind in LARGEST else "the type has no larger number"
    return f"The {what} is too large for its type: {limit}."


# On the way forward.


def overflow(found: NonFinite) -> str:
    if found.is_nan() or any(np.isinf(x).any() for x in found.values):
        return infinities(found)
    return f"{too_large(found, 'result')} Scale the values down, or use a wider type."


def infinities(found: NonFinite) -> str:
    """How a NaN comes of infinities."""
    values = np.concatenate([np.zeros(0), *map(np.ravel, found.values)])
    if found.primitive in ("sub", "add") and np.isneginf(values).any():
        return (
            "Infinity minus infinity is NaN. In a softmax that is a row whose entries are all -inf, such as a query "
            "for which every key is masked. Mask with a large finite number (-1e9) instead of -inf, or mask the result."
        )
    if found.primitive in ("mul", "dot_general") and (values == 0).any():
        return "Zero times infinity is NaN. Find where the infinity comes from, or choose with jnp.where instead."
    return ""


def log(found: NonFinite) -> str:
    if (entries(found) < 0).any():
        return "The logarithm of a negative number is NaN. Check where the sign comes from, or clip the operand first."
    return (
        "The logarithm of zero is -inf. Use jax.nn.log_softmax or jax.nn.log_sigmoid in place of the log of a "
        "probability, jax.scipy.special.xlogy for x * log(x), or keep the operand away from zero: "
        "jnp.log(jnp.maximum(x, eps))."
    )


def root(found: NonFinite) -> str:
    if (entries(found) < 0).any():
        return (
            "The square root of a negative number is NaN. A variance computed as E[x^2] - E[x]^2 may come out negative "
            "by rounding: use jnp.var, or clip it at zero."
        )
    return "One over the square root of zero is infinite: add a small number under the root."


def division(found: NonFinite) -> str:
    if found.values and (found.values[-1] == 0).any():
        made = "Zero divided by zero is NaN" if found.is_nan() else "A division by zero is infinite"
        return (
            f"{made}. Guard the denominator before dividing: x / jnp.where(y == 0, 1.0, y); a guard around the "
            "quotient hides it on the way forward only."
        )
    return overflow(found)


def power(found: NonFinite) -> str:
    if (entries(found) < 0).any() and found.is_nan():
        return "A negative number to a power that is not whole is NaN. Take the power of its absolute value."
    if (entries(found) == 0).any():
        return "Zero to a negative power is infinite. Keep the base away from zero."
    return overflow(found)


EXPONENTIAL = (
    "exp overflows: in float32 above 88.7, in float16 above 11. Subtract the largest operand first, as "
    "jax.nn.softmax and jax.nn.logsumexp do; for log(1 + exp(x)) use jax.nn.softplus."
)
DOMAINS = {
    "log1p": "above -1",
    "acos": "from -1 to 1",
    "asin": "from -1 to 1",
    "atanh": "between -1 and 1",
    "acosh": "from 1 up",
    "erf_inv": "between -1 and 1",
}
FORWARD: dict[str, str | Callable[[NonFinite], str]] = {
    "log": log,
    "sqrt": root,
    "rsqrt": root,
    "div": division,
    "pow": power,
    "integer_pow": power,
    **dict.fromkeys(("exp", "exp2", "expm1", "sinh", "cosh"), EXPONENTIAL),
    **{name: f"{name} is defined {where}. Clip the operand to stay inside." for name, where in DOMAINS.items()},
    "cholesky": "The matrix has no such factors: for cholesky it must be positive definite. Add a small multiple of "
    "the identity, or use float64.",
    "convert_element_type": "The value is too large for the type it is converted to. float16 ends at 65504; bfloat16 "
    "has float32's range.",
}

# On the way back.

WHERE = (
    "If a jnp.where chooses the other branch there: both branches are differentiated, and a cotangent of zero times an "
    "infinite slope is NaN. Guard the operand instead, inside the branch: "
    "jnp.where(ok, f(jnp.where(ok, x, 1.0)), other)."
)


def backward(found: NonFinite) -> str:
    if found.is_nan():
        return WHERE if any((x == 0).any() for x in found.values) else ""
    return f"{too_large(found, 'cotangent')} funcgrad.explain shows where they grow."


def infinite(what: str, more: str = "") -> str:
    return f"The derivative of {what}: the slope is infinite there. {more}{WHERE}"


ROOT = infinite(
    "the square root at zero",
    "A norm, a distance or a standard deviation of equal values is the square root of zero too. Add a small number "
    "under the root: jnp.sqrt(x + eps). ",
)
POWER = infinite("a power at zero, or with respect to the exponent of a base of zero")
SPECTRUM = (
    "Equal eigenvalues or singular values have no vectors of their own, so the derivative with respect to these is "
    "infinite. Use the values alone, or break the tie with a small perturbation."
)
BACKWARD: dict[str, str] = {
    **dict.fromkeys(("sqrt", "cbrt", "rsqrt"), ROOT),
    "log": infinite("the logarithm at zero"),
    "div": infinite("a quotient where the denominator is zero"),
    **dict.fromkeys(("pow", "integer_pow"), POWER),
    "atan2": f"The angle of the origin has no derivative. {WHERE}",
    **dict.fromkeys(("eigh", "eig", "svd"), SPECTRUM),
    **{name: infinite(f"{name} at the end of its domain", "Clip the operand inside. ") for name in DOMAINS},
}
