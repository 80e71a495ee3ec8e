"""The symbolic zero: a value of known type that nothing has to compute."""

from __future__ import annotations

from typing import Any

from funcgrad import _jax


class Zero:
    """The zero of type ``aval``.

    On the tape it stands in for the value of a *linear* tracer: one that carries a tangent. A linear function is zero
    at zero, so along tangents there is nothing to evaluate, only something to record.
    """

    __slots__ = ("aval",)

    def __init__(self, aval: Any):
        self.aval = aval

    def __repr__(self) -> str:
        return f"Zero({self.aval.str_short()})"


def instantiate(x: Any) -> Any:
    """An array in place of a symbolic zero; anything else as it is."""
    return _jax.zeros(x.aval) if type(x) is Zero else x
