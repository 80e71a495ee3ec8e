"""What a type checker says of the public functions."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import funcgrad

SCRIPT = """\
import jax
import jax.numpy as jnp

import funcgrad as fg


def loss(w: jax.Array, x: jax.Array, *, scale: float = 1.0) -> jax.Array:
    return jnp.sum(jnp.tanh(w * x)) * scale


def with_aux(w: jax.Array) -> tuple[jax.Array, dict[str, int]]:
    return jnp.sum(w), {"n": 1}


w = jnp.ones(3)
"""
WRAPPED = "def (w: jax.Array, x: jax.Array, *, scale: float =) -> "

#: Expressions and their types.
TYPES = {
    "fg.grad(loss)": WRAPPED + "Any",
    "fg.grad(loss, (0, 1))(w, w, scale=2.0)": "Any",
    "fg.value_and_grad(loss)": WRAPPED + "tuple[jax.Array, Any]",
    "fg.value_and_grad(with_aux, has_aux=True)(w)": "tuple[tuple[jax.Array, dict[str, int]], Any]",
    "fg.vjp(loss, w, w)": "tuple[jax.Array, funcgrad.pullback.Pullback]",
    "fg.vjp(with_aux, w, has_aux=True)[2]": "dict[str, int]",
    "fg.jacrev(loss)": WRAPPED + "Any",
    "fg.hessian(loss)": WRAPPED + "Any",
    "fg.explain(loss)(w, w)": "funcgrad.inspect.report.BackwardReport",
    "fg.find_nonfinite(loss)(w, w)": "funcgrad.inspect.finding.NonFinite | None",
    "fg.cotangents(loss)(w, w)": "dict[str, Any]",
    "fg.backward_source(loss)": WRAPPED + "str",
    "fg.rules.default.override({jnp.clip: lambda ct: ct})": "funcgrad.rules.table.RuleTable",
    "fg.sgd({'w': w}, {'w': w}, 0.1)": "dict[str, jax.Array]",
    "fg.nn.init_mlp(jax.random.key(0), [1, 1])": "list[dict[str, jax.Array]]",
    "fg.losses.mse(w, w)": "jax.Array",
}


#: What is not asked about and takes long to read.
CONFIG = """\
[mypy]
strict = true
[mypy-torch.*,optax.*,scipy.*,funcgrad.parity.*]
follow_imports = skip
"""


@pytest.mark.slow
def test_the_public_functions_have_types(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT + "".join(f"reveal_type({expression})\n" for expression in TYPES))
    config = tmp_path / "mypy.ini"
    config.write_text(CONFIG)
    options = ["--config-file", config, "--cache-dir", tmp_path, "--follow-imports", "silent"]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *options, script],
        capture_output=True,
        text=True,
        env={**os.environ, "MYPYPATH": str(Path(funcgrad.__file__).parents[1])},
    )
    said = done.stdout.replace("builtins.", "").replace("jax._src.basearray.Array", "jax.Array")
    assert re.findall('Revealed type is "(.*)"', said) == list(TYPES.values()), done.stdout + done.stderr
    assert done.returncode == 0
