"""Sources as a whole."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax import lax

import funcgrad as fg
from benchmarks.workloads import registry
from funcgrad.__main__ import example
from tests.inspect.source.sources import check

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("name", registry)
def test_source_of_a_workload_is_tidy_and_right(name):
    workload = registry[name]
    loss = partial(workload.loss, grad=fg.grad) if workload.nested else workload.loss
    check(loss, *workload.example(workload.tiny), tolerance=1e-5)


def line_fit():
    module = example("line_fit")
    return module.loss, (*module.START, *module.noisy_line(jax.random.key(0))), (0, 1)


def diabetes():
    module = example("diabetes")
    data = module.load()
    return module.loss, (module.init(jax.random.key(0)), data.x_train, data.y_train), 0


def ported_mlp():
    module = example("ported_mlp")
    return module.loss, (fg.parity.params_of(module.original(), layout="jax"), *module.batches()[0]), 0


def quantized_mlp():
    module = example("quantized_mlp")
    data = module.load()
    params = fg.nn.init_mlp(jax.random.key(0), module.SIZES)
    return module.loss, (params, data.x_train, data.y_train, True), 0


def saliency():
    module = example("saliency")
    images, digits = module.load()[:2]
    return module.loss, (module.init(jax.random.key(0)), images[:8], digits[:8]), 0


#: The loss of each example script, its arguments, and which it is differentiated by.
SCRIPTS = {
    "line_fit": line_fit,
    "diabetes": diabetes,
    "ported_mlp": ported_mlp,
    "quantized_mlp": quantized_mlp,
    "saliency": saliency,
}


def test_every_example_script_is_tried():
    assert set(SCRIPTS) == {path.stem for path in (ROOT / "examples").glob("*.py")}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.torch if name == "ported_mlp" else ()) for name in SCRIPTS]
)
def test_source_of_an_example_is_tidy_and_right(name):
    loss, args, argnums = SCRIPTS[name]()
    check(loss, *args, argnums=argnums)


def test_readme_shows_what_is_generated():
    loss, args, argnums = line_fit()
    assert f"```python\n{fg.backward_source(loss, argnums)(*args)}```" in (ROOT / "README.md").read_text()


def test_the_source_depends_on_the_program_alone():
    loss, args, argnums = line_fit()
    first = fg.backward_source(loss, argnums)(*args)
    assert fg.backward_source(loss, argnums)(*args) == first


SQUARE = jnp.eye(3) * 2 + 0.1


MIXED = {
    "a solve, which each platform does in its own way": (
        lambda a: jnp.sum(jnp.linalg.solve(a, jnp.ones(3)) ** 2),
        SQUARE,
    ),
    "random numbers": (lambda x: jnp.sum(jax.random.gumbel(jax.random.key(1), (3,)) * x), jnp.ones(3)),
    "complex numbers": (lambda z: jnp.abs(jnp.sum(z * z)), jnp.array([1 + 2j, 2 - 1j])),
    "a batched loop": (
        lambda x: jnp.sum(jax.vmap(lambda z: lax.while_loop(lambda s: s < 10, lambda s: s * z, z))(x)),
        jnp.array([2.0, 3.0]),
    ),
    "a narrow type": (lambda x: jnp.mean(x.astype(jnp.bfloat16)).astype(jnp.float32), jnp.ones((4, 3))),
    "a gradient inside": (lambda x: jnp.sum(fg.grad(lambda z: jnp.sum(jnp.sin(z) ** 2))(x) ** 2), jnp.arange(3.0)),
    "an element at a place": (lambda x: jnp.sum(x.at[3].mul(2.0)[::2]) + x[lax.add(1, 1)] ** 2, jnp.arange(5.0)),
}


@pytest.mark.parametrize("name", MIXED)
def test_programs_of_all_kinds_are_written_down(name):
    check(*MIXED[name], tolerance=1e-5)
