"""Factorizations, spectral decompositions and structured solves beside JAX's."""

from __future__ import annotations

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.lax import linalg

import funcgrad as fg
from tests.rules.against_jax import (
    assert_agrees,
    assert_agrees_with_differences,
    assert_close,
    draw,
    weighted,
)

REAL, COMPLEX = np.float64, np.complex128
dtypes = pytest.mark.parametrize("dtype", [REAL, COMPLEX], ids=["real", "complex"])
shapes = pytest.mark.parametrize("shape", [(3, 3), (2, 4, 3), (3, 5)], ids=["square", "tall_batch", "wide"])


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def positive(x):
    return x @ jnp.swapaxes(x, -1, -2).conj() + 3 * jnp.eye(x.shape[-1])


def only(i, f):
    """One output of a decomposition: the others' cotangents are symbolic zeros."""
    return lambda *args: f(*args)[i]


# Factorizations.


@dtypes
@pytest.mark.parametrize("shape", [(3, 3), (2, 3, 3)], ids=["one", "batch"])
def test_cholesky_agrees_with_jax(shape, dtype):
    assert_agrees(lambda x: linalg.cholesky(positive(x)), draw(*shape, dtype=dtype))


def test_cholesky_without_symmetrization_agrees_with_jax():
    assert_agrees(partial(linalg.cholesky, symmetrize_input=False), positive(draw(3, 3)))


@dtypes
@shapes
def test_lu_agrees_with_jax(shape, dtype):
    assert_agrees(linalg.lu, draw(*shape, dtype=dtype))


@dtypes
@shapes
def test_qr_agrees_with_jax(shape, dtype):
    assert_agrees(partial(linalg.qr, full_matrices=False), draw(*shape, dtype=dtype))


@dtypes
def test_full_qr_agrees_with_jax(dtype):
    assert_agrees(linalg.qr, draw(2, 4, 3, dtype=dtype))


@shapes
@pytest.mark.parametrize("i", [0, 1], ids=["q", "r"])
def test_one_factor_of_qr_agrees_with_jax(shape, i):
    assert_agrees(only(i, partial(linalg.qr, full_matrices=True)), draw(*shape), second=False)


@pytest.mark.parametrize("shape", [(3, 3), (4, 3)])
def test_pivoted_qr_agrees_with_jax(shape):
    assert_agrees(partial(linalg.qr, pivoting=True, full_matrices=False), draw(*shape, dtype=COMPLEX))


@shapes
def test_pivoted_qr_agrees_with_differences_where_jax_is_wrong_for_wide_matrices_and_batches(shape):
    assert_agrees_with_differences(partial(linalg.qr, pivoting=True, full_matrices=False), draw(*shape))


# Spectral decompositions.


@dtypes
@pytest.mark.parametrize("shape", [(3, 3), (2, 3, 3)], ids=["one", "batch"])
def test_eigh_agrees_with_jax(shape, dtype):
    assert_agrees(linalg.eigh, draw(*shape, dtype=dtype))


@pytest.mark.parametrize("i", [0, 1], ids=["v", "w"])
@pytest.mark.parametrize("lower", [False, True])
def test_one_output_of_eigh_agrees_with_jax(i, lower):
    eigh = partial(linalg.eigh, lower=lower, symmetrize_input=False, subset_by_index=(0, 3))
    assert_agrees(only(i, eigh), positive(draw(3, 3, dtype=COMPLEX)), second=False)


def test_eigh_of_a_triangle_keeps_its_value_under_differentiation():
    x = jnp.tril(positive(draw(3, 3)))
    eigh = partial(linalg.eigh, symmetrize_input=False)
    assert_close(fg.vjp(eigh, x)[0], eigh(x), 1e-15)


def test_part_of_eigh_is_refused():
    with pytest.raises(NotImplementedError, match="needs all eigenvectors"):
        jax.eval_shape(lambda x: fg.vjp(partial(linalg.eigh, subset_by_index=(0, 2)), x)[0], draw(3, 3))


def test_eigenvectors_of_equal_eigenvalues_have_no_derivative_and_the_eigenvalues_do():
    assert np.isnan(fg.grad(weighted(only(0, linalg.eigh)))(jnp.eye(3))).any()
    assert_agrees(only(1, linalg.eigh), jnp.eye(3), second=False)


@dtypes
@pytest.mark.parametrize(("left", "right"), [(False, True), (True, False), (True, True)], ids=["right", "left", "both"])
def test_eig_agrees_with_jax(dtype, left, right):
    eig = partial(
        linalg.eig, compute_left_eigenvectors=left, compute_right_eigenvectors=right, enable_eigvec_derivs=True
    )
    assert_agrees(eig, draw(2, 3, 3, dtype=dtype), second=dtype is COMPLEX)


@pytest.mark.parametrize("i", [0, 1, 2], ids=["w", "left", "right"])
def test_one_output_of_eig_agrees_with_jax(i):
    assert_agrees(only(i, partial(linalg.eig, enable_eigvec_derivs=True)), draw(3, 3), second=False)


eigenvalues = partial(linalg.eig, compute_left_eigenvectors=False, compute_right_eigenvectors=False)


@dtypes
def test_eigenvalues_agree_with_jax_and_have_second_derivatives_where_jax_has_none(dtype):
    x = draw(3, 3, dtype=dtype)
    assert_agrees(eigenvalues, x, second=False)
    with pytest.raises(NotImplementedError):
        jax.grad(weighted(jax.grad(weighted(eigenvalues))))(x)
    assert_agrees_with_differences(fg.grad(weighted(eigenvalues)), x)


def test_eigenvectors_have_to_be_asked_for_derivatives():
    with pytest.raises(NotImplementedError, match="enable_eigvec_derivs=True"):
        fg.vjp(jnp.linalg.eig, draw(3, 3))


@dtypes
@shapes
def test_svd_agrees_with_jax(shape, dtype):
    assert_agrees(partial(linalg.svd, full_matrices=False), draw(*shape, dtype=dtype))


@shapes
@pytest.mark.parametrize("i", [0, 1, 2], ids=["u", "s", "vh"])
def test_one_output_of_svd_agrees_with_jax(shape, i):
    assert_agrees(only(i, partial(linalg.svd, full_matrices=False)), draw(*shape, dtype=COMPLEX), second=False)


@shapes
def test_singular_values_agree_with_jax(shape):
    assert_agrees(partial(linalg.svd, compute_uv=False), draw(*shape, dtype=COMPLEX))


def test_svd_of_a_square_matrix_is_its_own_completion():
    assert_agrees(partial(linalg.svd, full_matrices=True), draw(3, 3), second=False)


def test_completed_and_partial_singular_vectors_are_refused():
    with pytest.raises(NotImplementedError, match="full_matrices=False"):
        fg.vjp(linalg.svd, draw(3, 2))
    with pytest.raises(NotImplementedError, match="subset_by_index"):
        jax.eval_shape(
            lambda x: fg.vjp(partial(linalg.svd, full_matrices=False, subset_by_index=(0, 1)), x)[0], draw(3, 2)
        )


def test_pseudoinverse_of_a_matrix_of_zeros_has_the_gradient_of_jax():
    assert_agrees(jnp.linalg.pinv, jnp.zeros((2, 3)), second=False)


# Solves.


@pytest.mark.parametrize("flags", list(itertools.product([False, True], repeat=4)))
def test_triangular_solve_agrees_with_jax(flags):
    left_side, lower, transpose_a, unit_diagonal = flags
    solve = partial(
        linalg.triangular_solve,
        left_side=left_side,
        lower=lower,
        transpose_a=transpose_a,
        conjugate_a=left_side != lower,
        unit_diagonal=unit_diagonal,
    )
    a = draw(3, 3, dtype=COMPLEX) + 2 * np.eye(3)
    b = draw(*(3, 2) if left_side else (2, 3), dtype=COMPLEX)
    assert_agrees(solve, a, b, second=flags == (True, False, True, False))


def test_triangular_solve_of_a_batch_agrees_with_jax():
    assert_agrees(partial(linalg.triangular_solve, left_side=True), draw(2, 3, 3) + 2 * np.eye(3), draw(2, 3, 1))


@dtypes
@pytest.mark.parametrize("batch", [(), (2,)], ids=["one", "batch"])
def test_tridiagonal_solve_agrees_with_jax(batch, dtype):
    low, mid, high = (draw(*batch, 4, dtype=dtype, seed=i) for i in range(3))
    assert_agrees(linalg.tridiagonal_solve, low, mid + 4, high, draw(*batch, 4, 2, dtype=dtype))


def test_tridiagonal_solve_agrees_with_jax_in_one_diagonal_alone():
    low, mid, high = (draw(4, seed=i) for i in range(3))
    assert_agrees(lambda x: linalg.tridiagonal_solve(low, mid + 4, x, draw(4, 2)), high, second=False)


@pytest.mark.parametrize("solve", [
    lambda a, b: linalg.triangular_solve(a, b, left_side=True),
    lambda a, b: linalg.tridiagonal_solve(a[0], a[1] + 4, a[2], b),
])  # fmt: skip
def test_a_solve_keeps_the_matrix_only_when_the_right_hand_side_alone_moves(solve):
    a, b = draw(3, 3) + 2 * np.eye(3), draw(3, 2)
    _, pullback = fg.vjp(partial(solve, a), b)
    assert all(x.shape != b.shape for x in jax.tree.leaves(pullback))


@pytest.mark.parametrize("solve", [
    lambda a, b: linalg.triangular_solve(a, b, left_side=True),
    lambda a, b: linalg.tridiagonal_solve(a[0], a[1] + 4, a[2], b),
])  # fmt: skip
def test_a_custom_jvp_rule_may_solve_for_its_tangent(solve):
    a = draw(3, 3) + 2 * np.eye(3)

    @jax.custom_jvp
    def f(b):
        return solve(a, b) ** 2

    @f.defjvp
    def f_jvp(primals, tangents):
        x = solve(a, *primals)
        return x**2, 2 * x * solve(a, *tangents)

    assert_agrees(f, draw(3, 2), second=False)


# All of them.

everything = {
    "cholesky": lambda x: linalg.cholesky(positive(x)),
    "lu": linalg.lu,
    "qr": partial(linalg.qr, full_matrices=False),
    "eigh": linalg.eigh,
    "eigenvalues": eigenvalues,
    "svd": partial(linalg.svd, full_matrices=False),
}
each = pytest.mark.parametrize("f", everything.values(), ids=everything.keys())


@each
def test_a_vmapped_pullback_agrees_with_jax(f):
    def real(x):
        return [jnp.real(y) for y in jax.tree.leaves(f(x)) if jnp.issubdtype(y.dtype, jnp.inexact)]

    x = draw(3, 3)
    assert_close(jax.jit(fg.jacrev(real))(x), jax.jit(jax.jacrev(real))(x), 1e-12)


@each
def test_forward_over_reverse_agrees_with_reverse_over_reverse(f):
    x, g = draw(3, 3), fg.grad(weighted(f))
    direction = draw(3, 3, seed=1)
    _, forward = jax.jvp(g, (x,), (direction,))
    _, pullback = fg.vjp(g, x)
    # A Hessian is symmetric.
    assert_close(pullback(direction)[0], forward, 1e-10)


@each
def test_gradients_in_a_batch_are_the_gradients_of_its_members(f):
    x = draw(2, 3, 3)
    single = fg.vjp(f, x[1])
    batch = fg.vjp(f, x)
    cts = jax.tree.map(lambda y: draw(*y.shape, dtype=y.dtype) if y.dtype != np.int32 else zero_tangent(y), batch[0])
    assert_close(batch[1](cts)[0][1], single[1](jax.tree.map(lambda ct: ct[1], cts))[0], 1e-12)


def zero_tangent(x):
    return np.zeros(x.shape, jax.dtypes.float0)


# What JAX cannot differentiate.

reflect = {
    "householder_product": lambda x: linalg.householder_product(x[..., :3], x[..., :3, 3]),
    "ormqr": lambda x: linalg.ormqr(x[..., :3], x[..., :3, 3], x),
    "ormqr_right_inverse": lambda x: linalg.ormqr(x[..., :3], x[..., :2, 3], x, left=False, transpose=True),
    "hessenberg": linalg.hessenberg,
    "tridiagonal": linalg.tridiagonal,
    "tridiagonal_upper": partial(linalg.tridiagonal, lower=False),
    "raw_qr": lambda x: jnp.linalg.qr(x[..., :3], mode="raw"),
}
real_only = {
    "cholesky_update": lambda x: linalg.cholesky_update(jnp.triu(x) + 4 * jnp.eye(4), x[0]),
    "symmetric_product": lambda x: linalg.symmetric_product(x, x @ x.T, alpha=0.7, beta=1.3, symmetrize_output=True),
    # Through the complex Schur decomposition.
    "sqrtm": lambda x: jax.scipy.linalg.sqrtm(x @ x.T + 3 * jnp.eye(4) + 0.3 * x),
}


def assert_agrees_twice(f, x):
    assert_agrees_with_differences(f, x)
    assert_agrees_with_differences(jax.jit(fg.grad(weighted(f))), x)


@pytest.mark.parametrize("f", [*reflect.values(), *real_only.values()], ids=[*reflect, *real_only])
def test_what_jax_cannot_differentiate_agrees_with_differences(f):
    assert_agrees_twice(f, draw(4, 4))


@pytest.mark.parametrize("f", reflect.values(), ids=reflect)
def test_complex_reflections_agree_with_differences(f):
    assert_agrees_twice(f, draw(2, 4, 4, dtype=COMPLEX))


@pytest.mark.parametrize(("seed", "pairs"), [(10, 0), (11, 1), (17, 2)])
def test_schur_agrees_with_differences(seed, pairs):
    """Where LAPACK makes of a matrix beside it a decomposition beside its own, which seeds are chosen for."""
    x = draw(4, 4, seed=seed)
    assert np.sum(np.diag(linalg.schur(x)[0], -1) != 0) == pairs
    assert_agrees_twice(linalg.schur, x)


def test_schur_form_alone_and_of_complex_matrices_agrees_with_differences():
    assert_agrees_twice(partial(linalg.schur, compute_schur_vectors=False), draw(4, 4, seed=11))

    def without_phases(x):
        t, z = linalg.schur(x)
        return jnp.diagonal(t, axis1=-2, axis2=-1), jnp.abs(z), jnp.abs(t[..., 0, 1:])

    assert_agrees_twice(without_phases, draw(2, 4, 4, dtype=COMPLEX, seed=1))


# Sizes.

sized = {
    "svd": partial(linalg.svd, full_matrices=False),
    "eigh": lambda x: linalg.eigh(x + jnp.swapaxes(x, -1, -2).conj()),
    "eig": partial(linalg.eig, enable_eigvec_derivs=True),
    "qr": partial(linalg.qr, full_matrices=False),
    "lu": lambda x: (jnp.tril(linalg.lu(x)[0], -1), jnp.triu(linalg.lu(x)[0])),
}
#: Whether an output is as large as the matrix.
SCALED_BY = {"svd": (0, 1, 0), "eigh": (0, 1), "eig": (1, 0, 0), "qr": (0, 1), "lu": (0, 1)}


@pytest.mark.parametrize(("exponent", "dtype"), [(-72, REAL), (70, COMPLEX)], ids=["small", "large_complex"])
@pytest.mark.parametrize("name", sized)
def test_derivatives_of_small_and_large_matrices_are_those_of_matrices_near_one(name, exponent, dtype):
    """In single precision, where the square of the matrix's size is no number; first and second order."""
    double, x = dtype, draw(3, 3, dtype=dtype)
    single = np.complex64 if double is COMPLEX else np.float32
    unit = 2.0**exponent

    def both(x, unit, like):
        def loss(x):
            # Weights of 1 / unit keep the cotangent of what is as large as the matrix of order one.
            outs = sized[name](x)
            terms = [
                jnp.sum(jnp.real(jnp.asarray(draw(*out.shape, dtype=double, seed=i), out.dtype) * out))
                * jnp.asarray(1 if degree else unit, like)
                for i, (out, degree) in enumerate(zip(outs, SCALED_BY[name], strict=True))
            ]
            return sum(terms)

        gradient = fg.grad(loss)
        direction = jnp.asarray(draw(3, 3, dtype=double, seed=9) * unit, x.dtype)
        return gradient(x), fg.grad(lambda x: jnp.sum(jnp.real(direction * gradient(x))))(x)

    expected = both(jnp.asarray(x), 1.0, REAL)
    got = jax.jit(partial(both, unit=unit, like=np.float32))(jnp.asarray(x * unit, single))
    for value, true in zip(got, expected, strict=True):
        np.testing.assert_allclose(value, true, rtol=0, atol=1e-4 * np.max(np.abs(true)))


@pytest.mark.parametrize("exponent", [-70, 68])
@pytest.mark.parametrize("f", [lambda x: jnp.triu(linalg.lu(x)[0]), lambda x: linalg.qr(x)[1]], ids=["lu", "qr"])
def test_a_cotangent_as_small_or_large_as_the_matrix_is_not_lost(f, exponent):
    x, unit = np.asarray(draw(3, 3), np.float32), np.float32(2.0**exponent)

    def gradient(unit):
        return fg.grad(lambda x: jnp.sum(f(x) * unit))(x * unit) / unit

    np.testing.assert_allclose(gradient(unit), gradient(np.float32(1)), rtol=1e-5)


def test_pivots_are_not_differentiated():
    def f(x):
        _, pivots, _ = linalg.lu(x)
        return jnp.sum(x * linalg.lu_pivots_to_permutation(pivots, 3))

    assert_agrees(f, draw(3, 3), second=False)
    assert lax.linalg.lu_pivots_to_permutation_p in fg.rules.default
