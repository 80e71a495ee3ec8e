"""Writes ``torch_differences.md``: where PyTorch's derivatives differ from JAX's, and what ``fg.rules.torch`` takes.

python -m docs.generate_torch
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from jax import lax, nn
from jax.scipy import special

import funcgrad as fg
from tests.rules.torch_cases import CASES, REASONS, Case

OUTSIDE = dict(
    jax=jax, jnp=jnp, np=np, lax=lax, nn=nn, special=special, losses=optax.losses, torch=torch, F=torch.nn.functional
)
# Compiling takes most of the time.
quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
PATH = Path(__file__).parent / "torch_differences.md"

INTRODUCTION = """\
# Where PyTorch differs

A derivative at a kink is a choice, and PyTorch and JAX do not always choose alike. This page lists where they do not,
over the functions that `torch`, `torch.nn.functional`, `jax.numpy`, `jax.nn`, `jax.scipy.special` and `optax.losses`
share, at kinks, ties, zeros, infinities and bounds. `fg.grad(f, rules=fg.rules.torch)` takes PyTorch's side, through
`jit`, `scan`, `vmap` and whatever else the function is in.

{count} pairs of functions were compared, at points where both have the same value; of those that are not below, the
derivatives agree. The page is made by the test that checks it, with torch {torch}. In a row of numbers only those that
differ count.

"""


def function(source: str, operands: int) -> Any:
    return eval(f"lambda {', '.join('xyz'[:operands])}: {source}", OUTSIDE)


def with_jax(case: Case, operands: tuple[np.ndarray, ...], *tables: Any, compiled: bool = True):
    """The value, and by each table the cotangents for an output cotangent of ones (1, 2, 3, ... for reductions)."""
    f = function(case.jax, len(operands))

    def run(*xs):
        for table in tables:
            out, pullback = fg.vjp(f, *xs, rules=table)
            yield out, pullback(jnp.asarray(weights(case, out), out.dtype))

    run_all = quick_jit(lambda *xs: list(run(*xs))) if compiled else lambda *xs: list(run(*xs))
    results = run_all(*map(jnp.asarray, operands))
    return np.asarray(results[0][0]), *([np.asarray(ct) for ct in cts] for _, cts in results)


def with_torch(case: Case, operands: tuple[np.ndarray, ...]):
    tensors = [torch.tensor(x, requires_grad=True) for x in operands]
    out = function(case.torch, len(operands))(*tensors)
    if not out.requires_grad:
        return out.numpy(), [np.zeros_like(x) for x in operands]
    weight = torch.tensor(weights(case, out)).to(out.dtype)
    cts = torch.autograd.grad(out, tensors, weight, allow_unused=True)
    pairs = zip(cts, operands, strict=True)
    return out.detach().numpy(), [np.zeros_like(x) if ct is None else ct.numpy() for ct, x in pairs]


def weights(case: Case, out: Any) -> np.ndarray:
    shape = tuple(out.shape)
    return np.ones(shape) if case.elementwise else np.arange(1.0, 1 + np.prod(shape)).reshape(shape)


def same(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.isclose(x, y, rtol=1e-4, atol=1e-5, equal_nan=True)


class Difference(NamedTuple):
    """One operand of a function, at points of one kind: JAX's derivative, PyTorch's, and the table's."""

    case: Case
    point: str
    operand: int
    jax: np.ndarray
    torch: np.ndarray
    table: np.ndarray
    #: Which entries differ.
    where: np.ndarray

    @property
    def key(self) -> tuple[str, str]:
        return self.case.jax, self.case.torch

    @property
    def agrees(self) -> bool:
        return bool(same(self.table, self.torch).all())


def differences(case: Case) -> list[Difference]:
    found = []
    for point, operands in case.points.items():
        try:
            torch_out, theirs = with_torch(case, operands)
        except torch.linalg.LinAlgError:
            continue
        out, default, table = with_jax(case, operands, fg.rules.default, fg.rules.torch)
        valued = same(out, torch_out) & ~np.isnan(out)
        if not case.elementwise and not valued.all():
            continue
        for i, (a, b, c) in enumerate(zip(default, theirs, table, strict=True)):
            if case.elementwise:
                a, b, c = (np.where(valued, x, 0) for x in (a, b, c))
            where = ~same(a, b) | ~same(c, b)
            if where.any():
                found.append(Difference(case, point, i, a, b, c, where))
    return found


def number(x: float) -> str:
    if np.isfinite(x):
        return f"{x + 0:.3g}"
    return "NaN" if np.isnan(x) else "inf" if x > 0 else "-inf"


def numbers(x: np.ndarray) -> str:
    return ", ".join(map(number, x))


def rows(d: Difference) -> list[tuple[str, str, str, str]]:
    """Where, and the three derivatives; the same three at several points are one row."""
    name = "xyz"[d.operand]
    if not d.case.elementwise:
        at = d.case.points[d.point]
        first = np.argmax(d.where.reshape(-1, d.where.shape[-1]).any(1))
        x, *three = (a.reshape(-1, a.shape[-1])[first] for a in (at[d.operand], d.jax, d.torch, d.table))
        return [(f"{d.point}: {name} = {numbers(x)}", *map(numbers, three))]
    operands = d.case.points[d.point]
    grouped: dict[tuple[str, ...], list[str]] = {}
    for i in np.flatnonzero(d.where):
        place = numbers(np.array([x[i] for x in operands]))
        grouped.setdefault(tuple(number(a[i]) for a in (d.jax, d.torch, d.table)), []).append(place)
    names = ", ".join("xyz"[: len(operands)])
    shown = []
    for three, places in grouped.items():
        several = [f"({p})" for p in places] if len(operands) > 1 else places
        more = f" and {len(several) - 4} more" if len(several) > 4 else ""
        subject = f"({names})" if len(operands) > 1 else names
        shown.append((f"{subject} = {', '.join(several[:4])}{more}", *three))
    return shown


def line(d: Difference, row: tuple[str, ...]) -> str:
    functions = [f"`{x}`".replace("|", "\\|") for x in d.key]
    side = "PyTorch's" if row[3] == row[2] else "JAX's" if row[3] == row[1] else row[3]
    operand = f", by {'xyz'[d.operand]}" if len(d.case.points[d.point]) > 1 else ""
    return f"| {functions[0]}<br>{functions[1]} | {row[0]}{operand} | {row[1]} | {row[2]} | {side} |"


HEAD = ["| JAX<br>PyTorch | at | JAX's | PyTorch's | the table takes |", "| --- | --- | --- | --- | --- |"]


def page(found: list[Difference] | None = None) -> str:
    found = [d for case in CASES for d in differences(case)] if found is None else found
    taken = [line(d, row) for d in found if d.key not in REASONS for row in rows(d)]
    left = [line(d, row) for d in found if d.key in REASONS for row in rows(d)]
    whys: dict[str, list[str]] = {}
    for (ours, _), why in REASONS.items():
        whys.setdefault(why, []).append(f"`{ours}`")
    reasons = [f"- {', '.join(dict.fromkeys(names))}: {why}" for why, names in whys.items()]
    parts = [
        INTRODUCTION.format(count=len({(c.jax, c.torch) for c in CASES}), torch=torch.__version__.partition("+")[0]),
        "## What `fg.rules.torch` takes from PyTorch\n\n", "\n".join([*HEAD, *taken]),
        "\n\n## What it does not\n\n", "\n".join([*HEAD, *left]), "\n\n", "\n".join(reasons), "\n",
    ]  # fmt: skip
    return "".join(parts)


def main() -> None:
    PATH.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
