"""Operations on elements, shapes and products."""

from __future__ import annotations

import jax.numpy as jnp

from tests.inspect.source.sources import body_of, check


def test_products_are_written_with_an_operator_whatever_is_contracted():
    x, y = jnp.ones((2, 3)), jnp.ones((3, 4))
    body = " ".join(body_of(check(lambda x, y: jnp.sum((x @ y) ** 2), x, y, argnums=(0, 1))))
    assert "x @ y" in body and "@ y.T" in body and "x.T @" in body
    xs = jnp.arange(2.0)[:, None, None]
    batch = " ".join(body_of(check(lambda x, y: jnp.sum((x @ y) ** 2), x[None] + xs, y[None] + xs, argnums=(0, 1))))
    assert "x @ y" in batch and "@ y.mT" in batch
    other = check(lambda x, y: jnp.sum(jnp.einsum("abc,dcb->ad", x, y) ** 2), jnp.ones((2, 3, 4)), jnp.ones((5, 4, 3)))
    assert 'jnp.einsum("bij,kji->bk", x, y)' in other
