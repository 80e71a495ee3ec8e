"""Functions that PyTorch and JAX share, at kinks, ties, zeros, infinities and bounds.

Each is written twice, as a function of x, y, z: what is read in the table of differences is what is run.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

INF = np.inf


class Case(NamedTuple):
    jax: str
    torch: str
    #: The operands, by what is special about them. Entries of one-dimensional operands are points of their own.
    points: dict[str, tuple[np.ndarray, ...]]

    @property
    def elementwise(self) -> bool:
        return "" in self.points


def array(*rows) -> np.ndarray:
    return np.array(rows, np.float32)


LINE = array(-INF, -6, -3, -2, -1, -0.5, 0, 0.5, 1, 2, 3, 6, INF)
PLANE = tuple(a.ravel() for a in np.meshgrid(*[array(-INF, -1, 0, 1, 2, INF)] * 2))
BOUNDS = (
    array(-1, 1, 0, 2, -2, 2, 0, 2, 0),  # x
    array(-1, -1, -1, -1, -1, 2, 1, 1, 2),  # from
    array(1, 1, 1, 1, 1, 2, 1, 1, 1),  # to
)
PREDICTIONS = array(-INF, -2, -1, -0.5, 0, 0.5, 1, 2, INF)
UNIT = array(0, 0.25, 0.5, 0.75, 1)

ROWS = {
    "ties": (array([1, 1, 0], [2, 2, 2], [3, 4, 4]),),
    "zeros": (array([0, 0, 0], [1, 2, 3], [0, 3, 4]),),
    "infinities": (array([0, 1, INF], [INF, 2, INF], [-INF, -INF, 1]),),
}
FINITE = {name: ROWS[name] for name in ("ties", "zeros")}
LOGITS = {
    "ties": (array([0, 0, 0], [1, 2, 3], [2, 2, 1]),),
    "infinities": (array([-INF, 0, 0], [0, 0, -INF], [1, 1, 1]),),
}
REGULAR = {"regular": (array([2, 1], [1, 3]),)}
MATRICES = {**REGULAR, "singular": (array([1, 2], [2, 4]),), "zero": (array([0, 0], [0, 0]),)}
EQUAL_POINTS = {"equal points": (array([1, 2], [1, 2], [3, 4]), array([1, 2], [0, 2]))}


def line(jax: str, torch: str, at: np.ndarray = LINE) -> Case:
    return Case(jax, torch, {"": (at,)})


def plane(jax: str, torch: str, at: tuple[np.ndarray, ...] = PLANE) -> Case:
    return Case(jax, torch, {"": at})


def same(module: str, names: str, at: np.ndarray = LINE) -> list[Case]:
    return [line(f"{module}.{name}(x)", f"torch.{name}(x)", at) for name in names.split()]


def special(name: str) -> Case:
    return line(f"special.{name}(x)", f"torch.special.{name}(x)")


def reduction(jax: str, torch: str, points: dict = ROWS) -> Case:
    return Case(jax, torch, points)


CASES = [
    *same("jnp", "abs sqrt exp exp2 expm1 log log2 log10 log1p sin cos tan asin acos atan sinh cosh tanh asinh acosh"),
    *same("jnp", "atanh floor ceil round trunc sign sinc square reciprocal deg2rad rad2deg i0 nan_to_num"),
    line("lax.rsqrt(x)", "torch.rsqrt(x)"),
    line("jnp.modf(x)[0]", "torch.frac(x)"),
    line("jnp.angle(x)", "torch.angle(x)"),
    *[line(f"x ** {e}", f"x ** {e}") for e in (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, -1.0, 0, 1, 2, 3, -2)],
    *[line(f"jnp.power({b}, x)", f"torch.pow({b}, x)") for b in ("0.0", "1.0", "2.0")],
    plane("jnp.power(x, y)", "torch.pow(x, y)"),
    plane("jnp.arctan2(x, y)", "torch.atan2(x, y)"),
    *[
        plane(f"jnp.{name}(x, y)", f"torch.{name}(x, y)")
        for name in [
            "hypot", "maximum", "minimum", "fmax", "fmin", "logaddexp", "logaddexp2", "fmod", "remainder", "divide",
            "multiply", "copysign",
        ]
    ],
    plane("jnp.where(x > y, x, y)", "torch.where(x > y, x, y)"),
    line("jnp.ldexp(x, 2)", "torch.ldexp(x, torch.tensor(2))"),
    line("jnp.clip(x, -1, 1)", "torch.clamp(x, -1, 1)"),
    line("jnp.clip(x, min=-1)", "torch.clamp(x, min=-1)"),
    line("jnp.clip(x, max=1)", "torch.clamp(x, max=1)"),
    plane("jnp.clip(x, y, z)", "torch.clamp(x, y, z)", BOUNDS),
    plane("lax.clamp(y, x, z)", "torch.clamp(x, y, z)", BOUNDS),
    plane("jnp.abs(lax.complex(x, y))", "torch.abs(torch.complex(x, y))", (array(0, 3, 0, -1), array(0, 4, 1, 0))),
    plane("jnp.angle(lax.complex(x, y))", "torch.angle(torch.complex(x, y))", (array(0, 1, 0, -1), array(0, 0, 1, 0))),
    plane("jnp.sign(lax.complex(x, y)).real", "torch.sgn(torch.complex(x, y)).real", (array(0, 3, 0), array(0, 4, 1))),
    *[
        special(name)
        for name in [
            "erf", "erfc", "erfcx", "erfinv", "gammaln", "digamma", "i0", "i0e", "i1", "i1e", "ndtr", "ndtri",
            "log_ndtr", "expit", "logit", "entr",
        ]
    ],
    line("special.polygamma(1, x)", "torch.polygamma(1, x)"),
    plane("special.xlogy(x, y)", "torch.special.xlogy(x, y)"),
    plane("special.xlog1py(x, y)", "torch.special.xlog1py(x, y)"),
    # Activations.
    *[
        line(f"nn.{jax}(x)", f"F.{torch}(x)")
        for jax, torch in {
            "relu": "relu", "relu6": "relu6", "leaky_relu": "leaky_relu", "elu": "elu", "celu": "celu", "selu": "selu",
            "hard_tanh": "hardtanh", "hard_sigmoid": "hardsigmoid", "hard_silu": "hardswish", "silu": "silu",
            "softplus": "softplus", "soft_sign": "softsign", "log_sigmoid": "logsigmoid", "mish": "mish",
            "sigmoid": "sigmoid", "tanh": "tanh",
        }.items()
    ],
    line("nn.leaky_relu(x, 0.2)", "F.leaky_relu(x, 0.2)"),
    line("nn.elu(x, 0.5)", "F.elu(x, 0.5)"),
    line("nn.celu(x, 0.5)", "F.celu(x, 0.5)"),
    line("nn.gelu(x, approximate=False)", "F.gelu(x)"),
    line("nn.gelu(x, approximate=True)", "F.gelu(x, approximate='tanh')"),
    Case("nn.glu(x)", "F.glu(x)", {"zeros": (array([0, 1, 0, 2]),)}),
    reduction("nn.softmax(x)", "F.softmax(x, 1)", LOGITS),
    reduction("nn.log_softmax(x)", "F.log_softmax(x, 1)", LOGITS),
    reduction("nn.logsumexp(x, axis=1)", "torch.logsumexp(x, 1)", LOGITS),
    # Reductions.
    reduction("jnp.max(x, axis=1)", "torch.max(x, 1).values"),
    reduction("jnp.min(x, axis=1)", "torch.min(x, 1).values"),
    reduction("jnp.max(x, axis=1)", "torch.amax(x, 1)"),
    reduction("jnp.min(x, axis=1)", "torch.amin(x, 1)"),
    reduction("jnp.max(x)", "torch.max(x)"),
    reduction("jnp.min(x)", "torch.min(x)"),
    reduction("jnp.max(x[0])", "torch.max(x[0])", FINITE),
    reduction("jnp.max(x[0])", "torch.max(x[0], 0).values", FINITE),
    reduction("jnp.ptp(x, 1)", "x.amax(1) - x.amin(1)"),
    reduction("jnp.median(x)", "torch.median(x)", FINITE),
    reduction("jnp.median(x, axis=1)", "torch.median(x, 1).values", FINITE),
    reduction("jnp.nanmedian(x)", "torch.nanmedian(x)", FINITE),
    reduction("jnp.quantile(x, 0.3, axis=1)", "torch.quantile(x, 0.3, dim=1)", FINITE),
    reduction("jnp.std(x, axis=1)", "torch.std(x, 1, correction=0)"),
    reduction("jnp.std(x, axis=1, ddof=1)", "torch.std(x, 1)"),
    reduction("jnp.std(x[1])", "torch.std(x[1], correction=0)", FINITE),
    reduction("jnp.var(x, axis=1)", "torch.var(x, 1, correction=0)"),
    reduction("jnp.prod(x, axis=1)", "torch.prod(x, 1)"),
    reduction("jnp.cumprod(x, axis=1)", "torch.cumprod(x, 1)"),
    reduction("jnp.cumsum(x, axis=1)", "torch.cumsum(x, 1)"),
    reduction("lax.cummax(x, axis=1)", "torch.cummax(x, 1).values"),
    reduction("lax.cummin(x, axis=1)", "torch.cummin(x, 1).values"),
    reduction("lax.cumlogsumexp(x, axis=1)", "torch.logcumsumexp(x, 1)"),
    reduction("jnp.sort(x, axis=1)", "torch.sort(x, dim=1, stable=True).values"),
    reduction("lax.top_k(x, 2)[0]", "torch.topk(x, 2).values"),
    reduction("jnp.nansum(x, axis=1)", "torch.nansum(x, 1)"),
    reduction("jnp.nanmean(x, axis=1)", "torch.nanmean(x, 1)"),
    reduction("jnp.diff(x)", "torch.diff(x)"),
    reduction("jnp.cov(x)", "torch.cov(x)", FINITE),
    reduction("nn.standardize(x, epsilon=1e-2)", "F.layer_norm(x, (3,), eps=1e-2)", FINITE),
    reduction("jax.ops.segment_max(x[0], np.array([0, 0, 1]), 2)", "x.new_full((2,), -torch.inf).scatter_reduce(0, torch.tensor([0, 0, 1]), x[0], 'amax')", FINITE),  # noqa: E501
    reduction("lax.reduce_window(x, -np.inf, lax.max, (2, 2), (1, 1), 'VALID')", "F.max_pool2d(x[None], 2, 1)[0]"),
    # Norms and distances.
    *[
        reduction(f"jnp.linalg.norm(x, {o}, axis=1)", f"torch.linalg.vector_norm(x, {o}, dim=1)", FINITE)
        for o in ("1", "2", "3", "0.5", "jnp.inf", "-jnp.inf", "0")
    ],
    reduction("jnp.linalg.norm(x)", "torch.linalg.norm(x)", {"zero": (array([0, 0], [0, 0]),)}),
    reduction("jnp.linalg.vector_norm(x, axis=1)", "torch.linalg.vector_norm(x, dim=1)", FINITE),
    reduction(
        "x / jnp.maximum(jnp.linalg.norm(x, axis=1, keepdims=True), 1e-12)", "F.normalize(x, dim=1)", FINITE,
    ),
    Case("jnp.linalg.norm(x[:, None] - y, axis=-1)", "torch.cdist(x, y)", EQUAL_POINTS),
    Case("jnp.linalg.norm(x[:, None] - y, 1, axis=-1)", "torch.cdist(x, y, p=1.0)", EQUAL_POINTS),
    Case("jnp.linalg.norm(x[:, None] - y, jnp.inf, axis=-1)", "torch.cdist(x, y, p=torch.inf)", EQUAL_POINTS),
    Case("jnp.linalg.norm(x[:1] - x[1:], axis=-1)", "torch.pdist(x)[:2]", EQUAL_POINTS),
    # Matrices.
    reduction("jnp.linalg.det(x)", "torch.linalg.det(x)", MATRICES),
    reduction("jnp.linalg.slogdet(x)[1]", "torch.linalg.slogdet(x)[1]", REGULAR),
    reduction("jnp.linalg.svdvals(x)", "torch.linalg.svdvals(x)", REGULAR),
    reduction("jnp.linalg.norm(x, 2)", "torch.linalg.norm(x, 2)", REGULAR),
    reduction("jnp.linalg.norm(x, 'nuc')", "torch.linalg.norm(x, 'nuc')", REGULAR),
    reduction("jnp.linalg.norm(x, jnp.inf)", "torch.linalg.norm(x, torch.inf)", MATRICES),
    reduction("jnp.linalg.eigvalsh(x)", "torch.linalg.eigvalsh(x)", REGULAR),
    reduction("jnp.linalg.pinv(x)", "torch.linalg.pinv(x)", REGULAR),
    # Losses, with targets of zeros (or the first class).
    line("losses.squared_error(x, 0 * x)", "F.mse_loss(x, 0 * x, reduction='none')", array(-2, -1, 0, 1, 2)),
    line("jnp.abs(x)", "F.l1_loss(x, torch.zeros_like(x), reduction='none')", PREDICTIONS),
    line("losses.huber_loss(x)", "F.huber_loss(x, torch.zeros_like(x), reduction='none')", PREDICTIONS),
    line("losses.huber_loss(x)", "F.smooth_l1_loss(x, torch.zeros_like(x), reduction='none')", PREDICTIONS),
    *[
        line(
            f"losses.sigmoid_binary_cross_entropy(x, jnp.full_like(x, {t}))",
            f"F.binary_cross_entropy_with_logits(x, torch.full_like(x, {t}), reduction='none')",
            PREDICTIONS,
        )
        for t in (0, 1)
    ],
    line(
        "losses.hinge_loss(x, -jnp.ones_like(x))",
        "F.hinge_embedding_loss(-x, -torch.ones_like(x), reduction='none')", PREDICTIONS,
    ),
    line("losses.hinge_loss(x, jnp.ones_like(x))", "torch.clamp(1 - x, min=0)", PREDICTIONS),
    line("losses.perceptron_loss(x, jnp.ones_like(x))", "torch.relu(-x)", PREDICTIONS),
    reduction(
        "losses.softmax_cross_entropy_with_integer_labels(x, np.array([1, 1, 1]))",
        "F.cross_entropy(x, torch.tensor([1, 1, 1]), reduction='none')", LOGITS,
    ),
    reduction("losses.softmax_cross_entropy(x, np.eye(3)[1])", "F.cross_entropy(x, torch.eye(3)[[1, 1, 1]], reduction='none')", LOGITS),  # noqa: E501
    reduction("losses.kl_divergence(np.log([[.2, .3, .5]]), x)", "F.kl_div(torch.tensor([[.2, .3, .5]]).log(), x, reduction='none').sum(1)", {"zeros": (array([0, 0.5, 0.5], [1, 0, 0]),)}),  # noqa: E501
    reduction("losses.kl_divergence(x, np.full((2, 3), 1 / 3))", "F.kl_div(x, torch.full((2, 3), 1 / 3), reduction='none').sum(1)", {"zeros": (array([0, -1, -2], [-3, 0, 0]),)}),  # noqa: E501
    Case("losses.cosine_similarity(x, y)", "F.cosine_similarity(x, y)", {"zeros": (array([0, 0], [1, 2]), array([1, 1], [2, 1]))}),  # noqa: E501
]  # fmt: skip

#: Where the table does not take PyTorch's side, and why.
ONE_AXIS = (
    "JAX has one operation for the extremum over one axis, where PyTorch has `torch.max(x, dim)`, which takes the first"
    " of equal entries and is the table's side, and `torch.amax` and `torch.max(x)`, which share."
)
CUSTOM = (
    "JAX gives the function a derivative of its own, by `custom_jvp`, and does not jit it, so it is no key of a table."
)
NOT_JITTED = "is a plain function, so its rule would have to be that of the operations in it."
REASONS = {
    ("x ** 1.5", "x ** 1.5"): "PyTorch's NaN is that of the root of -inf, as which it computes the slope.",
    ("jnp.logaddexp(x, y)", "torch.logaddexp(x, y)"): CUSTOM,
    ("jnp.logaddexp2(x, y)", "torch.logaddexp2(x, y)"): CUSTOM,
    ("special.xlogy(x, y)", "torch.special.xlogy(x, y)"): CUSTOM,
    ("special.xlog1py(x, y)", "torch.special.xlog1py(x, y)"): CUSTOM,
    ("special.ndtri(x)", "torch.special.ndtri(x)"): f"`ndtri` {NOT_JITTED}",
    ("jnp.max(x, axis=1)", "torch.amax(x, 1)"): ONE_AXIS,
    ("jnp.min(x, axis=1)", "torch.amin(x, 1)"): ONE_AXIS,
    ("jnp.max(x[0])", "torch.max(x[0])"): ONE_AXIS,
    ("jnp.ptp(x, 1)", "x.amax(1) - x.amin(1)"): ONE_AXIS,
    ("lax.cumlogsumexp(x, axis=1)", "torch.logcumsumexp(x, 1)"): "JAX's is finite, and the limit.",
    (
        "jnp.linalg.vector_norm(x, axis=1)",
        "torch.linalg.vector_norm(x, dim=1)",
    ): f"`vector_norm` {NOT_JITTED} The root in it is `jnp.sqrt`'s, for which PyTorch has an infinite slope at 0 too. "
    "`jnp.linalg.norm` is the same function and jitted: the table has PyTorch's side for it.",
    (
        "jnp.linalg.norm(x[:, None] - y, jnp.inf, axis=-1)",
        "torch.cdist(x, y, p=torch.inf)",
    ): "Of several largest differences `torch.cdist` takes one, `torch.linalg.vector_norm` and the table share.",
    (
        "jnp.linalg.det(x)",
        "torch.linalg.det(x)",
    ): "A determinant has a derivative at singular matrices as at others. JAX's is right, PyTorch's is not.",
    (
        "losses.hinge_loss(x, -jnp.ones_like(x))",
        "F.hinge_embedding_loss(-x, -torch.ones_like(x), reduction='none')",
    ): "`optax` has it with `jnp.maximum`, where equal operands get half in PyTorch too; PyTorch has it with `clamp`.",
    ("losses.hinge_loss(x, jnp.ones_like(x))", "torch.clamp(1 - x, min=0)"): "As above.",
    ("losses.perceptron_loss(x, jnp.ones_like(x))", "torch.relu(-x)"): "As above, with `relu`.",
}
