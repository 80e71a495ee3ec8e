"""What a rule that is not the package's own gives is compared with what it was to give.

A cotangent must have its operand's shape and the dtype of its operand's cotangents. A weak type or a sharding that is
another is changed; anything else is refused, as ``jax.custom_vjp`` does.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from funcgrad import _jax


def is_own(thing: Any) -> bool:
    """Whether a function or a class is one of the package's."""
    return (getattr(thing, "__module__", None) or "").partition(".")[0] == __name__.partition(".")[0]


def where(function: Callable) -> str:
    """A function of a rule, by name, file and line."""
    function = inspect.unwrap(function)
    code = getattr(function, "__code__", None)
    name = getattr(function, "__qualname__", repr(function))
    return name if code is None else f"{name} ({code.co_filename}:{code.co_firstlineno})"


def same_number(of: Any, cts: Any, wanted: Sequence[Any], function: Callable, operands: str) -> None:
    """Refuse what is not a list of as many cotangents as there are operands."""
    if not isinstance(cts, list | tuple) or len(cts) != len(wanted):
        got = f"{len(cts)}" if isinstance(cts, list | tuple) else f"{cts!r}"
        raise TypeError(
            f"the rule of '{of}', {where(function)}, returns a list with a cotangent, or None, for each of its "
            f"{len(wanted)} {operands}; got {got}"
        )


def returned(of: Any, aval: Any, function: Callable, operand: str) -> str:
    return f"the rule of '{of}', {where(function)}, returned for {operand}, of type {aval.str_short()},"


def as_cotangent(of: Any, ct: Any, aval: Any, function: Callable, operand: str) -> Any:
    """``ct`` as the cotangent of an operand of type ``aval``, None where it is zero; ``of`` is what the rule is of."""
    if ct is None or _jax.is_symbolic_zero(ct):
        return None
    expected = _jax.ct_type(aval)
    try:
        got = _jax.typeof(ct)
    except TypeError:
        raise TypeError(f"{returned(of, aval, function, operand)} what is no array: {ct!r}") from None
    if not isinstance(got, type(expected)) or not hasattr(expected, "dtype"):
        return ct
    # An operand without tangents may be given a cotangent of another dtype, to pass it on.
    passes_on = not _jax.is_differentiable_dtype(expected.dtype)
    if got.shape != expected.shape or not (passes_on or _jax.dtype_fits(got, expected)):
        raise ValueError(
            f"{returned(of, aval, function, operand)} a cotangent of type {got.str_short()}; it must be of type "
            f"{expected.str_short()}"
        )
    return ct if passes_on or got.dtype != expected.dtype else _jax.match(ct, expected)
