"""Random programs made of the primitives that have rules, for hypothesis."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st
from jax import lax

from tests.rules.programs import Nested, Program, Step, bounded, fitted, of_bounded

#: Larger entries and larger arrays are brought back to where operations are well-behaved, and cheap.
LARGE_ENTRY, LARGE_SIZE = 6.0, 48


def wide(x):
    """``x`` in a type of more digits, if there is one."""
    return x.astype(np.float32 if x.dtype == jnp.bfloat16 else np.float64)


# Elementwise operations, each with a bound for its values, given one for its operand's.

real_functions: dict[str, tuple[Callable, Callable[[float], float]]] = {
    **{f.__name__: (f, lambda b: 1.6) for f in (lax.sin, lax.cos, lax.tanh, lax.logistic, lax.atan, lax.erf, lax.erfc)},
    **{f.__name__: (f, lambda b: b) for f in (lax.neg, lax.abs, lax.asinh, lax.bessel_i0e, lax.bessel_i1e)},
    **{f.__name__: (of_bounded(f), lambda b: 3.0) for f in (lax.exp, lax.exp2, lax.expm1, lax.sinh, lax.cosh, lax.tan)},
    **{f.__name__: (of_bounded(f, scale=0.9), lambda b: 3.0) for f in (lax.asin, lax.acos, lax.atanh, lax.erf_inv)},
    **{
        f.__name__: (of_bounded(f, shift=2.5), lambda b: 2.0)
        for f in (lax.sqrt, lax.rsqrt, lax.cbrt, lax.log, lax.log1p, lax.acosh, lax.lgamma, lax.digamma)
    },
    **{
        f"integer_pow {n}": (
            of_bounded(lambda x, n=n: lax.integer_pow(x, n), shift=2.0 if n < 0 else 0.0),
            lambda b: 1.0,
        )
        for n in (-2, -1, 0, 1, 2, 3)
    },
    "square": (lax.square, lambda b: b * b),
    "x * sign": (lambda x: x * lax.sign(x), lambda b: b),
    "x - floor": (lambda x: x - lax.floor(x), lambda b: 1.0),
    "x - round": (lambda x: x - lax.round(x), lambda b: 1.0),
    "through complex": (lambda x: lax.abs(lax.exp(lax.complex(*[wide(x)] * 2))).astype(x.dtype), math.exp),
    "through a wider type": (lambda x: lax.sin(wide(x)).astype(x.dtype), lambda b: 1.0),
}

complex_functions: dict[str, tuple[Callable, Callable[[float], float]]] = {
    **{f.__name__: (f, lambda b: b) for f in (lax.neg, lax.conj)},
    **{f.__name__: (of_bounded(f), lambda b: 3.0) for f in (lax.sin, lax.cos, lax.exp, lax.expm1, lax.sinh, lax.cosh)},
    **{f.__name__: (of_bounded(f, scale=0.9), lambda b: 3.0) for f in (lax.tan, lax.tanh, lax.atanh, lax.asin)},
    **{f.__name__: (of_bounded(f, shift=2.5), lambda b: 2.0) for f in (lax.sqrt, lax.rsqrt, lax.log, lax.log1p)},
    "square": (lax.square, lambda b: b * b),
    "integer_pow 3": (of_bounded(lambda x: lax.integer_pow(x, 3)), lambda b: 1.0),
    "parts exchanged": (lambda x: lax.complex(lax.imag(x), lax.real(x)), lambda b: b),
    "modulus": (lambda x: lax.complex(lax.abs(x), lax.imag(x)), lambda b: 2 * b),
}

pairs: dict[str, tuple[Callable, Callable[[float, float], float]]] = {
    "add": (lax.add, lambda a, b: a + b),
    "sub": (lax.sub, lambda a, b: a + b),
    "mul": (lax.mul, lambda a, b: a * b),
    "div": (lambda x, y: lax.div(x, 2 + bounded(y)), lambda a, b: a),
}

real_pairs: dict[str, tuple[Callable, Callable[[float, float], float]]] = {
    **pairs,
    "max": (lax.max, max),
    "min": (lax.min, max),
    "atan2": (lambda x, y: lax.atan2(x, 2 + bounded(y)), lambda a, b: 1.6),
    "pow": (lambda x, y: lax.pow(2 + bounded(x), y), lambda a, b: 3.0**b),
    "rem": (lambda x, y: lax.rem(x, 2 + bounded(y)), lambda a, b: 3.0),
    "where": (lambda x, y: lax.select(lax.gt(x, y), x, y * y), lambda a, b: max(a, b * b)),
    # JAX has no derivative of a batch between limits that are no batch. At a limit the derivative is 0.
    "clamp": (lambda x, y: lax.clamp(y - 0.7 + 0 * x, x, y + 0.9 + 0 * x), lambda a, b: b + 1),
}


targets: dict[str, Callable] = {
    "flat": lambda shape: (math.prod(shape),),
    "to a row": lambda shape: (1, math.prod(shape)),
    "to a column": lambda shape: (math.prod(shape), 1),
    "with one more": lambda shape: (*shape, 1),
    "reversed": lambda shape: shape[::-1],
}


class Maker:
    """Draws the steps of a program."""

    #: The transformations that programs of one kind have not.
    left_out: tuple[str, ...] = ()

    def __init__(self, draw: Callable, program: Program, depth: int):
        self.draw, self.program, self.depth = draw, program, depth

    # What is drawn.

    def integer(self, low: int, high: int) -> int:
        return self.draw(st.integers(low, high))

    def boolean(self) -> bool:
        return self.draw(st.booleans())

    def choice(self, options: Sequence) -> Any:
        """One of the options: of a large range hypothesis draws the ends less often than of a short list."""
        return options[self.integer(0, 2**20) % len(options)]

    def axis(self, shape: Sequence[int]) -> int:
        return self.integer(0, len(shape) - 1)

    def order(self, n: int) -> tuple[int, ...]:
        return tuple(self.draw(st.permutations(range(n))))

    def operand(self, rank: int = 0) -> tuple[int, tuple[int, ...], float]:
        """An earlier value of at least that rank: its number, its shape, its bound."""
        i = self.choice([i for i, shape in enumerate(self.program.shapes) if len(shape) >= rank])
        return i, self.program.shapes[i], self.program.bounds[i]

    def step(self) -> Step:
        rank = 1 if any(self.program.shapes) else 0
        makers = [self.elementwise, self.pair] * 4 + [self.reshape, self.broadcast]
        if rank:
            makers += [
                self.reduce, self.accumulate, self.contract, self.convolve, self.window, self.rearrange, self.slice,
                self.pad, self.concatenate, self.take, self.put, self.dynamic_slice, self.dynamic_update,
            ]  # fmt: skip
            makers += [] if self.program.is_complex else [self.sort, self.rank]
            makers += [self.factorize] if self.program.dtype in (np.float32, np.float64) else []
        makers += self.own(rank) * 3
        if self.depth:
            makers += [self.nested, *([self.mapped, self.scanned] if rank else [])] * 2
        return self.choice(makers)()

    def own(self, rank: int) -> list[Callable[[], Step]]:
        """What programs of one kind have besides."""
        return []

    # Operations.

    def elementwise(self) -> Step:
        i, _, bound = self.operand()
        functions = complex_functions if self.program.is_complex else real_functions
        name = self.choice(list(functions))
        function, bound_of = functions[name]
        return Step(name, (i,), function, bound_of(bound))

    def pair(self) -> Step:
        (i, shape, a), (k, _, b) = self.operand(), self.operand()
        functions = pairs if self.program.is_complex else real_pairs
        name = self.choice(list(functions))
        function, bound_of = functions[name]
        stretched = [d for d in range(len(shape)) if name not in ("where", "clamp") and self.boolean()]

        def broadcasting(x, y):
            y = fitted(y, x.shape)
            for d in stretched:
                y = lax.slice_in_dim(y, 0, 1, axis=d)
            return function(x, y)

        return Step(f"{name} {stretched}", (i, k), broadcasting, bound_of(a, b))

    def reshape(self) -> Step:
        i, shape, bound = self.operand()
        name = self.choice(list(targets))
        order = self.choice([None, self.order(len(shape))])
        return Step(f"reshape {name} {order}", (i,), lambda x: lax.reshape(x, targets[name](x.shape), order), bound)

    def broadcast(self) -> Step:
        i, shape, bound = self.operand()
        added = self.integer(1, 2)
        at = self.integer(0, len(shape))
        kept = [d for d in range(len(shape) + 1) if d != at]

        def function(x):
            return lax.broadcast_in_dim(x, (*x.shape[:at], added, *x.shape[at:]), kept)

        return Step(f"broadcast {added} at {at}", (i,), function, bound)

    def reduce(self) -> Step:
        i, shape, bound = self.operand(1)
        axes = tuple([d for d in range(len(shape)) if self.boolean()])
        n = math.prod(shape[d] for d in axes)
        kinds: dict[str, tuple[Callable, float]] = {
            "sum": (lambda x: lax.reduce_sum(x, axes), n * bound),
            "prod": (lambda x: lax.reduce_prod(bounded(x), axes), 1.0),
        }
        if not self.program.is_complex:
            kinds |= {
                "max": (lambda x: lax.reduce_max(x, axes), bound),
                "min": (lambda x: lax.reduce_min(x, axes), bound),
                "logsumexp": (lambda x: jax.nn.logsumexp(x, axes), bound + math.log(n)),
            }
        name = self.choice(list(kinds))
        return Step(f"reduce_{name} {axes}", (i,), *kinds[name])

    def accumulate(self) -> Step:
        i, shape, bound = self.operand(1)
        axis, reverse = self.axis(shape), self.boolean()
        kinds: dict[str, tuple[Callable, float]] = {
            "cumsum": (lax.cumsum, shape[axis] * bound),
            "cumprod": (lambda x, **how: lax.cumprod(bounded(x), **how), 1.0),
        }
        if not self.program.is_complex:
            kinds |= {
                "cummax": (lax.cummax, bound),
                "cummin": (lax.cummin, bound),
                "cumlogsumexp": (lax.cumlogsumexp, bound + math.log(shape[axis])),
            }
        name = self.choice(list(kinds))
        function, bound = kinds[name]
        return Step(f"{name} {axis} {reverse}", (i,), lambda x: function(x, axis=axis, reverse=reverse), bound)

    def contract(self) -> Step:
        (i, x, a), (k, y, b) = self.operand(1), self.operand(1)
        equal = [(d, e) for d, e in itertools.product(range(len(x)), range(len(y))) if x[d] == y[e]]
        contracted: list = []
        batch: list = []
        for d, e in equal:
            if all(d != p and e != q for p, q in contracted + batch):
                self.choice([contracted, batch, []]).append((d, e))
        numbers = [tuple(zip(*dims, strict=True)) or ((), ()) for dims in (contracted, batch)]
        bound = a * b * math.prod(x[d] for d, _ in contracted)
        return Step(f"dot_general {numbers}", (i, k), lambda x, y: lax.dot_general(x, y, tuple(numbers)), bound)

    def convolve(self) -> Step:
        (i, x, a), (k, _, b) = self.operand(1), self.operand()
        options = {
            "window_strides": [self.integer(1, 2)],
            "padding": [(self.integer(-1, 2), self.integer(0, 2))],
            "lhs_dilation": [self.integer(1, 2)],
            "rhs_dilation": [self.integer(1, 2)],
        }

        def function(x, y):
            return lax.conv_general_dilated(x.reshape(1, 1, -1), fitted(y, (2,)).reshape(1, 1, 2), **options)[0, 0]

        if math.prod(x) < 3:
            return self.elementwise()
        return Step(f"convolution {list(options.values())}", (i, k), function, 2 * a * b)

    def window(self) -> Step:
        i, shape, bound = self.operand(1)
        how = [
            tuple(self.integer(1, n) for n in shape),
            tuple(self.integer(1, 2) for _ in shape),
            tuple((self.integer(0, 1), self.integer(0, 1)) for _ in shape),
        ]
        kinds = [(0.0, lax.add, math.prod(how[0]) * bound)]
        if not self.program.is_complex:
            kinds += [(-np.inf, lax.max, bound), (np.inf, lax.min, bound)]
        start, function, bound = self.choice(kinds)
        if start:
            how[2] = tuple((0, 0) for _ in shape)
        return Step(
            f"reduce_window {function.__name__} {how}",
            (i,),
            lambda x: lax.reduce_window(x, np.array(start, x.dtype), function, *how),
            bound,
        )

    def rearrange(self) -> Step:
        i, shape, bound = self.operand(1)
        axis, order = self.axis(shape), self.order(len(shape))
        name, function = self.choice([
            (f"transpose {order}", lambda x: lax.transpose(x, order)),
            (f"rev {axis}", lambda x: lax.rev(x, [axis])),
            (f"roll {axis}", lambda x: jnp.roll(x, 1, axis)),
            (f"split {axis}", lambda x: lax.split(x, [1, x.shape[axis] - 1], axis)[0]),
            (f"tile {axis}", lambda x: lax.tile(x, [1 + (d == axis) for d in range(len(shape))])),
            (f"stack {axis}", lambda x: jnp.stack([x, -x], axis)),
        ])  # fmt: skip
        return Step(name, (i,), function, bound)

    def slice(self) -> Step:
        i, shape, bound = self.operand(1)
        start = [self.integer(0, n - 1) for n in shape]
        stop = [self.integer(a + 1, n) for a, n in zip(start, shape, strict=True)]
        strides = [self.integer(1, 2) for _ in shape]
        return Step(f"slice {start} {stop} {strides}", (i,), lambda x: lax.slice(x, start, stop, strides), bound)

    def pad(self) -> Step:
        (i, shape, a), (k, _, b) = self.operand(1), self.operand()
        config = [(self.integer(0 if n == 1 else -1, 1), self.integer(0, 1), self.integer(0, 1)) for n in shape]
        return Step(f"pad {config}", (i, k), lambda x, y: lax.pad(x, jnp.mean(y), config), max(a, b))

    def concatenate(self) -> Step:
        (i, shape, a), (k, _, b) = self.operand(1), self.operand()
        axis = self.axis(shape)
        return Step(
            f"concatenate {axis}", (i, k), lambda x, y: lax.concatenate([x, fitted(y, x.shape), x], axis), max(a, b)
        )

    def places(self, n: int, unique: bool = False) -> np.ndarray:
        places = self.draw(st.lists(st.integers(-n, n if not unique else n - 1), min_size=1, max_size=3))
        return np.unique(np.array(places) % n) if unique else np.array(places, np.int32)

    def take(self) -> Step:
        i, shape, bound = self.operand(1)
        axis = self.axis(shape)
        places, mode = self.places(shape[axis]), self.choice(["fill", "clip", "wrap"])

        def function(x):
            return jnp.take(x, places, axis, mode=mode, fill_value=1.0)

        return Step(f"take {axis} {places} {mode}", (i,), function, bound)

    def put(self) -> Step:
        (i, shape, a), (k, _, b) = self.operand(1), self.operand()
        axis = self.axis(shape)
        kinds = ["set", "add", "multiply", *([] if self.program.is_complex else ["min", "max"])]
        name = self.choice(kinds)
        places = self.places(shape[axis], unique=name == "multiply")
        if name in ("min", "max"):
            # JAX's rule for these takes a place out of bounds for one that is not clipped.
            places = places % shape[axis]
        where = (slice(None),) * axis + (places,)
        mode = self.choice(["drop", "clip"])

        def function(x, y):
            update = fitted(y, x[where].shape)
            return getattr(x.at[where], name)(update, mode=mode, unique_indices=name == "multiply")

        bound = {"add": a + len(places) * b, "multiply": a * b}.get(name, max(a, b))
        return Step(f"{name} {axis} {places} {mode}", (i, k), function, bound)

    def dynamic_slice(self) -> Step:
        i, shape, bound = self.operand(1)
        starts, sizes = [self.integer(0, n) for n in shape], [self.integer(1, n) for n in shape]
        return Step(
            f"dynamic_slice {starts} {sizes}",
            (i,),
            lambda x: lax.dynamic_slice(x, starts, sizes),
            bound,
        )

    def dynamic_update(self) -> Step:
        (i, shape, a), (k, _, b) = self.operand(1), self.operand()
        starts, sizes = [self.integer(0, n) for n in shape], [self.integer(1, n) for n in shape]
        return Step(
            f"dynamic_update_slice {starts} {sizes}",
            (i, k),
            lambda x, y: lax.dynamic_update_slice(x, fitted(y, sizes), starts),
            max(a, b),
        )

    def sort(self) -> Step:
        (i, shape, a), (k, _, b) = self.operand(1), self.operand()
        axis = self.axis(shape)
        keys = self.integer(1, 2)

        def function(x, y):
            x, y = lax.sort((x, fitted(y, x.shape)), dimension=axis, num_keys=keys)
            return x - y

        return Step(f"sort {axis} {keys}", (i, k), function, a + b)

    def rank(self) -> Step:
        i, shape, bound = self.operand(1)
        axis = self.axis(shape)
        k = self.integer(1, shape[axis])
        name, function = self.choice([
            (f"top_k {k} {axis}", lambda x: lax.top_k(x, k, axis=axis)[0]),
            (f"argsort {axis}", lambda x: jnp.take_along_axis(x, jnp.argsort(x, axis), axis)),
            (f"argmax {axis}", lambda x: jnp.take_along_axis(x, jnp.argmax(x, axis, keepdims=True), axis)),
        ])  # fmt: skip
        return Step(name, (i,), function, bound)

    def factorize(self) -> Step:
        i, shape, bound = self.operand(1)

        def positive(x):
            n = x.shape[-1]
            rows = bounded(x).reshape(-1, n)[:3]
            return 2 * jnp.eye(n, dtype=x.dtype) + rows.T @ rows

        name, function = self.choice([
            ("cholesky", lambda x: lax.linalg.cholesky(positive(x))),
            ("solve", lambda x: jnp.linalg.solve(positive(x), x.reshape(-1, x.shape[-1]).T)),
            ("eigvalsh", lambda x: jnp.linalg.eigvalsh(positive(x) + jnp.diag(jnp.arange(x.shape[-1], dtype=x.dtype)))),
            ("rfft", lambda x: lax.real(jnp.fft.rfft(x) * (1 + 2j))),
        ])  # fmt: skip
        return Step(name, (i,), function, shape[-1] * (bound + 2))

    # Programs.

    def inside(self, inputs: Sequence[tuple[int, ...]]) -> Program:
        types = None if self.program.types is None else [jax.ShapeDtypeStruct(x, self.program.dtype) for x in inputs]
        program = Program(inputs, self.program.dtype, types)
        return filled(self.draw, program, self.integer(1, 3), self.depth - 1, type(self))

    def nested(self) -> Step:
        (i, x, _), (k, y, _) = self.operand(), self.operand()
        name = self.choice([name for name in wrappers if name not in self.left_out])
        return Step(name, (i, k), Nested(self.inside([x, y]), wrappers[name]), 1.0)

    def mapped(self) -> Step:
        (i, x, _), (k, y, _) = self.operand(1), self.operand()
        axis = self.axis(x)
        inside = self.inside([(*x[:axis], *x[axis + 1 :]), y])
        return Step(f"vmap {axis}", (i, k), Nested(inside, lambda f: jax.vmap(f, (axis, None))), 1.0)

    def scanned(self) -> Step:
        (i, carry, _), (k, xs, _) = self.operand(), self.operand(1)
        reverse = self.boolean()

        def wrap(function):
            def step(carry, x):
                out = function(carry, x)
                return fitted(out, carry.shape), jnp.mean(out)

            def run(carry, xs):
                carry, means = lax.scan(step, carry, xs, reverse=reverse)
                return bounded(carry + jnp.mean(means))

            return run

        return Step(f"scan {reverse}", (i, k), Nested(self.inside([carry, xs[1:]]), wrap), 1.0)


def branches(function: Callable) -> Callable:
    return lambda x, y: lax.cond(jnp.real(jnp.sum(x)) > 0, function, lambda x, y: -function(x, 2 * y), x, y)


wrappers: dict[str, Callable] = {
    "jit": jax.jit,
    "inlined jit": lambda f: jax.jit(f, inline=True),
    "checkpoint": jax.checkpoint,
    "cond": branches,
    "jvp": lambda f: lambda x, y: jax.jvp(f, (x, y), (y.mean() * x, y))[1],
    "switch": lambda f: lambda x, y: lax.switch(1, [lambda x, y: 0 * f(x, y), f], x, y),
}


def filled(draw: Callable, program: Program, count: int, depth: int, kind: type[Maker] = Maker) -> Program:
    """``program`` with ``count`` steps, and those that keep its values small."""
    maker = kind(draw, program, depth)
    for _ in range(count):
        step = maker.step()
        if not program.append(step):
            continue
        smaller = True
        while smaller and math.prod(program.shapes[-1]) > LARGE_SIZE:
            mean = Step("mean 0", (len(program.shapes) - 1,), lambda x: jnp.mean(x, 0), program.bounds[-1])
            smaller = program.append(mean)
        if program.bounds[-1] > LARGE_ENTRY:
            program.append(Step("bounded", (len(program.shapes) - 1,), bounded, 1.0))
    return program


shapes = st.lists(st.integers(1, 3), max_size=3).map(tuple)


@st.composite
def programs(draw: Callable, dtypes: Sequence[Any], steps: int = 7) -> Program:
    """Programs of inputs of one of ``dtypes``."""
    program = Program(draw(st.lists(shapes, min_size=1, max_size=3)), np.dtype(draw(st.sampled_from(dtypes))))
    return filled(draw, program, draw(st.integers(2, steps)), depth=1)
