"""When two things that were made apart are one: rules that are made anew in each call, above all.

Two functions are one if they have the same code and nothing that it reads can tell them apart: defaults, values closed
over, globals, and what is read by these in turn. All of it is noted at once, before it changes. What may change by
itself, such as a list or an object with attributes, makes a function equal to nothing.
"""

from __future__ import annotations

import builtins
import dis
import functools
import sys
from collections.abc import Hashable, Iterator
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import jax
import numpy as np

from funcgrad import _jax

#: Packages in which nothing changes while a program runs.
LIBRARIES = frozenset({"builtins", "funcgrad", "functools", "jax", "jaxlib", "math", "ml_dtypes", "numpy", "operator"})
#: Built-in functions that read more than their arguments, and instructions that read or change what is not told apart.
READERS = frozenset({"__import__", "eval", "exec", "getattr", "globals", "input", "locals", "next", "open", "vars"})
UNTOLD = frozenset({"DELETE_GLOBAL", "IMPORT_NAME", "LOAD_FROM_DICT_OR_GLOBALS", "LOAD_NAME", "STORE_GLOBAL"})


class Valued:
    """What is equal to another made of equal ``parts``, and otherwise, or if these are None, to itself only."""

    def parts(self) -> Hashable:
        return None

    @functools.cached_property
    def _value(self) -> Hashable:
        # A subclass may have more to it than the class that says what its parts are.
        return self.parts() if "parts" in vars(type(self)) else None

    def __eq__(self, other: object) -> bool:
        if self is other or type(self) is not type(other) or not isinstance(other, Valued):
            return self is other
        return self._value is not None and self._value == other._value

    def __hash__(self) -> int:
        return object.__hash__(self) if self._value is None else hash(self._value)


class Same:
    """An object as the one that it is, whatever it equals."""

    __slots__ = ("it",)

    def __init__(self, it: Any):
        self.it = it

    def __eq__(self, other: object) -> bool:
        return type(other) is Same and self.it is other.it

    def __hash__(self) -> int:
        return id(self.it)


class MayChange(Exception):
    """A value of which it is not known that it stays as it is."""


def value_of(function: Any) -> Hashable:
    """What is equal for two functions that are one."""
    try:
        return told(function, {})
    except MayChange:
        return Same(object())


def told(x: Any, within: dict[int, int]) -> Hashable:
    """What tells a value from others; ``within`` numbers the functions that are being looked at."""
    if x is None or isinstance(x, bool | int | str | bytes | np.dtype):
        return type(x), x
    if isinstance(x, float | complex | np.generic):
        return type(x), repr(x)
    if type(x) is tuple or (isinstance(x, tuple) and hasattr(x, "_fields")):
        return type(x), *[told(item, within) for item in x]
    if isinstance(x, Valued):
        return x
    if isinstance(x, _jax.Primitive | _jax.JittedFunction) or is_of_library(x) or is_constant(x):
        return Same(x)
    if isinstance(x, MethodType):
        return told(x.__func__, within), told(x.__self__, within)
    if type(x) is functools.partial:
        return told(x.func, within), told(x.args, within), told(tuple(x.keywords.items()), within)
    if type(x) is FunctionType:
        if id(x) in within:
            return within[id(x)]
        return Same(x.__code__), *reads(x, {**within, id(x): len(within)})
    raise MayChange(x)


def is_of_library(x: Any) -> bool:
    module, name = getattr(x, "__module__", None), getattr(x, "__name__", None)
    if not isinstance(module, str) or not isinstance(name, str) or module.partition(".")[0] not in LIBRARIES:
        return False
    return getattr(sys.modules.get(module), name, None) is x


def is_constant(x: Any) -> bool:
    return isinstance(x, jax.Array) and not _jax.is_tracer(x) and not _jax.is_ref_value(x)


def reads(function: FunctionType, within: dict[int, int]) -> Iterator[Hashable]:
    """What tells apart the things that a function reads."""
    yield told(function.__defaults__, within)
    yield told(tuple((function.__kwdefaults__ or {}).items()), within)
    yield told(tuple(vars(function).items()), within)
    for cell in function.__closure__ or ():
        try:
            content = cell.cell_contents
        except ValueError:
            raise MayChange(cell) from None
        yield told(content, within)
    space = function.__globals__
    if str(space.get("__name__")).partition(".")[0] in LIBRARIES:
        return
    names, attributes = names_in(function.__code__)
    for name in names:
        if name in space:
            yield name, told_global(space[name], attributes, within, ())
        elif name in READERS or name not in vars(builtins):
            raise MayChange(name)


def told_global(x: Any, attributes: frozenset[str], within: dict[int, int], around: tuple[Any, ...]) -> Hashable:
    """What tells a global from others; of a module, what may be read of it."""
    if not isinstance(x, ModuleType):
        return told(x, within)
    if x in around or x.__name__.partition(".")[0] in LIBRARIES:
        return Same(x)
    known = sorted(attributes & vars(x).keys())
    return Same(x), *[(name, told_global(vars(x)[name], attributes, within, (*around, x))) for name in known]


@functools.lru_cache(maxsize=4096)
def names_in(code: CodeType) -> tuple[frozenset[str], frozenset[str]]:
    """The globals that code reads, and the attributes, with all code inside it."""
    names, attributes = set[str](), set[str]()
    for instruction in dis.get_instructions(code):
        if instruction.opname in UNTOLD:
            raise MayChange(instruction.opname)
        if instruction.opname == "LOAD_GLOBAL":
            names.add(instruction.argval)
        elif instruction.opname.startswith("LOAD_") and instruction.opname.endswith(("ATTR", "METHOD")):
            attributes.add(instruction.argval)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            inner, read = names_in(constant)
            names |= inner
            attributes |= read
    return frozenset(names), frozenset(attributes)
