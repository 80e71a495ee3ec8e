"""What is made of a program is kept for as long as the program is there, and no longer."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

from funcgrad import _jax

Made = TypeVar("Made")


def memo(make: Callable[..., Made]) -> Callable[..., Made]:
    """``make(program, *key)``, called once for each program and key while the program lives.

    What was made may not hold on to the program itself, which would keep it alive for ever: what needs it later keeps
    ``program.replace()``, another one of the same equations.
    """
    return _jax.weakref_lru_cache(make)


def kept(method: Callable[..., Made]) -> Callable[..., Made]:
    """A method whose results are kept, by arguments and settings, in the attribute ``known`` of its object."""

    @functools.wraps(method)
    def of(self: Any, *key: Any) -> Made:
        at = (method, _jax.current_settings(), *key)
        found: Made | None = self.known.get(at)
        if found is None:
            found = self.known[at] = method(self, *key)
        return found

    return of
