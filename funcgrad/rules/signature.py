"""What a rule asks for, read from its parameter names.

A rule's parameter names say what is saved for the way back, and nothing else is:

    ct                the output's cotangent
    out               the output
    x, y, z           operands 0, 1, 2
    x_aval, ...       an operand's shape and dtype; out_aval, the output's
    keyword-only      the primitive's static parameters

``formula(wrt_x, wrt_y, ...)`` has one function per operand. ``joint(fun)`` is one function for all operands, for
primitives whose formulas share work, take any number of operands (``xs``, ``avals``) or have several outputs (``cts``,
``outs``, ``out_avals``); it may ask which operands are ``active`` and returns a cotangent, or None, for each operand.

What a rule wants to keep is not always an operand: a mask is an eighth of one. Any other name is computed on the way
forward, by the function of that name given as keyword: ``formula(lambda ct, mask: ..., mask=lambda x, y: ...)``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable, Mapping, Sequence
from types import FunctionType
from typing import Any

from funcgrad import _jax
from funcgrad.engine.tape import typeof_or_zero
from funcgrad.rules.equality import Valued, value_of

SCALARS: Any = (bool, int, float, complex)


class Signature(Valued):
    """What one function of a rule asks for, read once from its parameter names."""

    def __init__(self, function: Callable, positional: Sequence[str], keywords: tuple[str, ...] | None):
        self.function = function
        self.names = tuple(positional)
        #: The primitive's parameters it takes; None for all of them.
        self.keywords = keywords

    @staticmethod
    def read(function: Callable, known: Sequence[str], cotangent: Sequence[str] = ()) -> Signature:
        positional, keywords, everything = parameter_names(function)
        if cotangent:
            if not positional or positional[0] not in cotangent:
                wanted = " or ".join(cotangent)
                raise TypeError(f"the first parameter of a rule is the cotangent, {wanted}; got {describe(function)}")
            positional = positional[1:]
        for name in positional:
            if name not in known:
                raise TypeError(
                    f"{describe(function)}: '{name}' names nothing to save. Use one of {', '.join(known)}, or make it "
                    "keyword-only if it is one of the primitive's parameters."
                )
        return Signature(function, positional, None if everything else keywords)

    def parts(self) -> Hashable:
        return value_of(self.function), self.names, self.keywords

    def __call__(self, *args: Any, params: Mapping[str, Any]) -> Any:
        if self.keywords is None:
            return self.function(*args, **params)
        if self.keywords:
            return self.function(*args, **{name: params[name] for name in self.keywords})
        return self.function(*args)


def parameter_names(function: Callable) -> tuple[list[str], tuple[str, ...], bool]:
    """The names of the positional and of the keyword-only parameters, and whether it takes any keywords."""
    if type(function) is FunctionType and not hasattr(function, "__wrapped__"):
        # ``inspect`` takes ten times as long, which for all rules together is felt at import.
        code = function.__code__
        count, last = code.co_argcount, code.co_argcount + code.co_kwonlyargcount
        names = code.co_varnames
        return list(names[:count]), names[count:last], bool(code.co_flags & inspect.CO_VARKEYWORDS)
    parameters = list(inspect.signature(function).parameters.values())
    positional = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    keywords = tuple([p.name for p in parameters if p.kind is p.KEYWORD_ONLY])
    return positional, keywords, any(p.kind is p.VAR_KEYWORD for p in parameters)


def describe(function: Callable) -> str:
    return f"{getattr(function, '__name__', function)}{inspect.signature(function)}"


def operand(i: int) -> Callable:
    return lambda primals, out: shaped(primals[i])


def shaped(x: Any) -> Any:
    """``x``, a Python scalar as an array."""
    return _jax.typed_scalar(x) if isinstance(x, SCALARS) else x


def shape_of(x: Any) -> tuple[int, ...]:
    """The shape of an operand: a value, or the zero that stands for that of a tangent."""
    return typeof_or_zero(x).shape


def operand_aval(i: int) -> Callable:
    return lambda primals, out: typeof_or_zero(primals[i])


#: How what a parameter name stands for is taken from the operands and the output.
TAKE: dict[str, Callable[[Sequence[Any], Any], Any]] = {
    "x": operand(0),
    "y": operand(1),
    "z": operand(2),
    "out": lambda primals, out: out,
    "x_aval": operand_aval(0),
    "y_aval": operand_aval(1),
    "z_aval": operand_aval(2),
    "out_aval": lambda primals, out: typeof_or_zero(out),
}
TAKE_ALL: dict[str, Callable[[Sequence[Any], Any], Any]] = {
    **TAKE,
    "xs": lambda primals, outs: tuple(map(shaped, primals)),
    "outs": lambda primals, outs: tuple(outs),
    "avals": lambda primals, outs: tuple(map(typeof_or_zero, primals)),
    "out_avals": lambda primals, outs: tuple(map(typeof_or_zero, outs)),
}
