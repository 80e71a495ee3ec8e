"""``make bench``: funcgrad beside ``jax.value_and_grad``, the ratios of one run."""

from __future__ import annotations

import platform

import jax
import jax.numpy as jnp
from rich.console import Console
from rich.table import Table

import funcgrad as fg
from benchmarks import layers, transformer
from benchmarks.measure import Comparison, Compiled, compare, trace


def main() -> None:
    console = Console()
    device = jax.devices()[0]
    console.print(
        f"jax {jax.__version__}, Python {platform.python_version()}, {device.device_kind} ({device.platform})"
    )
    params, tokens = transformer.example()
    args = (params, tokens)
    ours, theirs = fg.value_and_grad(transformer.loss), jax.value_and_grad(transformer.loss)
    console.print(
        f"12-layer transformer: largest relative gradient difference {difference(ours(*args), theirs(*args)):.1e}"
    )

    table = Table("transformer", "jax.value_and_grad", "funcgrad", "ratio", "quartiles")
    compiled, reference = Compiled.of(ours, args), Compiled.of(theirs, args)
    rows = {
        "tracing": compare(trace(theirs, args), trace(ours, args), 15),
        "an eager call": compare(lambda: theirs(*args), lambda: ours(*args), 15),
        "a compiled step": compare(reference.call, compiled.call, 101),
    }
    for name, measured in rows.items():
        table.add_row(name, *cells(measured))
    flops = compiled.flops / reference.flops
    table.add_row("flops", f"{reference.flops:.4g}", f"{compiled.flops:.4g}", f"{flops:.4f}", "")
    memory = compiled.temporary / reference.temporary
    table.add_row("temporary bytes", f"{reference.temporary:,}", f"{compiled.temporary:,}", f"{memory:.3f}", "")
    console.print(table)

    table = Table("tracing equal layers, one jit", "12 layers", "48 layers", "ratio", "quartiles")
    for name, gradient in (("funcgrad", fg.value_and_grad), ("jax.value_and_grad", jax.value_and_grad)):
        table.add_row(name, *cells(compare(traced(gradient, 12), traced(gradient, 48), 15)))
    console.print(table)


def cells(c: Comparison) -> tuple[str, str, str, str]:
    return f"{1e3 * c.reference:.1f} ms", f"{1e3 * c.ours:.1f} ms", f"{c.ratio:.3f}", f"{c.low:.3f} .. {c.high:.3f}"


def traced(gradient, count: int):
    """Trace the gradient of ``count`` equal layers, the layer itself included."""
    args = layers.example(count)
    return lambda: trace(gradient(layers.loss()), args)()


def difference(ours, theirs) -> float:
    """The largest difference of two pytrees of arrays, relative to the largest entry of the leaf."""
    pairs = zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True)
    return max(float(jnp.max(jnp.abs(a - b)) / (jnp.max(jnp.abs(b)) + 1e-30)) for a, b in pairs)


if __name__ == "__main__":
    main()
