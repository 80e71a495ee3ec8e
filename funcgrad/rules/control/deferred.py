"""Weight gradients of a loop, computed after it.

The cotangent of a constant that is multiplied at every step is a sum of products over the steps. Each is small, and to
add it the whole sum is read and written. One contraction over steps and batch together gives the same in a fraction of
the time. For it, the operands of many steps must be there: some are in stacks already, kept for the way back, and the
others have to be stacked. So as many steps are taken together as make stacks of half the size of the sums.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from typing import Any, NamedTuple

from jax import lax

from funcgrad import _jax
from funcgrad._jax import ClosedJaxpr, Literal, Var, add_jaxvals_p, jit_p
from funcgrad.programs.flow import Flow, slice_program
from funcgrad.rules.control.in_place import in_place
from funcgrad.rules.control.residuals import size
from funcgrad.rules.control.saving import inline_jits

#: With fewer steps taken together a loop around the loop costs about what it saves.
FEWEST_STEPS = 4

#: What may be done to a product, one array of it, before it is added: it is done to the sum of the products as well.
LINEAR = {lax.transpose_p, lax.convert_element_type_p, lax.reshape_p, lax.neg_p, lax.squeeze_p, lax.reduce_sum_p}


class Product(NamedTuple):
    """A term of a sum: the contraction or reduction ``eqn``, and what is done to it then, first to last."""

    eqn: Any
    then: tuple[Any, ...]

    @property
    def operands(self) -> list[Any]:
        return self.eqn.invars

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


class Deferred:
    """A loop's body without the sums that are computed from stacks, by number ``products``.

    ``body`` takes ``num_fixed`` constants, then ``num_carry`` carried arrays without those sums, then elements; what it
    returns more, last, is to be stacked for the products.
    """

    def __init__(self, whole: ClosedJaxpr, num_fixed: int, num_carry: int, products: dict[int, list[Product]]):
        jaxpr = whole.jaxpr
        first, last = num_fixed, num_fixed + num_carry
        self.num_fixed, self.num_carry, self.products = num_fixed, num_carry, products
        self.in_avals = whole.in_avals
        #: Where a stack is found: the number of an element, or of an output that there is more.
        self.elements = {v: i for i, v in enumerate(jaxpr.invars[last:])}
        extra = stacked_for(products.values(), self.elements)
        self.extra = {v: i for i, v in enumerate(extra)}
        self.ratio = sum(size(jaxpr.outvars[i]) for i in products) / max(1, sum(map(size, extra)))
        outvars = [v for i, v in enumerate(jaxpr.outvars) if i not in products]
        rest = slice_program(whole, [*outvars, *extra])
        invars = [v for i, v in enumerate(jaxpr.invars) if i - first not in products]
        rest = rest.replace(jaxpr=rest.jaxpr.replace(invars=invars, debug_info=_jax.unnamed(rest)))
        self.body = in_place(rest, [(first + i, i) for i in range(num_carry - len(products))])

    def steps(self, length: int) -> int:
        """How many of ``length`` steps to take at once: a divisor, 1 where it does not pay."""
        if length <= 2 * self.ratio:
            # A loop of one step carries no sums: the memory of two.
            return length
        steps = next((n for n in range(int(self.ratio / 2), 0, -1) if length % n == 0), 1)
        return steps if steps >= FEWEST_STEPS else 1

    def chunk(self, params: Any, steps: int) -> ClosedJaxpr:
        """The body of a loop over stacks of ``steps`` elements: a loop over these, then what it adds to the sums."""
        first, last = self.num_fixed, self.num_fixed + self.num_carry
        kept = self.num_carry - len(self.products)
        inner = _jax.scan_params(params, self.body, self.num_fixed, kept)
        inner |= {"length": steps, "reverse": not params["reverse"]}

        def run(*args: Any) -> list[Any]:
            carry, xs = args[first:last], args[last:]
            rest = [x for i, x in enumerate(carry) if i not in self.products]
            results = lax.scan_p.bind(*args[:first], *rest, *xs, **inner)
            carried, more = iter(results[:kept]), results[len(results) - len(self.extra) :]
            sums = [self.total(i, x, xs, more) if i in self.products else next(carried) for i, x in enumerate(carry)]
            return [*sums, *results[kept : len(results) - len(self.extra)]]

        avals = [*self.in_avals[:last], *(_jax.stacked_aval(steps, aval) for aval in self.in_avals[last:])]
        return _jax.trace_to_jaxpr(run, avals, self.body.jaxpr.debug_info)

    def total(self, i: int, total: Any, xs: Sequence[Any], more: Sequence[Any]) -> Any:
        """Sum ``i`` after more steps, from the elements they took and what they returned more."""
        for product in self.products[i]:
            stacks = [xs[self.elements[v]] if v in self.elements else more[self.extra[v]] for v in product.operands]
            total = _jax.add_cotangents(total, product.over_steps(stacks))
        return total


def defer(body: ClosedJaxpr, num_fixed: int, sums: Sequence[int], num_carry: int) -> Deferred | None:
    """A loop's body with those of its ``sums`` deferred for which it can pay, None where there is none.

    The inputs are ``num_fixed`` constants, ``num_carry`` carried arrays, of which ``sums`` are sums, and elements.
    """
    if body.effects or not sums:
        return None
    if any(eqn.primitive is jit_p for eqn in body.jaxpr.eqns):
        body = inline_jits(body)
    jaxpr, flow = body.jaxpr, Flow(body)
    first, last = num_fixed, num_fixed + num_carry
    varies = varying(flow, jaxpr.invars[first:])
    found = {i: products_of(flow, jaxpr.invars[first + i], jaxpr.outvars[i]) for i in sums}
    found = {i: ps for i, ps in found.items() if ps and all(x in varies for p in ps for x in p.operands)}
    chosen = worthwhile(found, {i: size(jaxpr.outvars[i]) for i in found}, set(jaxpr.invars[last:]))
    return Deferred(body, num_fixed, num_carry, chosen) if chosen else None


def stacked_for(products: Iterable[Sequence[Product]], free: Container[Var]) -> list[Var]:
    """What has to be stacked for products."""
    return list(dict.fromkeys(x for ps in products for p in ps for x in p.operands if x not in free))


def varying(flow: Flow, inputs: Sequence[Var]) -> set[Var]:
    """What differs from step to step."""
    found = set(inputs)
    for eqn in flow.eqns:
        if any(type(x) is not Literal and x in found for x in eqn.invars):
            found.update(eqn.outvars)
    return found


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
        if sum(sizes[i] for i in chosen) >= FEWEST_STEPS * sum(map(size, needed)):
            break

        gains = {}
        for i in chosen:
            others = stacked_for([ps for k, ps in chosen.items() if k != i], free)
            gains[i] = sizes[i] - FEWEST_STEPS * sum(size(x) for x in needed if x not in others)
        del chosen[min(gains, key=gains.__getitem__)]
    return chosen
