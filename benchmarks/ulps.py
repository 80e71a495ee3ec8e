"""How many ulp derivatives are off: ``fg.rules.default``, ``fg.rules.accurate`` and ``jax.grad`` beside ``mpmath``.

python -m benchmarks.ulps [NAME...] [--magnitudes N] [--write]

Each function is differentiated once and twice, in float32 and float64, at magnitudes from the smallest to the largest
normal number with both signs, between 1e-3 and 1e3 in greater number, and at its special points and their neighbours.
What counts is where the true derivative is a normal number. ``--write`` puts the rows into ``docs/accuracy.md``.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
from jax import lax, nn
from jax.scipy import special, stats

import funcgrad as fg
from benchmarks import references as ref

PAGE = Path(__file__).parents[1] / "docs" / "accuracy.md"
DTYPES = np.float32, np.float64


class Case(NamedTuple):
    name: str
    f: Callable
    reference: Callable
    points: Sequence[float] = ()
    bounds: tuple[float, float] = (-np.inf, np.inf)


def tanh_gelu(x: Any) -> ref.Series:
    u = (x + x**3 * mp.mpf("0.044715")) * mp.sqrt(2 / mp.pi)
    return x * ref.logistic(u * 2)


def mish(x: Any) -> ref.Series:
    e = ref.exp(x)
    return x * (e * (e + 2) / (e * (e + 2) + 2)) if x.all[0] < 0 else x * (1 - 2 / (e * (e + 2) + 2))


def selu(x: Any) -> ref.Series:
    scale, alpha = mp.mpf("1.0507009873554804934193349852946"), mp.mpf("1.6732632423543772848170429916717")
    return x * scale if x.all[0] > 0 else ref.expm1(x) * (scale * alpha)


def elu(x: Any) -> ref.Series:
    return x if x.all[0] > 0 else ref.expm1(x)


def sinc(x: Any) -> ref.Series:
    if abs(x.all[0]) < 1e-30:
        return ref.Series(1, -(mp.pi**2) / 3 * x.all[0], -(mp.pi**2) / 3)
    return ref.sin(x * mp.pi) / (x * mp.pi)


def log_ndtr(x: Any) -> ref.Series:
    return ref.log(ref.normal_cdf(x))


def softplus2(x: Any) -> ref.Series:
    return ref.softplus(x * mp.log(2)) / mp.log(2)


def log_sigmoid(x: Any) -> ref.Series:
    return -ref.softplus(-x)


def gelu(x: Any) -> ref.Series:
    return x * ref.normal_cdf(x)


GAMMA_POINTS = (1.0, 2.0, 1.4616321449683623, -0.5040830082644554, -1.5, 0.5, 16.0)
GAMMA_BOUNDS = (-300.0, 1e30)
UNIT = (-1.0, 1.0)
CASES = [
    # Primitives.
    Case("lax.exp", lax.exp, ref.exp, (0.0,)),
    Case("lax.exp2", lax.exp2, lambda x: ref.power(2, x), (0.0,)),
    Case("lax.expm1", lax.expm1, ref.expm1, (0.0, -40.0)),
    Case("lax.log", lax.log, ref.log, (1.0,)),
    Case("lax.log1p", lax.log1p, ref.log1p, (-1.0, 0.0)),
    Case("lax.logistic", lax.logistic, ref.logistic, (0.0, 40.0)),
    Case("lax.tanh", lax.tanh, ref.tanh, (0.0, 20.0)),
    Case("lax.sin", lax.sin, ref.sin, (0.0, np.pi, np.pi / 2)),
    Case("lax.cos", lax.cos, ref.cos, (0.0, np.pi, np.pi / 2)),
    Case("lax.tan", lax.tan, ref.tan, (0.0, np.pi, np.pi / 2)),
    Case("lax.asin", lax.asin, ref.asin, (-1.0, 0.0, 1.0)),
    Case("lax.acos", lax.acos, lambda x: -ref.asin(x), (-1.0, 0.0, 1.0)),
    Case("lax.atan", lax.atan, ref.atan, (0.0, 1.0)),
    Case("lax.sinh", lax.sinh, ref.sinh, (0.0,)),
    Case("lax.cosh", lax.cosh, ref.cosh, (0.0,)),
    Case("lax.asinh", lax.asinh, ref.asinh, (0.0,)),
    Case("lax.acosh", lax.acosh, ref.acosh, (1.0,)),
    Case("lax.atanh", lax.atanh, ref.atanh, (-1.0, 0.0, 1.0)),
    Case("lax.sqrt", lax.sqrt, ref.sqrt, (1.0,)),
    Case("lax.rsqrt", lax.rsqrt, lambda x: 1 / ref.sqrt(x), (1.0,)),
    Case("lax.cbrt", lax.cbrt, ref.cbrt, (1.0,)),
    Case("lax.square", lax.square, lambda x: x**2),
    Case("lax.integer_pow(x, 3)", lambda x: lax.integer_pow(x, 3), lambda x: x**3),
    Case("lax.integer_pow(x, -7)", lambda x: lax.integer_pow(x, -7), lambda x: x**-7),
    Case("lax.div(1.5, x)", lambda x: lax.div(jnp.full_like(x, 1.5), x), lambda x: 1.5 / x),
    Case("lax.pow(x, 2.5)", lambda x: lax.pow(x, jnp.full_like(x, 2.5)), lambda x: ref.power(x, 2.5), (1.0,)),
    Case("lax.pow(x, -100.5)", lambda x: lax.pow(x, jnp.full_like(x, -100.5)), lambda x: ref.power(x, -100.5), (1.0,)),
    Case("lax.pow(2.5, x)", lambda x: lax.pow(jnp.full_like(x, 2.5), x), lambda x: ref.power(2.5, x), (0.0,)),
    Case("lax.atan2(x, 1.5)", lambda x: lax.atan2(x, jnp.full_like(x, 1.5)), lambda x: ref.atan(x / 1.5), (0.0, 1.5)),
    Case("lax.atan2(1.5, x)", lambda x: lax.atan2(jnp.full_like(x, 1.5), x), lambda x: -ref.atan(x / 1.5), (0.0, 1.5)),
    Case("lax.erf", lax.erf, ref.erf, (0.0,)),
    Case("lax.erfc", lax.erfc, ref.erfc, (0.0,)),
    Case("lax.erf_inv", lax.erf_inv, ref.erf_inv, (-1.0, 0.0, 1.0), UNIT),
    Case("lax.lgamma", lax.lgamma, ref.lgamma, GAMMA_POINTS, GAMMA_BOUNDS),
    Case("lax.digamma", lax.digamma, ref.digamma, GAMMA_POINTS, GAMMA_BOUNDS),
    Case("lax.bessel_i0e", lax.bessel_i0e, lambda x: ref.i0(x) * ref.exp(-ref.absolute(x)), (), (-1e3, 1e3)),
    Case("lax.bessel_i1e", lax.bessel_i1e, lambda x: ref.i1(x) * ref.exp(-ref.absolute(x)), (), (-1e3, 1e3)),
    # jax.numpy.
    Case("jnp.log2", jnp.log2, lambda x: ref.log(x) / mp.log(2), (1.0,)),
    Case("jnp.log10", jnp.log10, lambda x: ref.log(x) / mp.log(10), (1.0,)),
    Case("jnp.reciprocal", jnp.reciprocal, lambda x: 1 / x),
    Case("jnp.sinc", jnp.sinc, sinc, (0.0, 1.0, 1.5), (-1e6, 1e6)),
    Case("jnp.hypot(x, 2)", lambda x: jnp.hypot(x, 2), lambda x: ref.sqrt(x**2 + 4), (0.0, 2.0)),
    Case("jnp.arccosh", jnp.arccosh, ref.acosh, (1.0,)),
    Case("jnp.logaddexp(x, 0)", lambda x: jnp.logaddexp(x, 0), ref.softplus, (0.0,)),
    Case("jnp.logaddexp(x, 0.75)", lambda x: jnp.logaddexp(x, 0.75), lambda x: ref.softplus(x - 0.75), (0.75,)),
    Case("jnp.logaddexp2(x, 0)", lambda x: jnp.logaddexp2(x, 0), softplus2, (0.0,)),
    Case("jnp.power(x, 3)", lambda x: jnp.power(x, 3), lambda x: x**3),
    Case("jnp.deg2rad", jnp.deg2rad, lambda x: x * mp.pi / 180),
    # jax.nn.
    Case("nn.sigmoid", nn.sigmoid, ref.logistic, (0.0, 40.0)),
    Case("nn.softplus", nn.softplus, ref.softplus, (0.0, 40.0)),
    Case("nn.log_sigmoid", nn.log_sigmoid, lambda x: -ref.softplus(-x), (0.0, 40.0)),
    Case("nn.silu", nn.silu, lambda x: x * ref.logistic(x), (0.0, -1.2784645427610738, 2.3993572805154676)),
    Case("nn.mish", nn.mish, mish, (0.0, -1.1924312145154225)),
    Case("nn.gelu", nn.gelu, tanh_gelu, (0.0, -0.7524614220710162)),
    Case("nn.gelu(x, False)", lambda x: nn.gelu(x, False), gelu, (0.0, -0.7517915246935645, 2**0.5)),
    Case("nn.elu", nn.elu, elu, (0.0,)),
    Case("nn.celu", nn.celu, elu, (0.0,)),
    Case("nn.selu", nn.selu, selu, (0.0, -700.0)),
    Case("nn.soft_sign", nn.soft_sign, lambda x: x / (ref.absolute(x) + 1), (0.0, 1.0)),
    Case("nn.squareplus", nn.squareplus, lambda x: (x + ref.sqrt(x**2 + 4)) / 2, (0.0,)),
    Case("nn.softmax([x, 0])[0]", lambda x: nn.softmax(jnp.stack([x, 0 * x]), 0)[0], ref.logistic, (0.0, 40.0)),
    Case("nn.log_softmax([x, 0])[0]", lambda x: nn.log_softmax(jnp.stack([x, 0 * x]), 0)[0], log_sigmoid, (0.0,)),
    # jax.scipy.
    Case("special.expit", special.expit, ref.logistic, (0.0,)),
    Case("special.logit", special.logit, lambda x: ref.log(x) - ref.log(1 - x), (0.0, 0.5, 1.0)),
    Case("special.ndtr", special.ndtr, ref.normal_cdf, (0.0, 1.0, -1.0)),
    Case("special.ndtri", special.ndtri, lambda x: ref.erf_inv(x * 2 - 1) * mp.sqrt(2), (0.5, 1.0), (1e-20, 1.0)),
    Case("special.log_ndtr", special.log_ndtr, log_ndtr, (0.0, -5.0, -10.0, -20.0)),
    Case("stats.norm.logcdf", stats.norm.logcdf, log_ndtr, (0.0,)),
    Case("stats.norm.cdf", stats.norm.cdf, ref.normal_cdf, (0.0,)),
    Case("stats.norm.pdf", stats.norm.pdf, lambda x: ref.exp(-(x**2) / 2) / mp.sqrt(2 * mp.pi), (0.0, 1.0)),
    Case("special.erfcx", special.erfcx, lambda x: ref.exp(x**2) * ref.erfc(x), (0.0,), (-20.0, 1e4)),
    Case("special.entr", special.entr, lambda x: -x * ref.log(x), (1.0, np.exp(-1.0))),
    Case("special.xlogy(2, x)", lambda x: special.xlogy(2.0, x), lambda x: ref.log(x) * 2, (1.0,)),
    Case("special.xlog1py(2, x)", lambda x: special.xlog1py(2.0, x), lambda x: ref.log1p(x) * 2, (0.0,)),
    Case("special.gammaln", special.gammaln, ref.lgamma, GAMMA_POINTS, GAMMA_BOUNDS),
    Case("special.digamma", special.digamma, ref.digamma, GAMMA_POINTS, GAMMA_BOUNDS),
    Case("special.i0", special.i0, ref.i0, (0.0,), (-700.0, 700.0)),
    Case("special.i1", special.i1, ref.i1, (0.0,), (-700.0, 700.0)),
]  # fmt: skip


def inputs(case: Case, dtype: Any, magnitudes: int) -> np.ndarray:
    limits = np.finfo(dtype)
    sizes = np.geomspace(float(limits.tiny) * 1.5, float(limits.max) * 0.99, magnitudes)
    between = np.geomspace(1.1e-3, 1.1e3, max(magnitudes // 2, 8))
    points = [dtype(p) for p in case.points]
    around = [np.nextafter(p, dtype(s * np.inf)) for p in points for s in (-1, 1)]
    around += [dtype(p + s * 2.0**-k) for p in points for k in (8, 16, 22) for s in (-1, 1)]
    x = np.concatenate([sizes, -sizes, between, -between, points, around]).astype(dtype)
    x = np.unique(x[(np.abs(x) >= limits.tiny) | (x == 0)])
    return x[(x >= case.bounds[0]) & (x <= case.bounds[1])]


def ulps(found: float, true: Any, dtype: Any) -> float | None:
    limits = np.finfo(dtype)
    size = abs(true)
    if size < mp.mpf(float(limits.tiny)) or size > mp.mpf(float(limits.max)):
        return None
    if not np.isfinite(found):
        return np.inf
    spacing = mp.ldexp(mp.mpf(1), int(mp.floor(mp.log(size, 2))) - limits.nmant)
    return float(abs(mp.mpf(float(found)) - true) / spacing)


SIDES: dict[str, Callable] = {
    "jax.grad": jax.grad,
    "default": lambda f: fg.grad(f, rules=fg.rules.default),
    "accurate": lambda f: fg.grad(f, rules=fg.rules.accurate),
}


def elementwise(f: Callable, grad: Callable, order: int) -> Callable:
    return f if order == 0 else grad(lambda x: jnp.sum(elementwise(f, grad, order - 1)(x)))


class Row(NamedTuple):
    case: str
    dtype: str
    order: int
    #: For each side the largest error, and where.
    worst: dict[str, tuple[float, float]]


def sweep(
    case: Case, magnitudes: int, sides: Sequence[str] = tuple(SIDES), dtypes: Sequence[Any] = DTYPES
) -> list[Row]:
    rows = []
    for dtype in dtypes:
        x = inputs(case, dtype, magnitudes)
        true = [ref.derivatives(case.reference, float(p)) for p in x]
        worst: tuple[dict, dict] = {}, {}
        for side in sides:
            first, second = (elementwise(case.f, SIDES[side], order) for order in (1, 2))
            try:
                found = jax.jit(lambda x, f=first, g=second: (f(x), g(x)))(x)
            except (NotImplementedError, ValueError, TypeError):
                found = ()
            for i in (0, 1):
                errors = (
                    [
                        (e, float(p))
                        for p, t, v in zip(x, true, np.asarray(found[i]), strict=True)
                        if t is not None and (e := ulps(v, t[i], dtype)) is not None
                    ]
                    if found
                    else [(np.nan, np.nan)]
                )
                worst[i][side] = max(errors, default=(0.0, np.nan))
        rows += [Row(case.name, np.dtype(dtype).name, i + 1, worst[i]) for i in (0, 1)]
    return rows


def shown(error: float) -> str:
    if np.isnan(error):
        return "none"
    return "not finite" if np.isinf(error) else f"{error:.1f}" if error < 100 else f"{error:.0e}"


def line(row: Row) -> str:
    numbers = [shown(row.worst[side][0]) for side in SIDES]
    error, at = row.worst["accurate"]
    where = f"{at:.9g}" if error > 4 else ""
    return f"| `{row.case}` | {row.dtype} | {row.order} | {' | '.join(numbers)} | {where} |"


# What the table costs: the gradient of a sum over an array, compiled.


def count(analysis: Any) -> tuple[float, float]:
    """Operations, each of a transcendental function one, and bytes accessed."""
    return analysis.get("flops", 0.0) + analysis.get("transcendentals", 0.0), analysis["bytes accessed"]


def cost(case: Case, size: int = 20_000, rounds: int = 15) -> list[str]:
    """A row where ``accurate`` compiles to something else than ``default``."""
    x = np.linspace(0.1, 0.9, size, dtype=np.float32)
    compiled = {
        side: jax.jit(elementwise(case.f, SIDES[side], 1)).lower(x).compile() for side in ("default", "accurate")
    }
    numbers = {side: count(c.cost_analysis()) for side, c in compiled.items()}
    if numbers["default"] == numbers["accurate"]:
        return []
    ratios = np.divide(numbers["accurate"], numbers["default"])
    times = []
    for _ in range(rounds):
        taken = {}
        for side, run in compiled.items():
            start = time.perf_counter()
            jax.block_until_ready(run(x))
            taken[side] = time.perf_counter() - start
        times.append(taken["accurate"] / taken["default"])
    return [f"| `{case.name}` | {ratios[0]:.1f} | {ratios[1]:.1f} | {np.median(times):.1f} |"]


def put(page: str, heading: str, lines: Sequence[str]) -> str:
    """The page with these rows in the table below a heading, in the order of the cases."""
    before, _, rest = page.partition(f"<!-- {heading} -->\n")
    table, _, after = rest.partition("<!-- end -->")
    rows = table.splitlines()
    known = {key(row): row for row in [*rows[2:], *lines]}
    names = [f"`{case.name}`" for case in CASES]
    ordered = sorted(known.items(), key=lambda item: (names.index(item[0][0]), item[0]))
    return "\n".join([f"{before}<!-- {heading} -->", *rows[:2], *(row for _, row in ordered), f"<!-- end -->{after}"])


def key(row: str) -> tuple[str, ...]:
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    return (cells[0], cells[1], cells[2]) if cells[1].startswith("float") else (cells[0],)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="functions; all if none is named")
    parser.add_argument("--magnitudes", type=int, default=200)
    parser.add_argument("--costs", action="store_true", help="what accurate costs, instead of what is off")
    parser.add_argument("--write", action="store_true", help=f"put the rows into {PAGE.name}")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    with jax.enable_x64(True):
        for case in CASES:
            if not args.names or any(name in case.name for name in args.names):
                lines = cost(case) if args.costs else [line(row) for row in sweep(case, args.magnitudes)]
                print(*lines, sep="\n", flush=True)
                if args.write:
                    page = PAGE.read_text(encoding="utf-8")
                    PAGE.write_text(put(page, "costs" if args.costs else "errors", lines), encoding="utf-8")


if __name__ == "__main__":
    main()
