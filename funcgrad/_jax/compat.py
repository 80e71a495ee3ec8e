"""What differs between the releases of JAX that are supported, 0.10.2 to 0.12, and since which of them."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
from jax._src import core, hijax, tree_util
from jax._src.lax import lax, parallel
from jax._src.state import discharge
from jax.ref import AbstractRef

from funcgrad._jax.names import UNSPECIFIED, Primitive
from funcgrad._jax.values import typeof

if TYPE_CHECKING:
    from jax.extend.core import ClosedJaxpr as ClosedJaxpr
else:
    # Another name of Jaxpr since 0.11, gone in 0.12. Importing jax.extend takes longer than importing funcgrad.
    ClosedJaxpr = getattr(core, "ClosedJaxpr", core.Jaxpr)

# None before the release that has them.
log2_p: Any = getattr(lax, "log2_p", None)  # 0.11.2
one_minus_square_p: Any = getattr(lax, "one_minus_square_p", None)  # 0.11.2
polynomial_p: Any = getattr(lax, "polynomial_p", None)  # 0.12
pbroadcast_dynamic_p: Any = getattr(parallel, "pbroadcast_dynamic_p", None)  # 0.12

#: None since 0.11.1, which asks for it no more.
cur_qdd: Any = getattr(core, "cur_qdd", None)


def in_types(program: ClosedJaxpr) -> list[Any]:
    """The types of a program's inputs, to trace another with: what is changed in place has a state besides."""
    types: list[Any] = program.in_avals if cur_qdd is None else program.jaxpr.in_aval_qdds
    return types


def types_of(values: Sequence[Any]) -> tuple[Any, ...]:
    """The types of values, to trace a program with."""
    avals = tuple(map(typeof, values))
    if cur_qdd is None:
        return avals
    return tuple([core.AvalQDD(a, cur_qdd(x)) if a.has_qdd else a for a, x in zip(avals, values, strict=True)])


#: Whether the cotangent of what ``cholesky`` factorizes is lower triangular too: since 0.11.2.
CHOLESKY_IS_OF_LOWER = jax.__version_info__ >= (0, 11, 2)

flattree: Any
try:
    flattree = importlib.import_module("jax._src.flattree")
except ImportError:  # before 0.11
    flattree = tree_util.FlatTree


def flat_tree(*groups: Any) -> Any:
    """JAX's flat tree of lists of values, each a list or a flat tree already."""
    trees = tuple([flattree.flatten_list(g) if isinstance(g, list) else g for g in groups])
    return trees[0] if len(trees) == 1 else flattree.pack(trees)


def scan_layout(params: Mapping[str, Any]) -> tuple[int, int]:
    """How many constants and how many carries a scan has."""
    if "num_consts" in params:  # before 0.11
        return params["num_consts"], params["num_carry"]
    consts, carry, _ = params["ft_in"].unpack()
    return len(consts), len(carry)


@functools.cache
def empty_scan() -> dict[str, Any]:
    """The parameters of some scan."""
    (equation,) = jax.make_jaxpr(lambda: jax.lax.scan(lambda c, _: (c, None), 0.0, None, length=1))().eqns
    params: dict[str, Any] = equation.params
    return params


def scan_params(params: Mapping[str, Any], body: ClosedJaxpr, num_consts: int, num_carry: int) -> dict[str, Any]:
    """The parameters of a scan with another body, of so many constants and carries."""
    new = {**params, "jaxpr": body}
    if "num_consts" in params:  # before 0.11
        return new | {"num_consts": num_consts, "num_carry": num_carry}
    num_elements, num_outs = len(body.in_avals) - num_consts - num_carry, len(body.out_avals) - num_carry
    consts, carry, elements, outs = ([None] * n for n in (num_consts, num_carry, num_elements, num_outs))
    return new | {"ft_in": flat_tree(consts, carry, elements), "ft_out": flat_tree(carry, outs)}


def jit_inlines(params: Mapping[str, Any]) -> bool:
    """Whether a jit equation is to be written out, and asks for no shardings or layouts that would be lost by it."""
    inline = params["inline"]
    # A flag, and since 0.11 one of several ways.
    if not (inline if isinstance(inline, bool) else inline.name.startswith("JAX")):
        return False
    for sharding in (*params["in_shardings"], *params["out_shardings"]):
        if sharding is not UNSPECIFIED:
            return False
    return not any(params["in_layouts"]) and not any(params["out_layouts"])


def inlines_early(function: Any) -> bool:
    """Whether a jitted function is written out where it is called inside another.

    Since 0.11.2 that is no longer what ``inline=True`` asks for, but ``inline=Inline.JAX_EARLY``.
    """
    inline = function._jit_info.inline
    return inline if isinstance(inline, bool) else inline.name == "JAX_EARLY"


def call_bwd(bwd: Any, *args: Any) -> Sequence[Any]:
    """Call the backward rule of a ``custom_vjp`` function: a cotangent for each argument of the function."""
    results: Sequence[Any] = bwd.call_wrapped(*args)
    # Since 0.11.1 they come with logs.
    return results[0] if jax.__version_info__ >= (0, 11, 1) else results


def goes_by_jvp(prim: Any, checkpointed: bool) -> bool:
    """Whether a hijax primitive is differentiated by its ``jvp``, not its ``vjp_fwd``.

    It is where it has no other, and inside of a checkpointed function, as JAX does there.
    """
    base = getattr(hijax, "HiPrim", None) or hijax.VJPHiPrimitive
    has_jvp, has_vjp = (getattr(type(prim), name) is not getattr(base, name) for name in ("jvp", "vjp_fwd"))
    # Those of JAX's own have a jvp that stands for the vjp_fwd.
    return has_jvp and (not has_vjp or (checkpointed and type(prim).__module__ != hijax.__name__))


def way_forward(prim: Any, active: tuple[Any, ...], operands: Sequence[Any], checkpointed: bool) -> Any:
    """What a hijax primitive's ``vjp_fwd`` returns.

    A ``custom_vjp`` function that asks for it is, inside of a checkpointed one, called as one primitive, which is the
    function again where what is kept for the way back is not used.
    """
    if not (checkpointed and getattr(prim, "opt_remat", False)) or prim.symbolic_zeros:
        return prim.vjp_fwd(active, *operands)
    traced = jax.jit(functools.partial(prim.vjp_fwd, active)).trace(*operands)
    return hijax.OptRemat(prim, traced)(*operands)


def bind_discharged(
    primitive: Primitive, chosen: Sequence[bool], values: Sequence[Any], params: Mapping[str, Any]
) -> tuple[Sequence[Any], Any]:
    """Bind ``primitive`` with the contents of references in the place of those chosen: last contents, outputs."""
    avals = [AbstractRef(core.typeof(x)) if c else core.typeof(x) for x, c in zip(values, chosen, strict=True)]
    if hasattr(discharge, "DischargeContext"):  # since 0.11.1
        context = discharge.DischargeContext(avals, [], list(chosen), False)
        return discharge._discharge_rules[primitive](context, *values, **params)
    return discharge._partial_discharge_rules[primitive](chosen, avals, [], *values, **params)
