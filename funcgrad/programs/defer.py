"""Weight gradients of a loop, computed after it.

The cotangent of a constant that is multiplied at every step is a sum of products over the steps. Each is small, and to
add it the whole sum is read and written. One contraction over steps and batch together gives the same in a fraction of
the time. For it, the operands of many steps must be there: some are in stacks already, kept for the way back, and the
others have to be stacked. So as many steps are taken together as make stacks of half the size of the sums.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Iterable, Sequence
from typing import Any, NamedTuple

from jax import lax

from funcgrad import _jax
from funcgrad._jax import Var, add_jaxvals_p
from funcgrad.programs.evaluation import inline_jits, program_of, spelled
from funcgrad.programs.flow import Flow, independent_of, size, slice_program, taking
from funcgrad.programs.in_place import in_place
from funcgrad.programs.loop import Loop, program
from funcgrad.programs.thresholds import DEFER_STEPS

#: What may be done to a product, one array of it, before it is added: it is done to the sum of the products as well.
LINEAR = {lax.transpose_p, lax.convert_element_type_p, lax.reshape_p, lax.neg_p, lax.squeeze_p, lax.reduce_sum_p}


class Product(NamedTuple):
    """A term of a sum: the contraction or reduction ``eqn``, and what is done to it then, first to last."""

    eqn: Any
    then: tuple[Any, ...]

    @property
    def operands(self) -> list[Any]:
        return list(self.eqn.invars)

    def over_steps(self, stacks: Sequence[Any]) -> Any:
        """The sum over all steps, given the operands of all."""
        params, then = self.eqn.params, self.then
        if self.eqn.primitive is lax.dot_general_p:
            (left, right), (left_batch, right_batch) = params["dimension_numbers"]
            contracted = ((0, *after_first(left)), (0, *after_first(right)))
            batch = (after_first(left_batch), after_first(right_batch))
            if then and self.is_turned(then[0]):
                # The other way round: XLA then arranges anew the operand that is smaller, the one the weights multiply.
                stacks, contracted, batch, then = stacks[::-1], contracted[::-1], batch[::-1], then[1:]
            (total,) = _jax.rebind(self.eqn, stacks, _jax.current_scope(), dimension_numbers=(contracted, batch))
        else:
            axes = (0, *after_first(params["axes"]))
            (total,) = _jax.rebind(self.eqn, stacks, _jax.current_scope(), axes=axes)
        for eqn in then:
            (total,) = _jax.rebind(eqn, [total], _jax.current_scope())
        return total

    def is_turned(self, then: Any) -> bool:
        """Whether ``then`` makes of the contraction that of its operands in reverse."""
        (left, _), (batch, _) = self.eqn.params["dimension_numbers"]
        rank = len(self.eqn.outvars[0].aval.shape)
        split = self.eqn.invars[0].aval.ndim - len(left) - len(batch)
        return (
            not batch
            and then.primitive is lax.transpose_p
            and tuple(then.params["permutation"]) == (*range(split, rank), *range(split))
        )


def after_first(dims: Sequence[int]) -> tuple[int, ...]:
    """Dimensions of an array as those of a stack of such arrays."""
    return tuple([d + 1 for d in dims])


def defer(loop: Loop, sums: Collection[int]) -> Loop:
    """The loop with those of its carried ``sums`` deferred for which it pays.

    It runs over as many steps at once: a loop of those without the sums, then what they add to the sums.
    """
    body, first, last = loop.body, loop.num_fixed, loop.num_fixed + loop.num_carry
    if body.effects or not sums or not isinstance(loop.length, int):
        return loop
    body = inline_jits(body)
    jaxpr, flow = body.jaxpr, Flow(body)
    fixed = independent_of(body, range(first, len(jaxpr.invars)))
    found = {i: products_of(flow, jaxpr.invars[first + i], jaxpr.outvars[i]) for i in sums}
    found = {i: ps for i, ps in found.items() if ps and all(x not in fixed for p in ps for x in p.operands)}
    products = worthwhile(found, {i: size(jaxpr.outvars[i]) for i in found}, set(jaxpr.invars[last:]))
    if not products:
        return loop
    #: Where a stack is found: the number of an element, or of an output that there is more.
    elements = {v: i for i, v in enumerate(jaxpr.invars[last:])}
    extra = {v: i for i, v in enumerate(stacked_for(products.values(), elements))}
    steps = steps_at_once(loop.length, sum(size(jaxpr.outvars[i]) for i in products) / max(1, sum(map(size, extra))))
    if steps == 1:
        return loop
    rest = slice_program(body, [*(v for i, v in enumerate(jaxpr.outvars) if i not in products), *extra])
    rest = taking(rest, [v for i, v in enumerate(jaxpr.invars) if i - first not in products])
    kept = loop.num_carry - len(products)
    inner = in_place(Loop.of(rest, first, kept, steps, loop.reverse, loop.unroll))

    def run(*args: Any) -> list[Any]:
        carry, xs = args[first:last], args[last:]
        results = inner.run(*args[:first], *(x for i, x in enumerate(carry) if i not in products), *xs)
        carried, more = iter(results[:kept]), results[len(results) - len(extra) :]

        def total(i: int, x: Any) -> Any:
            for product in products[i]:
                stacks = [xs[elements[v]] if v in elements else more[extra[v]] for v in product.operands]
                x = _jax.add_cotangents(x, product.over_steps(stacks))
            return x

        sums = [total(i, x) if i in products else next(carried) for i, x in enumerate(carry)]
        return [*sums, *results[kept : len(results) - len(extra)]]

    avals = [*body.in_avals[:last], *(_jax.stacked_aval(steps, aval) for aval in body.in_avals[last:])]
    chunk = _jax.trace_to_jaxpr(run, avals, body.jaxpr.debug_info)
    first_values, length = loop.before.jaxpr.outvars, loop.length // steps
    stacks, cut_eqns = each(cut_up, first_values[last : loop.num_first], steps)
    outvars = [*first_values[:last], *stacks, *first_values[loop.num_first :]]
    before = program(loop.before, loop.before.jaxpr.invars, outvars, [*loop.before.jaxpr.eqns, *cut_eqns])
    known = len(first_values) - loop.num_first + loop.num_carry
    given = loop.after.jaxpr.invars[:known]
    pieces = [Var(_jax.stacked_aval(length, aval)) for aval in chunk.out_avals[loop.num_carry :]]
    whole, join_eqns = each(joined, pieces)
    eqns, results = spelled(loop.after, [*given, *whole])
    after = program(loop.after, [*given, *pieces], results, [*join_eqns, *eqns])
    return loop._replace(before=before, body=chunk, after=after, length=length, unroll=1)


def each(function: Callable[..., Any], values: Sequence[Any], *static: Any) -> tuple[list[Any], list[Any]]:
    """What ``function`` makes of each of ``values``, and the equations that do."""
    found, eqns = [], []
    for x in values:
        own, (out,) = spelled(program_of(function, x.aval, *static), [x])
        found.append(out)
        eqns += own
    return found, eqns


def cut_up(x: Any, steps: int) -> Any:
    """A stack as a stack of stacks of ``steps`` elements."""
    return lax.reshape(x, (x.shape[0] // steps, steps, *x.shape[1:]))


def joined(x: Any) -> Any:
    return lax.reshape(x, (x.shape[0] * x.shape[1], *x.shape[2:]))


def steps_at_once(length: int, ratio: float) -> int:
    """How many of ``length`` steps to take at once where the sums have ``ratio`` times the bytes of what one stacks.

    A divisor of the length, 1 where it does not pay.
    """
    if length <= 2 * ratio:
        # A loop of one step carries no sums: the memory of two.
        return length
    steps = next((n for n in range(int(ratio / 2), 0, -1) if length % n == 0), 1)
    return steps if steps >= DEFER_STEPS else 1


def stacked_for(products: Iterable[Sequence[Product]], free: Container[Var]) -> list[Var]:
    """What has to be stacked for products."""
    return list(dict.fromkeys(x for ps in products for p in ps for x in p.operands if x not in free))


def products_of(flow: Flow, before: Var, after: Any) -> list[Product]:
    """The products of which ``after`` is the sum with ``before``, none if there are other terms."""
    eqn = flow.made_by(after)
    if eqn is None or eqn.primitive is not add_jaxvals_p or flow.uses[before] == [] or before in flow.returned:
        return []
    terms, sums = flow.terms(flow.maker[after])
    if terms.count(before) != 1 or len(flow.uses[before]) != 1 or flow.uses[before][0] not in sums:
        return []
    products = [product(flow, x) for x in terms if x is not before]
    return [] if None in products else [p for p in products if p is not None]


def product(flow: Flow, x: Any) -> Product | None:
    """The contraction or the first reduction of which ``x`` is a linear function."""
    then: list[Any] = []
    found: Product | None = None
    while (eqn := flow.made_by(x)) is not None and flow.is_used_once(x):
        if eqn.primitive in (lax.dot_general_p, lax.reduce_sum_p) and all(type(v) is Var for v in eqn.invars):
            found = Product(eqn, tuple(then[::-1]))
        if eqn.primitive not in LINEAR or len(eqn.invars) != 1:
            break
        then.append(eqn)
        x = eqn.invars[0]
    return found


def worthwhile(
    found: dict[int, list[Product]], sizes: dict[int, int], free: Container[Var]
) -> dict[int, list[Product]]:
    """The sums among ``found`` that are large beside what has to be stacked for them, together with others or alone."""
    chosen = dict(found)
    while chosen:
        needed = stacked_for(chosen.values(), free)
        if sum(sizes[i] for i in chosen) >= DEFER_STEPS * sum(map(size, needed)):
            break

        gains = {}
        for i in chosen:
            others = stacked_for([ps for k, ps in chosen.items() if k != i], free)
            gains[i] = sizes[i] - DEFER_STEPS * sum(size(x) for x in needed if x not in others)
        del chosen[min(gains, key=gains.__getitem__)]
    return chosen
