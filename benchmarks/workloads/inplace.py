"""Dynamic programming: tables filled in place, each entry from earlier ones.

The carried array is updated at one place per step, so a step's work does not depend on its length; that of its gradient
should not either. PyTorch's autograd forbids overwriting what a backward pass needs, so its users keep lists of
scalars and stack them, which is what is measured here.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from benchmarks.workloads.workload import Random, Workload

BLOCK, STATES = 8, 16


def set_loss(x):
    """One read and one write per step."""

    def step(i, y):
        return y.at[i].set(jnp.tanh(y[i - 1]) + x[i])

    return jnp.mean(lax.fori_loop(1, len(x), step, jnp.zeros_like(x)) ** 2)


def set_torch(torch, x):
    y = [torch.zeros_like(x[0])]
    for value in x.unbind()[1:]:
        y.append(torch.tanh(y[-1]) + value)
    return torch.mean(torch.stack(y) ** 2)


def reads_loss(scores):
    """The log of the sum over all ways to cut a sequence into pieces of length 1 to 3 of the product of their weights.

    ``scores[i, k]`` is the log weight of the piece of length k + 1 that ends at i.
    """

    def step(i, y):
        shorter = jnp.logaddexp(y[i - 1] + scores[i, 0], y[i - 2] + scores[i, 1])
        return y.at[i].set(jnp.logaddexp(shorter, y[i - 3] + scores[i, 2]))

    start = jnp.zeros(len(scores), scores.dtype)
    return lax.fori_loop(3, len(scores), step, start)[-1] / len(scores)


def reads_torch(torch, scores):
    y = [torch.zeros_like(scores[0, 0])] * 3
    for a, b, c in (row.unbind() for row in scores.unbind()[3:]):
        y.append(torch.logaddexp(torch.logaddexp(y[-1] + a, y[-2] + b), y[-3] + c))
    return y[-1] / len(scores)


def add_loss(weights, hops):
    """Weights of paths, pushed forward: from each place one step ahead, and ``hops`` ahead."""

    def step(i, y):
        y = y.at[i + 1].add(weights[i, 0] * y[i])
        return y.at[i + hops[i]].add(weights[i, 1] * y[i])

    start = jnp.zeros(len(weights) + BLOCK, weights.dtype).at[0].set(1)
    return jnp.mean(lax.fori_loop(0, len(weights), step, start) ** 2)


def add_torch(torch, weights, hops):
    y = [torch.zeros_like(weights[0, 0])] * (len(weights) + BLOCK)
    y[0] = torch.ones_like(y[0])
    for i, ((a, b), hop) in enumerate(zip((row.unbind() for row in weights.unbind()), hops.tolist(), strict=True)):
        y[i + 1] = y[i + 1] + a * y[i]
        y[i + hop] = y[i + hop] + b * y[i]
    return torch.mean(torch.stack(y) ** 2)


def slices_loss(params, x):
    """Blocks of an array, each from the one before: ``dynamic_slice`` and ``dynamic_update_slice``."""

    def step(i, y):
        before = lax.dynamic_slice(y, (BLOCK * (i - 1),), (BLOCK,))
        block = jnp.tanh(params @ before) + lax.dynamic_slice(x, (BLOCK * i,), (BLOCK,))
        return lax.dynamic_update_slice(y, block, (BLOCK * i,))

    return jnp.mean(lax.fori_loop(1, len(x) // BLOCK, step, jnp.zeros_like(x)) ** 2)


def slices_torch(torch, params, x):
    y = [torch.zeros_like(x[:BLOCK])]
    for block in x.view(-1, BLOCK).unbind()[1:]:
        y.append(torch.tanh(params @ y[-1]) + block)
    return torch.mean(torch.cat(y) ** 2)


def rows_loss(params, emissions):
    """The forward algorithm of a hidden Markov model: a table of log probabilities (length, states), row by row."""

    def step(i, y):
        reached = jax.nn.logsumexp(y[i - 1][:, None] + params["transition"], axis=0)
        return y.at[i].set(reached + emissions[i])

    table = jnp.zeros_like(emissions).at[0].set(params["start"] + emissions[0])
    table = lax.fori_loop(1, len(emissions), step, table)
    return jax.nn.logsumexp(table[-1]) / len(emissions)


def rows_torch(torch, params, emissions):
    first, *rest = emissions.unbind()
    row = params["start"] + first
    for emission in rest:
        row = torch.logsumexp(row[:, None] + params["transition"], 0) + emission
    return torch.logsumexp(row, 0) / len(emissions)


def nested_loss(scores):
    """The soft alignment of two sequences: a table (n + 1, n + 1) filled entry by entry in two nested loops."""
    n = len(scores)

    def row(i, table):
        def entry(j, table):
            best = jnp.logaddexp(jnp.logaddexp(table[i - 1, j], table[i, j - 1]), table[i - 1, j - 1])
            return table.at[i, j].set(best + scores[i - 1, j - 1])

        return lax.fori_loop(1, n + 1, entry, table)

    table = jnp.zeros((n + 1, n + 1), scores.dtype)
    return lax.fori_loop(1, n + 1, row, table)[-1, -1] / n


def nested_torch(torch, scores):
    before = [torch.zeros_like(scores[0, 0])] * (len(scores) + 1)
    for row in scores.unbind():
        current = before[:1]
        for j, score in enumerate(row.unbind()):
            best = torch.logaddexp(torch.logaddexp(before[j + 1], current[j]), before[j])
            current.append(best + score)
        before = [torch.zeros_like(before[0]), *current[1:]]
    return before[-1] / len(scores)


def rows_example(length: int):
    random = Random()
    params = {"transition": random.normal(STATES, STATES) - 3, "start": random.normal(STATES)}
    return params, random.normal(length, STATES)


def add_example(length: int):
    random = Random()
    return random.uniform(0, 0.9, length, 2) * jnp.float32([0.6, 0.4]), 2 + random.integers(BLOCK - 1, length)


def slices_example(length: int):
    random = Random()
    return random.matrix(BLOCK, BLOCK), random.normal(length * BLOCK)


LENGTHS = (1_024, 4_096, 16_384, 65_536)
#: ``jax.grad`` is quadratic here, and at the largest size a single step would take seconds.
STANDS = (("jax", 16_384), ("torch", 1_024))

table_set = Workload(set_loss, lambda n: (Random().normal(n),), "entries", LENGTHS, 8, set_torch, most=STANDS)
table_reads = Workload(reads_loss, lambda n: (Random().normal(n, 3),), "entries", LENGTHS, 8, reads_torch, most=STANDS)
table_add = Workload(add_loss, add_example, "entries", LENGTHS, 8, add_torch, most=STANDS)
table_slices = Workload(slices_loss, slices_example, "blocks", (256, 1_024, 4_096, 16_384), 4, slices_torch,
                        most=(("jax", 4_096), ("torch", 1_024)))  # fmt: skip
table_rows = Workload(rows_loss, rows_example, "rows", (256, 1_024, 4_096, 16_384), 4, rows_torch,
                      most=(("jax", 4_096), ("torch", 1_024)))  # fmt: skip
table_nested = Workload(nested_loss, lambda n: (Random().normal(n, n),), "rows", (16, 32, 64, 128), 4, nested_torch,
                        most=(("torch", 32),))  # fmt: skip
