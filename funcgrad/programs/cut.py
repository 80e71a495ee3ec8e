"""Which values a program hands from its way forward to its way back: the fewest bytes from which the rest follows.

The rules say what the way back needs. Between that and the inputs lies a program, most of it cheap to run again, so any
set of values that separates the two will do. The best is a minimum cut of the graph of values: each can be kept at the
price of its bytes, or computed again at that of its equation. (PyTorch's compiler partitions its joint graphs so.) Of
cuts that are equal the one nearest to the way back is taken, which repeats the least.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jax import lax
from jax.core import ShapedArray

from funcgrad._jax import ClosedJaxpr, Literal, Var, jit_p, name_p
from funcgrad.programs.flow import size

#: What moves, converts or selects: computed again for nothing, as part of whatever uses it.
FREE = {
    lax.and_p, lax.broadcast_in_dim_p, lax.ceil_p, lax.complex_p, lax.conj_p, lax.convert_element_type_p, lax.copy_p,
    lax.eq_p, lax.floor_p, lax.ge_p, lax.gt_p, lax.imag_p, lax.iota_p, lax.is_finite_p, lax.le_p, lax.lt_p, lax.ne_p,
    lax.not_p, lax.or_p, lax.real_p, lax.reduce_precision_p, lax.reshape_p, lax.rev_p, lax.round_p, lax.select_n_p,
    lax.sign_p, lax.slice_p, lax.split_p, lax.squeeze_p, lax.transpose_p, lax.xor_p, name_p,
}  # fmt: skip
ARITHMETIC = {
    lax.abs_p, lax.add_p, lax.clamp_p, lax.div_p, lax.integer_pow_p, lax.max_p, lax.min_p, lax.mul_p, lax.neg_p,
    lax.sqrt_p, lax.square_p, lax.sub_p,
}  # fmt: skip
FAST = {lax.exp_p, lax.exp2_p, lax.log_p, lax.logistic_p, lax.rsqrt_p, lax.tanh_p}

#: The price of a byte computed again, where that of a byte kept is 1. A few operations of arithmetic are nothing beside
#: writing and reading it, but a long chain is; the fast functions take about as long. All else is not computed again.
PRICES = {**dict.fromkeys(FREE, 0), **dict.fromkeys(ARITHMETIC, 1 / 16), **dict.fromkeys(FAST, 1 / 2)}


def price(eqn: Any) -> float | None:
    """What it costs to run an equation again, in bytes kept; None where that is not done."""
    if eqn.effects or not all(isinstance(v.aval, ShapedArray) for v in eqn.outvars):
        return None
    if eqn.primitive in PRICES:
        return PRICES[eqn.primitive] * size(eqn.outvars[0])
    if eqn.primitive is jit_p:
        prices = [price(inner) for inner in eqn.params["jaxpr"].jaxpr.eqns]
        return None if None in prices else sum(p for p in prices if p is not None)
    return None


#: What it costs to run an equation again, None where that is not done.
Price = Callable[[Any], float | None]


def cut(
    program: ClosedJaxpr, wanted: Sequence[Any], cost: Callable[[Var], float], price: Price = price
) -> list[Var] | None:
    """The variables of ``program`` to keep, at ``cost`` each, so that ``wanted`` can be computed from them.

    ``price`` is that of running an equation again. None where what is to be kept is the variables wanted.
    """
    needed = variables(wanted)
    if sum(map(cost, needed)) == 0:
        return None
    kept = cheapest(program, needed, cost, price)
    return None if set(kept) == set(needed) else kept


def cheapest(program: ClosedJaxpr, wanted: Sequence[Any], cost: Callable[[Var], float], price: Price) -> list[Var]:
    """The variables to keep as ``cut`` finds them, where these are the variables wanted too."""
    makers = {v: eqn for eqn in program.jaxpr.eqns for v in eqn.outvars}
    return Graph(variables(wanted), makers, cost, price).cut()


def variables(atoms: Sequence[Any]) -> list[Var]:
    return list(dict.fromkeys(v for v in atoms if type(v) is not Literal))


class Graph:
    """The values behind ``needed``: each an edge from being computed to being had, of the price of keeping it."""

    def __init__(self, needed: Sequence[Var], makers: dict[Var, Any], cost: Callable[[Var], float], price: Price):
        self.values: list[Var] = []
        number: dict[Any, int] = {}
        source, sink = 0, 1
        edges: list[tuple[int, int, float]] = []
        inside: list[tuple[Any, Any]] = []
        rest = list(needed)
        while rest:
            v = rest.pop()
            if v in number:
                continue
            number[v] = place = 2 + 2 * len(self.values)
            self.values.append(v)
            edges.append((place, place + 1, cost(v)))
            eqn = makers.get(v)
            again = None if eqn is None else price(eqn)
            edges.append((source, place, math.inf if again is None else again))
            if eqn is not None and again is not None:
                operands = [x for x in eqn.invars if type(x) is not Literal]
                inside += [(x, v) for x in operands]
                rest += operands
        edges += [(number[v] + 1, sink, math.inf) for v in needed]
        edges += [(number[x] + 1, number[v], math.inf) for x, v in inside]
        self.edges, self.source, self.sink = edges, source, sink

    def cut(self) -> list[Var]:
        """The values whose edges are cut, as near to the sink as may be."""
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import maximum_flow

        # Flows are 32-bit integers.
        total = sum(c for _, _, c in self.edges if c < math.inf) or 1
        infinite = np.iinfo(np.int32).max
        scale = min(1.0, (infinite // 4) / total)
        capacity: dict[tuple[int, int], int] = {}
        for a, b, c in self.edges:
            known = capacity.get((a, b), 0)
            capacity[a, b] = min(infinite // 2, known + (infinite // 2 if c == math.inf else math.ceil(c * scale)))
        rows, columns = zip(*capacity, strict=True)
        n = 2 + 2 * len(self.values)
        data = np.fromiter(capacity.values(), np.int32)
        flow = maximum_flow(coo_array((data, (rows, columns)), (n, n)).tocsr(), self.source, self.sink).flow.tocoo()
        flows = {(int(a), int(b)): int(f) for a, b, f in zip(*flow.coords, flow.data, strict=True)}
        into: dict[int, list[int]] = {}
        for (a, b), c in capacity.items():
            used = flows.get((a, b), 0)
            if used < c:
                into.setdefault(b, []).append(a)
            if used > 0:
                into.setdefault(a, []).append(b)
        reached, rest = {self.sink}, [self.sink]
        while rest:
            for a in into.get(rest.pop(), ()):
                if a not in reached:
                    reached.add(a)
                    rest.append(a)
        places = range(2, n, 2)
        return [v for v, k in zip(self.values, places, strict=True) if k not in reached and k + 1 in reached]
