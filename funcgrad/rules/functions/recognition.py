"""Which jitted function a program is of, and how it is called there.

JAX calls a jitted function as one ``jit`` operation, whose program says where the function was defined. Two functions
may say the same; but what each says is a string of its own, which JAX hands on with the program. Under ``vmap`` it
hands on a batched program, with the same string: it is then asked which program was batched, and how.
"""

from __future__ import annotations

import functools
import inspect
import re
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from jax import lax

from funcgrad import _jax
from funcgrad.rules.checks import as_cotangent
from funcgrad.rules.equality import Valued
from funcgrad.rules.numbers import const, summed, summed_to
from funcgrad.rules.signature import Signature, describe, shaped

Parameter = inspect.Parameter


class FunctionKey:
    """A jitted function as the key of a rule table: that very function, whatever it is called and wherever it is.

    It does not keep the function alive, so that a table may be kept with the function's programs.
    """

    __slots__ = ("__weakref__", "function", "source")

    def __init__(self, jitted: Any):
        self.source = _jax.source_of(jitted)
        self.function = weakref.ref(jitted._fun)

    def is_of(self, program: Any) -> bool:
        """Whether a program, batched or not, or half of its derivative, is of this function."""
        source = program.jaxpr.debug_info.func_src_info
        return source is self.source or (source == self.source and was_traced_from(program, self))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, FunctionKey):
            return NotImplemented
        function = self.function()
        return self.source is other.source or (function is not None and bool(function == other.function()))

    def __hash__(self) -> int:
        return hash(self.source)

    def __repr__(self) -> str:
        return self.source


@_jax.weakref_lru_cache
def was_traced_from(program: Any, key: FunctionKey) -> bool:
    """Whether the program is of another ``jit`` of the key's function."""
    function = key.function()
    traced = _jax.traced_under(program.jaxpr.debug_info.func_src_info)
    return function is not None and any(function == other for other in traced)


def key_of(function: Any) -> FunctionKey:
    """The key of a jitted function; TypeError, with the reason, for what is never called as one."""
    name = getattr(function, "__name__", type(function).__name__)
    refused = f"a rule table has no place for {name}: "
    if isinstance(function, functools.partial):
        raise TypeError(
            f"{refused}it is a partial, and the function in it is recognised whatever its arguments are. Use "
            f"{getattr(function.func, '__name__', 'the function')} itself as the key."
        )
    if inspect.ismethod(function):
        raise TypeError(
            f"{refused}a method is recognised whatever object it is called on, so a rule cannot be for this one. Use "
            f"{type(function.__self__).__name__}.{name} as the key."
        )
    jitted = _jax.jitted(function)
    if jitted is None:
        custom = isinstance(function, jax.custom_jvp | jax.custom_vjp)
        what = f"is a {type(function).__name__} function that is not jitted" if custom else "is not itself jitted"
        raise TypeError(
            f"{refused}it {what}, so JAX sees only the operations inside it. A key is a primitive, such as "
            "jax.lax.sqrt_p, or a jitted function, such as jnp.clip. Give rules for the primitives (jax.make_jaxpr "
            "shows them), or put jax.jit around the function where the model calls it."
        )
    if _jax.inlines_early(jitted):
        raise TypeError(
            f"{refused}it is jitted with inline=True, so inside other jitted functions nothing is left of it but the "
            "operations it is made of. Give a rule for the primitive (jax.make_jaxpr shows it), such as jax.lax.abs_p "
            "for jnp.abs."
        )
    key = FunctionKey(jitted)
    if " at " not in key.source:
        raise TypeError(f"{refused}it has no source location to be recognised by. Wrap it in a function and jit that.")
    return key


class Function(Valued):
    """What is known of a jitted function before it is called: its name and its parameters."""

    def __init__(self, function: Any):
        self.key = FunctionKey(_jax.jitted(function))
        self.name = function.__name__
        self.parameters = dict(inspect.signature(function).parameters)
        self.static = _jax.static_names(_jax.jitted(function))
        #: Other names for the first three parameters, where they are not names of parameters.
        short = zip(("x", "y", "z"), self.parameters, strict=False)
        self.short = {s: name for s, name in short if s not in self.parameters}

    def parts(self):
        return self.key

    def known(self) -> list[str]:
        """The names that a formula may use."""
        names = [name for name in (*self.parameters, *self.short) if self.short.get(name, name) not in self.static]
        return [*names, "out", *(f"{name}_aval" for name in (*names, "out"))]

    def takes_any_number(self, name: str) -> bool:
        return self.parameters[name].kind is Parameter.VAR_POSITIONAL

    def default(self, name: str) -> Any:
        parameter = self.parameters[name]
        if parameter.kind in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD):
            return ()
        return None if parameter.default is Parameter.empty else parameter.default

    def read(self, function: Callable, derived: Sequence[str] = (), cotangent: Sequence[str] = ("ct",)) -> Signature:
        """What a formula asks for, all of it arguments that reach it."""
        known = [*self.known(), *derived]
        for parameter in inspect.signature(function).parameters.values():
            name = parameter.name.removesuffix("_aval")
            if self.short.get(name, name) in self.static:
                raise TypeError(
                    f"{describe(function)}: '{parameter.name}' is a static argument of {self.name}, compiled into the "
                    "program, and does not reach a rule. Write the rule without it, or give rules for what is inside: "
                    f"{{{self.name}: {{primitive: rule}}}}."
                )
            if parameter.kind is Parameter.KEYWORD_ONLY:
                raise TypeError(
                    f"{describe(function)}: '{parameter.name}' is keyword-only, as are the parameters of a primitive. "
                    f"The rule of a function has the names of its arguments, here {', '.join(known)}."
                )
            if parameter.name not in (*known, *cotangent):
                raise TypeError(
                    f"{describe(function)}: '{parameter.name}' names nothing to save. In the rule of {self.name} use "
                    f"one of {', '.join(known)}."
                )
        return Signature.read(function, known, cotangent)


class Call:
    """A call of a function, as its program shows it: which operands its arguments are, and how it was batched."""

    def __init__(self, program: Any, function: Function):
        self.name, self.function = function.name, function
        #: How ``vmap`` made the program of that of a single call, last first.
        self.batchings: list[Any] = []
        while not _jax.is_own_program(program):
            known = _jax.batching_of(program)
            if known is None:
                raise NotImplementedError(
                    f"the rule of {self.name} is for a single call, but here the function was batched in a way that "
                    "funcgrad cannot follow. Take the gradient inside of vmap, or give rules for the primitives in it: "
                    f"{{{self.name}: {{primitive: rule}}}}."
                )
            program, batching = known
            if any(axis is not None for axis in batching.in_axes):
                self.batchings.append(batching)
        #: The types of a single call.
        self.in_avals, self.out_avals = program.in_avals, program.out_avals
        if any(map(_jax.is_ref, self.in_avals)):
            raise NotImplementedError(f"{self.name} has a rule of its own, so it cannot be called with references")
        #: The argument that each operand is, or is part of; empty for a value that the function closes over.
        self.argument: list[str] = []
        #: The operands that each argument is.
        self.places: dict[str, list[int]] = {}
        #: The arguments that are arrays, not pytrees of them.
        self.arrays: set[str] = set()
        for i, path in enumerate(program.jaxpr.debug_info.arg_names):
            name = re.sub(r"\W.*", "", path, flags=re.DOTALL)
            self.argument.append(name)
            self.places.setdefault(name, []).append(i)
            if path == name:
                self.arrays.add(name)

    def check(self, active: Sequence[bool]) -> None:
        if any(active[i] for i in self.places.get("", ())):
            raise TypeError(
                f"{self.name} closes over a value that is differentiated here, and its rule is about its arguments "
                "only. Pass the value as an argument."
            )

    def value(self, name: str, operands: Sequence[Any] | Mapping[int, Any]) -> Any:
        """An argument: an array, a tuple of leaves, or the default of one left out."""
        if name not in self.places:
            return self.function.default(name)
        found = tuple([operands[i] for i in self.places[name]])
        return found[0] if name in self.arrays else found

    def batched_forward(self, fun: Callable, in_axes: Callable, out_axes: Callable) -> Callable:
        """``fun`` of arrays to a list of arrays, batched as the function was.

        ``in_axes`` and ``out_axes`` give, for one batching, the axes of all inputs and outputs. An output whose axis is
        None is the same for all calls.
        """
        for batching in reversed(self.batchings):
            fun = batch(fun, batching, in_axes(batching), out_axes(batching), lambda x: x[0])
        return fun

    def batched_backward(self, fun: Callable, in_axes: Callable, out_axes: Callable) -> Callable:
        """The same on the way back: ``fun`` is of the cotangents of the outputs, and then of other arrays.

        An output whose axis is None is summed: it is the cotangent of an operand that all calls share. Of a result that
        they share the first one has the cotangent.
        """
        for batching in reversed(self.batchings):
            axes = [0 if axis is None else axis for axis in batching.out_axes]
            mapped = batch(fun, batching, [*axes, *in_axes(batching)], out_axes(batching), lambda x: summed(x, [0]))
            fun = given_to_the_first(mapped, batching)
        return fun

    def fit(self, x_ct: Any, i: int, function: Callable) -> Any:
        """What ``function`` gave as the cotangent of operand ``i``, of its type; None for zero.

        It may be of the shape and dtype of an output, to which the operand was broadcast and promoted.
        """
        aval = self.in_avals[i]
        if isinstance(x_ct, jax.Array):
            if any(x_ct.shape == out.shape for out in self.out_avals):
                fitted = summed_to(x_ct, aval.shape)
                x_ct = x_ct if fitted is None else fitted
            expected = _jax.ct_type(aval).dtype
            if any(x_ct.dtype == out.dtype for out in self.out_avals) and _jax.is_differentiable_dtype(expected):
                x_ct = x_ct.astype(expected)
        return as_cotangent(self.name, shaped(x_ct), aval, function, f"'{self.argument[i]}'")


def batch(
    fun: Callable, batching: Any, in_axes: Sequence[Any], out_axes: Sequence[Any], shared: Callable[[Any], Any]
) -> Callable:
    """``fun`` of a batch. What is the same for all of it, whose axis in ``out_axes`` is None, is made by ``shared``."""
    mapped = jax.vmap(
        fun,
        in_axes=tuple(in_axes),
        out_axes=[0 if axis is None else axis for axis in out_axes],
        axis_size=batching.size,
        axis_name=batching.name,
        spmd_axis_name=batching.spmd_name,
    )
    return lambda *xs: [
        shared(x) if axis is None and x is not None else x for x, axis in zip(mapped(*xs), out_axes, strict=True)
    ]


def given_to_the_first(fun: Callable, batching: Any) -> Callable:
    """``fun`` of cotangents that the first of a batch has, where no axis of it is said for them, and others not."""
    count = len(batching.out_axes)

    def spread(ct: Any, axis: int | None) -> Any:
        if axis is not None:
            return ct
        return lax.pad(ct[None], const(ct, 0), [(0, batching.size - 1, 0), *[(0, 0, 0)] * ct.ndim])

    def given(*xs: Any) -> Any:
        return fun(*map(spread, xs[:count], batching.out_axes), *xs[count:])

    return given if None in batching.out_axes else fun


@_jax.weakref_lru_cache
def primitives_in(program: Any) -> frozenset[Any]:
    """The primitives of a program, at any depth."""
    from jax.extend.core import jaxprs_in_params  # imported late, since that takes longer than importing funcgrad

    found: set[Any] = set()
    rest = [program.jaxpr]
    while rest:
        for eqn in rest.pop().eqns:
            found.add(eqn.primitive)
            rest.extend(jaxprs_in_params(eqn.params))
    return frozenset(found)


def is_call(program: Any) -> bool:
    """Whether a program of a function is a call of it, batched or not: half a derivative has no argument names."""
    return program.jaxpr.debug_info.arg_names is not None


@_jax.weakref_lru_cache
def call_of(program: Any, function: Function) -> Call:
    return Call(program, function)
