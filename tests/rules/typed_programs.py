"""Random programs of inputs whose types say more than shapes: sharded in explicit mode, or with open dimensions; and of
functions with rules of their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st
from jax import export, lax
from jax.sharding import NamedSharding, reshard
from jax.sharding import PartitionSpec as P

from tests.rules.programs import Program, Ruled, Step
from tests.rules.random_programs import Maker, filled, shapes

DOUBLE = np.dtype(np.float64)


# Shardings in types. A dimension of two or four may be sharded over one axis of a mesh of two by two.


class ShardedMaker(Maker):
    """Draws steps that lay values out anew, too."""

    def own(self, rank):
        return [self.layout, self.product] if rank else []

    def layout(self) -> Step:
        i, shape, bound = self.operand(1)
        spec = spec_of(self.draw, shape)

        def function(x):
            reduced = jax.typeof(x).sharding.spec.reduced
            if reduced - spec.reduced and spec.reduced - reduced:  # XLA aborts on the gradient that JAX has of it.
                x = reshard(x, P(*[None] * x.ndim))
            return reshard(x, spec)

        return Step(f"reshard {spec}", (i,), function, bound)

    def product(self) -> Step:
        """A contraction whose sum over devices is put off."""
        i, shape, bound = self.operand(1)
        axis = self.axis(shape)
        if shape[axis] % 2:
            return self.layout()

        def function(x):
            rows = reshard(jnp.moveaxis(x, axis, 0).reshape(shape[axis], -1), P("x", None))
            parts = jnp.einsum("ij,ik->jk", rows, rows, out_sharding=P(None, None, unreduced={"x"}))
            return reshard(parts + parts, P(None, None))

        return Step(f"unreduced product {axis}", (i,), function, 8 * bound * bound)


def spec_of(draw: Callable, shape: Sequence[int]) -> P:
    """How an array of a shape is laid out, over axes ``x`` and ``y`` of two devices."""
    free = [axis for axis in draw(st.permutations(["x", "y"])) if draw(st.integers(0, 3))]
    dims = [free.pop() if free and n % 2 == 0 and draw(st.integers(0, 2)) else None for n in shape]
    return P(*dims, reduced={axis for axis in free if not draw(st.integers(0, 3))})


@st.composite
def sharded_programs(draw: Callable) -> Program:
    """Programs of inputs that are laid out over the mesh that is set."""
    inputs = draw(st.lists(st.lists(st.sampled_from([1, 2, 4]), max_size=3).map(tuple), min_size=1, max_size=3))
    mesh = jax.sharding.get_abstract_mesh()
    types = [jax.ShapeDtypeStruct(x, DOUBLE, sharding=NamedSharding(mesh, spec_of(draw, x))) for x in inputs]
    return filled(draw, Program(inputs, DOUBLE, types), draw(st.integers(2, 6)), 1, ShardedMaker)


# Open dimensions: all that are of the least size two, or three, or both.

LEAST = {2: "b", 3: "t"}


class OpenMaker(Maker):
    """Draws steps along dimensions of which only the least size is known, too."""

    def own(self, rank):
        return [self.differences, self.steps] if rank else []

    def differences(self) -> Step:
        i, shape, bound = self.operand(1)
        axis = self.axis(shape)
        if shape[axis] < 2:
            return self.steps()

        def function(x):
            n = x.shape[axis]
            return lax.slice_in_dim(x, 1, n, axis=axis) - lax.slice_in_dim(x, 0, n - 1, axis=axis)

        return Step(f"differences {axis}", (i,), function, 2 * bound)

    def steps(self) -> Step:
        i, shape, bound = self.operand(1)
        axis, reverse = self.axis(shape), self.boolean()

        def function(x):
            xs = jnp.moveaxis(x, axis, 0)
            return lax.scan(lambda h, x: (jnp.sin(h + x), h * x), 0 * xs[0], xs, reverse=reverse)[1]

        return Step(f"steps along {axis}", (i,), function, bound)


@st.composite
def open_programs(draw: Callable) -> Program:
    """Programs with at least one dimension of an input that is open."""
    inputs = [draw(st.lists(st.integers(2, 3), min_size=1, max_size=3).map(tuple)), *draw(st.lists(shapes, max_size=2))]
    sizes = sorted({n for shape in inputs for n in shape if n > 1})
    opened = draw(st.lists(st.sampled_from(sizes), min_size=1, unique=True))
    scope = export.SymbolicScope([f"{LEAST[n]} >= {n}" for n in opened])
    types = []
    for shape in inputs:
        text = ", ".join(LEAST[n] if n in opened else str(n) for n in shape)
        types.append(jax.ShapeDtypeStruct(export.symbolic_shape(text, scope=scope) if shape else (), DOUBLE))
    return filled(draw, Program(inputs, DOUBLE, types), draw(st.integers(2, 5)), 1, OpenMaker)


def sized(program: Program, more: int) -> list[tuple[int, ...]]:
    """Shapes of the inputs of an open program, so much larger than the least."""
    return [
        tuple(m if isinstance(n, int) else m + more * m for n, m in zip(kind.shape, shape, strict=True))
        for kind, shape in zip(program.types, program.shapes[: program.count], strict=False)
    ]


# Functions with rules.

formulas: dict[str, tuple[Callable | None, Callable | None]] = {
    "of all": (
        lambda ct, x, y, out: jnp.sum(ct * out) * (jnp.cos(x) + jnp.sum(y)),
        lambda ct, x, y, out: jnp.sum(ct) * (y - jnp.sum(x * x)),
    ),
    "of ct alone": (
        lambda ct, x, y, out: jnp.broadcast_to(jnp.sum(ct), x.shape),
        lambda ct, x, y, out: jnp.broadcast_to(3 * jnp.sum(ct), y.shape),
    ),
    "none for y": (lambda ct, x, y, out: jnp.mean(ct) * x, None),
}


class RuledMaker(Maker):
    """Draws functions with rules, too."""

    left_out = ("jvp",)  # JAX's custom_vjp has none.

    def own(self, rank):
        return [self.ruled] if self.depth else []

    def ruled(self) -> Step:
        (i, x, _), (k, y, _) = self.operand(), self.operand()
        name, as_pair = self.choice(list(formulas)), self.boolean()
        return Step(f"ruled {name} {as_pair}", (i, k), Ruled(self.inside([x, y]), formulas[name], as_pair), 1.0)


@st.composite
def ruled_programs(draw: Callable) -> Program:
    """Programs with at least one function that has a rule."""
    inputs: list[Any] = draw(st.lists(shapes, min_size=1, max_size=3))
    program = Program(inputs, DOUBLE)
    program.append(RuledMaker(draw, program, 1).ruled())
    return filled(draw, program, draw(st.integers(1, 4)), 2, RuledMaker)
