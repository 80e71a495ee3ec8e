"""The lines, name scopes and settings that operations carry."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any

from jax import debug_infs, debug_nans

from funcgrad._jax.names import current_jaxpr_eqn_context, current_scope, source_info_util, traceback_util, user_context

# In errors, profiles and reports the line that counts is the user's, so the package's own frames are passed over.
_package = os.path.dirname(os.path.dirname(__file__))
traceback_util.register_exclusion(_package)
source_info_util.register_exclusion(_package)

_nothing = contextlib.nullcontext()


def user_frames(source: Any) -> list[Any]:
    """The user's frames of a source info, innermost first: file, qualified function name, lines and columns."""
    return list(source_info_util.user_frames(source.traceback))


def scope_depth() -> int:
    """How deep the stack of name scopes is here."""
    return len(current_scope())


#: The settings that an operation run here carries: the mesh, metadata for XLA, what it is to be computed on.
current_settings: Callable[[], Any] = current_jaxpr_eqn_context


def looks_for_nans() -> bool:
    """Whether an operation raises where it makes a NaN or an infinity, so that its line is of interest."""
    return bool(debug_nans.value or debug_infs.value)


class BackwardScopes:
    """Contexts in which backward operations carry the line, name scope and settings of their forward operation.

    The scope is marked: what ran forward under ``block`` runs back under ``backward(block)``. ``depth`` is how many
    scopes there were around the function, None if the scopes inside of it are to be left as they are.
    """

    def __init__(self, depth: int | None):
        scope = current_scope()
        self.depth = depth or 0
        self.base = scope if depth is None else scope.transform("backward")
        self.last: tuple[Any, Any] = (None, self.base)
        self.settings = current_settings()

    def of(self, source: Any, settings: Any) -> Any:
        around: Any = _nothing
        if source is not None:
            stack = source.name_stack
            if stack is not self.last[0]:
                self.last = (stack, self.base + stack[self.depth :])
            around = user_context(source.traceback, name_stack=self.last[1])
        return around if settings is self.settings else both(around, settings.manager)


@contextlib.contextmanager
def both(first: Any, second: Any) -> Iterator[None]:
    with first, second:
        yield


@contextlib.contextmanager
def context_of(eqn: Any, scope: Any) -> Iterator[None]:
    """The line and settings of an equation, and the scope it has inside of ``scope``."""
    with user_context(eqn.source_info.traceback, name_stack=scope + eqn.source_info.name_stack), eqn.ctx.manager:
        yield


def equation_context(eqn: Any, with_source: bool, inlined: bool) -> Any:
    """The context that an equation is to run in: its line and scope, and the settings it was traced under."""
    same_settings = eqn.ctx is current_jaxpr_eqn_context()
    if same_settings and not with_source:
        return _nothing
    info = eqn.source_info
    if inlined and same_settings and not info.name_stack.stack:
        return _nothing
    source = user_context(None if inlined else info.traceback, name_stack=current_scope() + info.name_stack)
    if same_settings:
        return source
    return both(source, eqn.ctx.manager)
