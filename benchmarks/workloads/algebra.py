"""A tridiagonal solve, and a determinant by cofactors."""

from __future__ import annotations

import jax.numpy as jnp
from jax import lax

from benchmarks.workloads.workload import Random, Workload


def tridiagonal_loss(params):
    """The mean square of the solution, by Thomas' algorithm: a scan to eliminate, and one back to substitute.

    ``params`` has the diagonals ``lower``, ``diagonal`` and ``upper`` and the right-hand side ``rhs``, each (n,); the
    first of ``lower`` and the last of ``upper`` lie outside the matrix.
    """

    def eliminate(before, row):
        ratio, value = before
        lower, diagonal, upper, rhs = row
        pivot = diagonal - lower * ratio
        after = upper / pivot, (rhs - lower * value) / pivot
        return after, after

    def substitute(x, row):
        ratio, value = row
        x = value - ratio * x
        return x, x

    start = jnp.zeros((), params["rhs"].dtype)
    rows = params["lower"], params["diagonal"], params["upper"], params["rhs"]
    _, eliminated = lax.scan(eliminate, (start, start), rows)
    _, solution = lax.scan(substitute, start, eliminated, reverse=True)
    return jnp.mean(solution**2)


def tridiagonal_torch(torch, params):
    ratio = value = torch.zeros_like(params["rhs"][0])
    eliminated = []
    columns = (params[name].unbind() for name in ("lower", "diagonal", "upper", "rhs"))
    for lower, diagonal, upper, rhs in zip(*columns, strict=True):
        pivot = diagonal - lower * ratio
        ratio, value = upper / pivot, (rhs - lower * value) / pivot
        eliminated.append((ratio, value))
    x, solution = torch.zeros_like(value), []
    for ratio, value in reversed(eliminated):
        x = value - ratio * x
        solution.append(x)
    return torch.mean(torch.stack(solution) ** 2)


def tridiagonal_example(n: int):
    random = Random()
    lower, upper, rhs = (random.normal(n) for _ in range(3))
    return ({"lower": lower, "diagonal": 4 + random.uniform(0, 1, n), "upper": upper, "rhs": rhs},)


def determinant(matrix):
    """By expansion along the first row of a list of rows, and of each minor, without sharing any: n! terms."""
    if len(matrix) == 1:
        return matrix[0][0]
    first, *rest = matrix
    total = 0
    for j, entry in enumerate(first):
        term = entry * determinant([row[:j] + row[j + 1 :] for row in rest])
        total = total - term if j % 2 else total + term
    return total


def determinant_loss(matrix):
    n = len(matrix)
    return determinant([[matrix[i, j] for j in range(n)] for i in range(n)])


def determinant_torch(torch, matrix):
    return determinant([list(row.unbind()) for row in matrix.unbind()])


def determinant_example(n: int):
    return (Random().normal(n, n),)


tridiagonal = Workload(tridiagonal_loss, tridiagonal_example, "rows", (256, 1_024, 4_096, 16_384), 4, tridiagonal_torch,
                       most=(("torch", 1_024),))  # fmt: skip
cofactors = Workload(determinant_loss, determinant_example, "rows", (3, 4, 5), 3, determinant_torch, once=5)
