"""What differs between releases of JAX, with the one that is installed."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import funcgrad as fg
from funcgrad import _jax
from funcgrad._jax.compat import call_bwd, flattree


def equation(f, *args):
    (eqn,) = jax.make_jaxpr(f)(*args).eqns
    return eqn


def scan(xs, w):
    return lax.scan(lambda c, x: (c * w + x, (c, x)), 1.0, xs)


def test_a_closed_jaxpr_has_a_jaxpr_and_constants():
    table = np.arange(3.0)
    closed = jax.make_jaxpr(lambda x: x + table)(1.0)
    assert isinstance(closed, _jax.ClosedJaxpr)
    again = _jax.ClosedJaxpr(closed.jaxpr, closed.consts)
    assert _jax.eval_jaxpr(again.jaxpr, again.consts, 1.0)[0].tolist() == [1, 2, 3]


def test_newer_primitives_are_there_or_none():
    newer = [_jax.log2_p, _jax.one_minus_square_p, _jax.polynomial_p, _jax.pbroadcast_dynamic_p]
    assert all(p is None or (isinstance(p, _jax.Primitive) and p in fg.rules.default) for p in newer)


def test_the_cotangent_of_what_cholesky_factorizes_is_as_jaxs():
    cholesky = functools.partial(lax.linalg.cholesky, symmetrize_input=False)
    (x_ct,) = jax.vjp(cholesky, 1 + jnp.eye(2))[1](jnp.ones((2, 2)))
    assert (x_ct[0, 1] == 0) == _jax.CHOLESKY_IS_OF_LOWER


def test_a_flat_tree_packs_lists_and_flat_trees():
    assert list(_jax.flat_tree([1, 2])) == [1, 2]
    first, second = _jax.flat_tree([1, 2], flattree.flatten_list([3])).unpack()
    assert list(first) == [1, 2] and list(second) == [3]


def test_a_scan_has_constants_and_carries():
    assert _jax.scan_layout(equation(scan, jnp.ones(3), 2.0).params) == (1, 1)


def test_a_scan_takes_another_body():
    xs = jnp.arange(3.0)
    eqn = equation(scan, xs, 2.0)
    body = jax.make_jaxpr(lambda v, w, c, x: (c * w + x, c + v))(0.0, 2.0, 1.0, 0.0)
    params = _jax.scan_params(eqn.params, body, 2, 1)
    assert _jax.scan_layout(params) == _jax.scan_layout(_jax.scan_params(_jax.empty_scan(), body, 2, 1)) == (2, 1)
    last, out = eqn.primitive.bind(1.0, 2.0, 1.0, xs, **params)
    assert last == 12 and out.tolist() == [2, 3, 6]


def test_whether_a_call_is_written_out():
    call = jax.jit(lambda x: x + 1)
    params = equation(call, 1.0).params
    assert not _jax.jit_inlines(params) and not _jax.inlines_early(call)
    early = True if isinstance(params["inline"], bool) else type(params["inline"]).JAX_EARLY
    assert _jax.inlines_early(jax.jit(lambda x: x + 1, inline=early))
    assert _jax.jit_inlines({**params, "inline": early})
    assert not _jax.jit_inlines({**params, "inline": early, "in_shardings": (jnp.ones(2).sharding,)})


def test_a_backward_rule_gives_a_cotangent_for_each_argument(monkeypatch):
    @jax.custom_vjp
    def f(x, y):
        return x * y

    f.defvjp(lambda x, y: (f(x, y), (x, y)), lambda kept, ct: (ct * kept[1], ct * kept[0]))
    seen = []
    monkeypatch.setattr(_jax, "call_bwd", lambda *args: seen.append(call_bwd(*args)) or seen[-1])
    assert fg.grad(f, (0, 1))(2.0, 3.0) == (3, 2)
    assert [list(map(float, cts)) for cts in seen] == [[3, 2]]


def test_references_are_their_contents_when_discharged():
    def f(x):
        ref = jax.new_ref(x)
        lax.fori_loop(0, 3, lambda i, _: ref.addupdate(1.0), None)
        return ref[...]

    (eqn,) = [e for e in jax.make_jaxpr(f)(1.0).eqns if e.primitive in (lax.scan_p, lax.while_p)]
    values = [jnp.float32(1) if _jax.is_ref(v.aval) else jnp.zeros(v.aval.shape, v.aval.dtype) for v in eqn.invars]
    chosen = [_jax.is_ref(v.aval) for v in eqn.invars]
    contents, _outs = _jax.bind_discharged(eqn.primitive, chosen, values, eqn.params)
    assert [float(x) for x in contents if x is not None] == [4]
