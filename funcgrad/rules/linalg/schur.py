"""The Schur decomposition."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jax import lax

from funcgrad.rules.linalg.matrices import (
    add_to_diagonal,
    adjoint,
    cast,
    matmul,
    over,
    real,
    size_of,
    textbook,
    total,
    triangular_solve,
)  # fmt: skip
from funcgrad.rules.linalg.spectral import Decomposition
from funcgrad.rules.numbers import is_complex


def prepare_schur(shape, *, compute_schur_vectors, **params):
    return dict(params, compute_schur_vectors=True), 1 + compute_schur_vectors


@textbook
def schur(cts, outs):
    """x̄ = z (t̄ + n) zᴴ, where n tᴴ - tᴴ n = w - wᴴ below the diagonal and w = tᴴ t̄ - t̄ tᴴ + zᴴ z̄.

    From dt = m + t k - k t with m = zᴴ dx z, dz = z k and k = l - lᴴ, of which l is below the diagonal, where
    l t - t l = m. The columns of a complex z have phases of their own; k moves none of them.

    All that is of the size of z̄ / t or of t̄, so t is scaled, and z̄ alike.
    """
    t_ct, z_ct = cts
    t, z = outs
    size = size_of(t)
    t = over(t, size)
    from_z = None if z_ct is None else matmul(adjoint(z), over(z_ct, size))
    t_ct = jnp.zeros_like(t) if t_ct is None else t_ct
    if is_complex(t):
        i, j = places(t)
        n, t_ct = below_diagonal(t, jnp.triu(t_ct), from_z, i > j)
    else:
        n, t_ct = below_blocks(t, t_ct, from_z)
    return [matmul(matmul(z, lax.add(t_ct, n)), adjoint(z))]


def places(t):
    return np.arange(t.shape[-1])[:, None], np.arange(t.shape[-1])


def moments(t, t_ct, from_z):
    """w - wᴴ"""
    w = total(lax.sub(matmul(adjoint(t), t_ct), matmul(t_ct, adjoint(t))), from_z)
    return lax.sub(w, adjoint(w))


def below_diagonal(t, t_ct, from_z, low):
    return solve(t, jnp.where(low, moments(t, t_ct, from_z), 0), low), t_ct


def solve(t, r, low):
    """The n with n tᴴ - tᴴ n = r, both zero but in ``low``, below the diagonal of t: column by column, the last first.

    A column needs those after it, as in the method of Bartels and Stewart (1972).
    """
    i, j = places(t)
    th = adjoint(t)

    def step(n, column):
        here = j == column
        rest = lax.sub(r, matmul(n, th))
        inside = jnp.any(low & here, -1, keepdims=True)
        value = jnp.sum(jnp.where(here & (i == column), th, 0), (-2, -1), keepdims=True)
        shifted = jnp.where(inside & jnp.swapaxes(inside, -1, -2), jnp.where(i == j, value - th, -th), i == j)
        side = jnp.sum(jnp.where(here & inside, rest, 0), -1, keepdims=True)
        found = triangular_solve(cast(shifted, th), side, left_side=True, lower=True)
        return jnp.where(here & inside, found, n), None

    return lax.scan(step, jnp.zeros_like(r), np.arange(t.shape[-1], dtype=np.int32)[::-1])[0]


def below_blocks(t, t_ct, from_z):
    """n and t̄ for real x, whose t has blocks [[a, b], [c, a]] of two on its diagonal for pairs of complex eigenvalues.

    "Below the diagonal" is below the blocks. A block turns within itself by what keeps its diagonal equal:
    2 (b + c) dφ = dt₂₂ - dt₁₁. To solve for n, a unitary q that is as block diagonal as t makes it triangular.
    """
    i, j = places(t)
    under = jnp.sum(jnp.where(i == j + 1, t, 0), -2)
    right = jnp.sum(jnp.where(i + 1 == j, t, 0), -1)
    first = under != 0
    second = jnp.concatenate([jnp.zeros_like(first[..., :1]), first[..., :-1]], -1)
    low = (i > j) & ~((i == j + 1) & first[..., None, :])
    t_ct = jnp.where((i > j) & (low | ~first[..., None, :]), 0, t_ct)

    turned = jnp.sum(jnp.where(i == j + 1, moments(t, t_ct, from_z), 0), -2)
    by = jnp.where(first, turned / jnp.where(first, 2 * (right + under), 1), 0)
    after = jnp.concatenate([jnp.zeros_like(by[..., :1]), by[..., :-1]], -1)
    t_ct = add_to_diagonal(t_ct, jnp.where(first, -by, jnp.where(second, after, 0)))

    # The first column of a block of q is the eigenvector (b, sqrt(b c)) of a + sqrt(b c).
    b, c = (jnp.where(first, jnp.abs(x), 1) for x in (right, under))
    cosine = jnp.where(first, jnp.sign(right) * jnp.sqrt(b / (b + c)), 1)
    sine = jnp.where(first, jnp.sqrt(c / (b + c)), 0)
    before = jnp.concatenate([jnp.ones_like(cosine[..., :1]), cosine[..., :-1]], -1)
    along = jnp.where(second, before, cosine)
    across = jnp.where(i + 1 == j, sine[..., :, None], jnp.where(i == j + 1, sine[..., None, :], 0))
    q = lax.complex(add_to_diagonal(jnp.zeros_like(t), along), across)
    triangular, rest = (
        matmul(matmul(adjoint(q), cast(x, q)), q) for x in (t, jnp.where(low, moments(t, t_ct, from_z), 0))
    )
    n = solve(jnp.triu(triangular), jnp.where(low, rest, 0), low)
    return jnp.where(low, real(matmul(matmul(q, n), adjoint(q))), 0), t_ct


rules = {lax.linalg.schur_p: Decomposition(schur, prepare_schur)}
