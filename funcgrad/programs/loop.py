"""Loops as data: a number of steps, and what is done once before and once after them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from jax import lax

from funcgrad import _jax
from funcgrad._jax import ClosedJaxpr, Var
from funcgrad.programs.evaluation import evaluate, spelled


class Loop(NamedTuple):
    """``length`` steps of ``body``, with ``before`` and ``after`` around them.

    ``body`` takes ``num_fixed`` values that are the same at every step, ``num_carry`` that are carried from step to
    step, and one element of each of its stacks; it returns what is carried on, then what is to be stacked. ``before``
    takes the operands and returns what the first step takes, stacks in the place of elements, and then what ``after``
    takes besides: ``after`` is given that first, and then what is carried in the end and the stacks.

    A pass is a function from ``Loop`` to ``Loop`` that leaves what is computed as it is. Stacks have one axis more than
    elements, in front, of size ``length``.

    >>> import jax, jax.numpy as jnp
    >>> body = jax.make_jaxpr(lambda w, c, x: (c * w + x, c))(2.0, 0.0, 0.0)
    >>> loop = Loop.of(body, num_fixed=1, num_carry=1, length=3)
    >>> total, stack = loop.run(jnp.float32(2), jnp.float32(1), jnp.ones(3))
    >>> print(total, stack)
    15.0 [1. 3. 7.]
    """

    before: ClosedJaxpr
    body: ClosedJaxpr
    after: ClosedJaxpr
    num_fixed: int
    num_carry: int
    length: int
    reverse: bool = False
    unroll: Any = 1

    @staticmethod
    def of(
        body: ClosedJaxpr, num_fixed: int, num_carry: int, length: int, reverse: bool = False, unroll: Any = 1
    ) -> Loop:
        """The loop of a body, and nothing around it."""
        count = num_fixed + num_carry
        first = [Var(aval) for aval in body.in_avals[count:]]
        first = [*body.jaxpr.invars[:count], *(Var(_jax.stacked_aval(length, v.aval)) for v in first)]
        outs: list[Any] = [Var(aval) for aval in body.out_avals[:num_carry]]
        outs += [Var(_jax.stacked_aval(length, aval)) for aval in body.out_avals[num_carry:]]
        return Loop(
            program(body, first, first), body, program(body, outs, outs), num_fixed, num_carry, length, reverse, unroll
        )

    @property
    def num_first(self) -> int:
        """How many values the first step takes, stacks among them."""
        return len(self.body.in_avals)

    def first_of(self, part: ClosedJaxpr) -> tuple[list[Any], list[Any]]:
        """The equations and outputs of a program of the fixed values, to be done in ``before``."""
        return spelled(part, self.before.jaxpr.outvars[: self.num_fixed])

    def run(self, *operands: Any) -> list[Any]:
        """Run the loop: its results, as ``after`` returns them."""
        first = evaluate(self.before, *operands)
        params = _jax.scan_params(
            {**_jax.empty_scan(), "length": self.length, "reverse": self.reverse, "unroll": self.unroll},
            self.body, self.num_fixed, self.num_carry,
        )  # fmt: skip
        results = lax.scan_p.bind(*first[: self.num_first], **params)
        return evaluate(self.after, *first[self.num_first :], *results)


def program(like: ClosedJaxpr, invars: Sequence[Var], outvars: Sequence[Any], eqns: Sequence[Any] = ()) -> ClosedJaxpr:
    """A program of these equations, which may use the constants of ``like``."""
    parts: dict[str, Any] = {"invars": list(invars), "outvars": list(outvars), "eqns": list(eqns)}
    effects = _jax.program_effects(like.jaxpr.constvars, **parts)
    return _jax.with_parts(like, **parts, effects=effects, debug_info=_jax.unnamed(like))
