"""Equal eigenvalues and singular values: the derivative of what does not depend on a basis, an error for what does."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import funcgrad as fg
from tests.rules.against_jax import draw

RULES = fg.rules.degenerate
Q, P = (np.linalg.qr(draw(4, 4, seed=i))[0] for i in range(2))
W = draw(4, 4, seed=2)
HERMITIAN = Q @ np.diag([1.0, 1, 2, 3]) @ Q.T
SINGULAR = Q @ np.diag([2.0, 1, 1, 0.5]) @ P
GENERAL = np.linalg.inv(W) @ np.diag([1.0, 1, 2, 3]) @ W


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def symmetric(x):
    return (x + jnp.swapaxes(x, -1, -2).conj()) / 2


def projection(x):
    """That on the eigenvectors of 1."""
    _, v = jnp.linalg.eigh(x)
    return v[..., :2] @ jnp.swapaxes(v[..., :2], -1, -2)


def contour(x):
    """The same, by the integral of the resolvent around 1."""
    z = 1 + 0.5 * np.exp(2j * np.pi * (np.arange(120) + 0.5) / 120)
    resolvents = jnp.linalg.inv(z[:, None, None] * jnp.eye(4) - x)
    return jnp.real(jnp.mean(resolvents * (z - 1)[:, None, None], 0))


def exponential(x):
    w, v = jnp.linalg.eigh(x)
    return (v * jnp.exp(w)) @ v.conj().T


def logdet(x):
    return jnp.sum(jnp.log(jnp.linalg.eigvalsh(x)))


def polar(x):
    u, _, vh = jnp.linalg.svd(x, full_matrices=False)
    return u @ vh


def newton_polar(x):
    for _ in range(12):
        x = (x + jnp.linalg.inv(x).T) / 2
    return x


def scaled_polar(x):
    u, s, vh = jnp.linalg.svd(x, full_matrices=False)
    return (u * s) @ vh


def eigenprojection(x):
    w, v = lax.linalg.eig(x, compute_left_eigenvectors=False, enable_eigvec_derivs=True)
    return jnp.real((v * (jnp.abs(w - 1) < 0.1)) @ jnp.linalg.inv(v))


def weighted(f):
    return lambda x: jnp.sum(f(x) * W[: x.shape[-2], : x.shape[-1]])


def grad(f, rules=RULES):
    return fg.grad(weighted(f), rules=rules)


cases = {
    "projection": (projection, lambda x: contour(symmetric(x)), HERMITIAN),
    "exponential": (exponential, lambda x: jax.scipy.linalg.expm(symmetric(x)), HERMITIAN),
    "exponential of one": (exponential, lambda x: jax.scipy.linalg.expm(symmetric(x)), np.eye(4)),
    "logdet": (logdet, lambda x: jnp.linalg.slogdet(symmetric(x))[1], HERMITIAN),
    "polar": (polar, newton_polar, SINGULAR),
    "polar of one": (polar, newton_polar, np.eye(4)),
    "product": (scaled_polar, lambda x: x, SINGULAR),
    "product, tall": (scaled_polar, lambda x: x, Q[:, :3]),
    "product, wide": (scaled_polar, lambda x: x, Q[:3]),
    "eigenprojection": (eigenprojection, contour, GENERAL),
}


@pytest.mark.parametrize("case", cases)
def test_loss_without_a_choice_of_basis_has_its_derivative(case):
    f, same, x = cases[case]
    expected = jax.grad(weighted(same))(jnp.asarray(x))
    np.testing.assert_allclose(grad(f)(jnp.asarray(x)), expected, atol=1e-10)
    np.testing.assert_allclose(jax.jit(grad(f))(jnp.asarray(x)), expected, atol=1e-10)


@pytest.mark.parametrize("case", ["projection", "logdet", "polar", "polar of one"])
def test_its_second_derivative_is_right(case):
    f, same, x = cases[case]
    direction = np.asarray(symmetric(draw(4, 4, seed=3)))

    def second(grad, outer):
        return outer(lambda x: jnp.sum(direction * grad(x)))(jnp.asarray(x))

    got = second(grad(f), lambda f: fg.grad(f, rules=RULES))
    np.testing.assert_allclose(got, second(jax.grad(weighted(same)), jax.grad), atol=1e-9)


dependent = {
    "eigenvectors": (lambda x: jnp.linalg.eigh(x)[1], HERMITIAN),
    "one eigenvalue": (lambda x: jnp.linalg.eigvalsh(x)[0], HERMITIAN),
    "singular vectors": (lambda x: jnp.linalg.svd(x)[0], SINGULAR),
    "general eigenvectors": (lambda x: jnp.abs(lax.linalg.eig(x, enable_eigvec_derivs=True)[2]), GENERAL),
}


@pytest.mark.parametrize("case", dependent)
def test_loss_that_depends_on_the_choice_is_an_error_and_nan_when_compiled(case):
    f, x = dependent[case]
    with pytest.raises(ValueError, match="depends on which basis is chosen"):
        grad(f)(jnp.asarray(x))
    assert np.isnan(jax.jit(grad(f))(jnp.asarray(x))).all()


def test_only_the_matrix_of_a_batch_with_equal_values_is_nan():
    x = jnp.stack([jnp.asarray(HERMITIAN), jnp.asarray(HERMITIAN) + np.diag([0.1, 0.2, 0.3, 0.4])])
    got = jax.jit(grad(lambda x: jnp.linalg.eigh(x)[1]))(x)
    assert np.isnan(got[0]).all()
    np.testing.assert_allclose(got[1], fg.grad(weighted(lambda x: jnp.linalg.eigh(x)[1]))(x[1]), atol=1e-12)


def test_values_that_differ_are_those_of_the_default_table():
    x = jnp.asarray(HERMITIAN + np.diag([0.1, 0.2, 0.3, 0.4]))
    value, gradient = fg.value_and_grad(weighted(lambda x: jnp.linalg.eigh(x)[1]), rules=RULES)(x)
    expected, slope = fg.value_and_grad(weighted(lambda x: jnp.linalg.eigh(x)[1]))(x)
    assert value == expected
    np.testing.assert_allclose(gradient, slope, atol=1e-12)


def test_complex_matrices_have_theirs():
    c = np.asarray(symmetric(draw(3, 3, dtype=np.complex128)))
    loss = lambda x: jnp.sum(jnp.real(c.conj() * exponential(x)))  # noqa: E731
    # JAX's gradients are conjugated.
    np.testing.assert_allclose(fg.grad(loss, rules=RULES)(jnp.eye(3, dtype=complex)), np.e * c.conj(), atol=1e-12)
