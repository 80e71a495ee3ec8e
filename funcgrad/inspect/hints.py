"""The known traps, and ways around them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from funcgrad.inspect.nonfinite import NonFinite

WHERE = (
    "If a jnp.where chooses the other branch there: both branches are differentiated, and a cotangent of zero times an "
    "infinite slope is NaN. Guard the operand instead, inside the branch: "
    "jnp.where(ok, f(jnp.where(ok, x, 1.0)), other)."
)
HALFWAY = "the slope is infinite there"


def hint_for(found: NonFinite, given: Sequence[str]) -> str:
    """What may be the matter; ``given`` are the arguments that are not finite to begin with."""
    parts = []
    if given:
        parts.append(f"{', '.join(given)} is not finite to begin with.")
    known = BACKWARD if found.direction == "backward" else FORWARD
    hint = known.get(found.primitive, backward if found.direction == "backward" else overflow)
    parts.append(hint(found))
    return " ".join(part for part in parts if part)


def entries(found: NonFinite, i: int) -> np.ndarray:
    """The offending entries of an operand; none if there is no such operand."""
    return found.values[i] if i < len(found.values) else np.zeros(0)


def is_nan(found: NonFinite) -> bool:
    return bool(np.isnan(found.result).any())


def largest(found: NonFinite) -> str:
    dtypes = {"f16": "65504", "bf16": "3.4e38", "f32": "3.4e38", "f64": "1.8e308"}
    kind = found.operands[0].partition("[")[0] if found.operands else ""
    return f"the largest {kind} is {dtypes[kind]}" if kind in dtypes else "the type has no larger number"


# Forward.


def overflow(found: NonFinite) -> str:
    if is_nan(found) or any(np.isinf(x).any() for x in found.values):
        return infinities(found)
    return f"The result is too large for its type: {largest(found)}. Scale the values down, or use a wider type."


def log(found: NonFinite) -> str:
    if (entries(found, 0) < 0).any():
        return "The logarithm of a negative number is NaN. Check where the sign comes from, or clip the operand first."
    return (
        "The logarithm of zero is -inf. Use jax.nn.log_softmax or jax.nn.log_sigmoid in place of the log of a "
        "probability, jax.scipy.special.xlogy for x * log(x), or keep the operand away from zero: "
        "jnp.log(jnp.maximum(x, eps))."
    )


def root(found: NonFinite) -> str:
    if (entries(found, 0) < 0).any():
        return (
            "The square root of a negative number is NaN. A variance computed as E[x^2] - E[x]^2 may come out negative "
            "by rounding: use jnp.var, or clip it at zero."
        )
    return "One over the square root of zero is infinite: add a small number under the root."


def division(found: NonFinite) -> str:
    if found.values and (entries(found, len(found.values) - 1) == 0).any():
        made = "Zero divided by zero is NaN" if is_nan(found) else "A division by zero is infinite"
        return (
            f"{made}. Guard the denominator before dividing: x / jnp.where(y == 0, 1.0, y); a guard around the "
            "quotient hides it on the way forward only."
        )
    return infinities(found) if is_nan(found) else overflow(found)


def exponential(found: NonFinite) -> str:
    return (
        "exp overflows: in float32 above 88.7, in float16 above 11. Subtract the largest operand first, as "
        "jax.nn.softmax and jax.nn.logsumexp do; for log(1 + exp(x)) use jax.nn.softplus."
    )


def power(found: NonFinite) -> str:
    if (entries(found, 0) < 0).any() and is_nan(found):
        return "A negative number to a power that is not whole is NaN. Take the power of its absolute value."
    if (entries(found, 0) == 0).any():
        return "Zero to a negative power is infinite. Keep the base away from zero."
    return overflow(found)


def product(found: NonFinite) -> str:
    return infinities(found) if is_nan(found) else overflow(found)


def infinities(found: NonFinite) -> str:
    """How a NaN comes of infinities."""
    values = np.concatenate([np.ravel(x) for x in found.values]) if found.values else np.zeros(0)
    if found.primitive in ("sub", "add") and np.isneginf(values).any():
        return (
            "Infinity minus infinity is NaN. In a softmax that is a row whose entries are all -inf, such as a query "
            "for which every key is masked. Mask with a large finite number (-1e9) instead of -inf, or mask the result."
        )
    if found.primitive in ("mul", "dot_general") and (values == 0).any():
        return "Zero times infinity is NaN. Find where the infinity comes from, or choose with jnp.where instead."
    if not np.isfinite(values).all():
        return "What is not finite was given, or put in as a constant."
    return ""


def added(found: NonFinite) -> str:
    return infinities(found) if is_nan(found) else overflow(found)


def domain(where: str) -> Callable[[NonFinite], str]:
    return lambda found: f"{found.primitive} is defined {where}. Clip the operand to stay inside."


def factorization(found: NonFinite) -> str:
    return (
        "The matrix has no such factors: for cholesky it must be positive definite. Add a small multiple of the "
        "identity, or use float64."
    )


def conversion(found: NonFinite) -> str:
    return (
        "The value is too large for the type it is converted to. float16 ends at 65504; bfloat16 has float32's range."
    )


FORWARD: dict[str, Callable] = {
    "log": log,
    "log1p": domain("above -1"),
    "sqrt": root,
    "rsqrt": root,
    "div": division,
    "exp": exponential,
    "exp2": exponential,
    "expm1": exponential,
    "sinh": exponential,
    "cosh": exponential,
    "pow": power,
    "integer_pow": power,
    "mul": product,
    "dot_general": product,
    "sub": added,
    "add": added,
    "reduce_sum": added,
    "acos": domain("from -1 to 1"),
    "asin": domain("from -1 to 1"),
    "atanh": domain("between -1 and 1"),
    "acosh": domain("from 1 up"),
    "erf_inv": domain("between -1 and 1"),
    "cholesky": factorization,
    "convert_element_type": conversion,
}


# Backward.


def backward(found: NonFinite) -> str:
    values = np.concatenate([np.ravel(x) for x in found.values]) if found.values else np.zeros(0)
    if is_nan(found) and (values == 0).any():
        return WHERE
    if is_nan(found):
        return ""
    return f"The cotangent is too large for its type: {largest(found)}. funcgrad.explain shows where they grow."


def root_back(found: NonFinite) -> str:
    return (
        f"The derivative of the square root at zero: {HALFWAY}. A norm, a distance or a standard deviation of equal "
        f"values is the square root of zero too. Add a small number under the root: jnp.sqrt(x + eps). {WHERE}"
    )


def log_back(found: NonFinite) -> str:
    return f"The derivative of the logarithm at zero: {HALFWAY}. {WHERE}"


def division_back(found: NonFinite) -> str:
    return f"The derivative of a quotient where the denominator is zero: {HALFWAY}. {WHERE}"


def power_back(found: NonFinite) -> str:
    return f"The derivative of a power at zero, or with respect to the exponent of a base of zero: {HALFWAY}. {WHERE}"


def angle_back(found: NonFinite) -> str:
    return f"The angle of the origin has no derivative. {WHERE}"


def spectrum_back(found: NonFinite) -> str:
    return (
        "Equal eigenvalues or singular values have no vectors of their own, so the derivative with respect to these is "
        "infinite. Use the values alone, or break the tie with a small perturbation."
    )


def inverse_back(found: NonFinite) -> str:
    return f"The derivative of {found.primitive} at the end of its domain: {HALFWAY}. Clip the operand inside. {WHERE}"


BACKWARD: dict[str, Callable] = {
    "sqrt": root_back,
    "cbrt": root_back,
    "rsqrt": root_back,
    "log": log_back,
    "div": division_back,
    "pow": power_back,
    "integer_pow": power_back,
    "atan2": angle_back,
    "eigh": spectrum_back,
    "eig": spectrum_back,
    "svd": spectrum_back,
    "acos": inverse_back,
    "asin": inverse_back,
    "acosh": inverse_back,
    "atanh": inverse_back,
    "erf_inv": inverse_back,
    "log1p": inverse_back,
}
