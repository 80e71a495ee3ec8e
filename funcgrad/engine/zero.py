"""The symbolic zero: a value of known type that nothing has to compute."""

from __future__ import annotations

import dataclasses
from typing import Any

from funcgrad import _jax


@dataclasses.dataclass(slots=True, eq=False, repr=False)
class Zero:
    """The zero of type ``aval``.

    On the tape it stands in for the value of a *linear* tracer: one that carries a tangent. A linear function is zero
    at zero, so along tangents there is nothing to evaluate, only something to record.
    """

    aval: Any

    def __repr__(self) -> str:
        return f"Zero({self.aval.str_short()})"


def instantiate(x: Any) -> Any:
    """An array in place of a symbolic zero; anything else as it is."""
    return _jax.zeros(x.aval) if type(x) is Zero else x
