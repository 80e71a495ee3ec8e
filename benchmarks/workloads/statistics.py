"""Four problems of the GradBench suite: a Gaussian mixture, k-means, logistic regression, log-sum-exp.

Written from the definitions published with the suite (https://github.com/gradbench/gradbench) and, for the mixture, in
Srajer, Kukelova and Fitzgibbon, "A benchmark of selected algorithmic differentiation tools on some problems in computer
vision and machine learning" (2018, arXiv:1807.10129).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from benchmarks.workloads.workload import Random, Workload

DIMENSIONS, COMPONENTS = 10, 8
GAMMA, FREEDOM = 1.0, 0  # of the Wishart prior


def mixture_loss(params, x):
    """Minus the log posterior of a Gaussian mixture with full covariances, without its constants, per point.

    The inverse covariance of component k is ``Q' Q``, with ``Q`` lower triangular, the logarithms of its diagonal in
    ``params["diagonals"][k]`` and what lies below in ``params["triangles"][k]``.
    """
    points, dimensions = x.shape
    diagonals, triangles = params["diagonals"], params["triangles"]
    rows, columns = jnp.tril_indices(dimensions, -1)
    factors = jnp.zeros((len(diagonals), dimensions, dimensions), x.dtype).at[:, rows, columns].set(triangles)
    centered = x[:, None, :] - params["means"]
    whitened = jnp.exp(diagonals) * centered + jnp.einsum("kij,nkj->nki", factors, centered)
    log_determinants = jnp.sum(diagonals, axis=1)
    terms = params["alphas"] + log_determinants - 0.5 * jnp.sum(whitened**2, axis=2)
    likelihood = jnp.sum(jax.nn.logsumexp(terms, axis=1)) - points * jax.nn.logsumexp(params["alphas"])
    squares = jnp.sum(jnp.exp(2 * diagonals)) + jnp.sum(triangles**2)
    prior = -0.5 * GAMMA**2 * squares + FREEDOM * jnp.sum(log_determinants)
    return -(likelihood + prior) / points


def mixture_torch(torch, params, x):
    points, dimensions = x.shape
    diagonals, triangles = params["diagonals"], params["triangles"]
    rows, columns = torch.tril_indices(dimensions, dimensions, -1)
    factors = x.new_zeros(len(diagonals), dimensions, dimensions)
    factors[:, rows, columns] = triangles
    centered = x[:, None, :] - params["means"]
    whitened = torch.exp(diagonals) * centered + torch.einsum("kij,nkj->nki", factors, centered)
    log_determinants = torch.sum(diagonals, 1)
    terms = params["alphas"] + log_determinants - 0.5 * torch.sum(whitened**2, 2)
    likelihood = torch.sum(torch.logsumexp(terms, 1)) - points * torch.logsumexp(params["alphas"], 0)
    squares = torch.sum(torch.exp(2 * diagonals)) + torch.sum(triangles**2)
    prior = -0.5 * GAMMA**2 * squares + FREEDOM * torch.sum(log_determinants)
    return -(likelihood + prior) / points


def mixture_example(points: int):
    random = Random()
    params = {
        "alphas": random.normal(COMPONENTS),
        "means": random.normal(COMPONENTS, DIMENSIONS),
        "diagonals": random.normal(COMPONENTS, DIMENSIONS, scale=0.3),
        "triangles": random.normal(COMPONENTS, DIMENSIONS * (DIMENSIONS - 1) // 2, scale=0.3),
    }
    return params, random.normal(points, DIMENSIONS)


def kmeans_loss(centroids, points):
    """The sum over points of the squared distance to the closest centroid."""
    distances = jnp.sum((points[:, None, :] - centroids) ** 2, axis=2)
    return jnp.sum(jnp.min(distances, axis=1))


def kmeans_torch(torch, centroids, points):
    distances = torch.sum((points[:, None, :] - centroids) ** 2, 2)
    return torch.sum(torch.min(distances, 1).values)


def kmeans_example(points: int):
    random = Random()
    return random.normal(COMPONENTS, DIMENSIONS), random.normal(points, DIMENSIONS)


def logistic_loss(weights, features, labels):
    """The mean of log(1 + exp(-margin)) and a small ridge; labels are -1 or 1."""
    margins = labels * (features @ weights)
    return jnp.mean(jnp.logaddexp(-margins, 0)) + 1e-3 * jnp.sum(weights**2)


def logistic_torch(torch, weights, features, labels):
    margins = labels * (features @ weights)
    return torch.mean(torch.nn.functional.softplus(-margins)) + 1e-3 * torch.sum(weights**2)


def logistic_example(points: int, features: int = 64):
    random = Random()
    x, weights = random.normal(points, features), random.normal(features)
    return weights / 8, x, jnp.sign(x @ weights + random.normal(points))


def lse_loss(x):
    """The logarithm of the sum of exponentials from a maximum, a sum and a logarithm."""
    largest = jnp.max(x)
    return largest + jnp.log(jnp.sum(jnp.exp(x - largest)))


def lse_torch(torch, x):
    largest = torch.max(x)
    return largest + torch.log(torch.sum(torch.exp(x - largest)))


POINTS = (1_000, 10_000, 100_000)
mixture = Workload(mixture_loss, mixture_example, "points", (100, 1_000, 10_000), 5, mixture_torch)
kmeans = Workload(kmeans_loss, kmeans_example, "points", POINTS, 12, kmeans_torch)
logistic = Workload(logistic_loss, logistic_example, "points", POINTS, 12, logistic_torch)
log_sum_exp = Workload(lse_loss, lambda n: (Random().normal(n),), "entries", (10_000, 100_000, 1_000_000), 6, lse_torch)
