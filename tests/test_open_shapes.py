"""Gradients are exported once for all batch sizes and lengths."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from jax import export

import funcgrad as fg
from tests import open_shapes
from tests.open_shapes import PROGRAMS, argument, arguments_of, gradient_of

HERE = Path(open_shapes.__file__)


@pytest.mark.slow
def test_a_gradient_is_exported_once_for_all_sizes_and_platforms(tmp_path):
    for name in PROGRAMS:
        exported = export.export(gradient_of(name), platforms=("cpu", "cuda", "tpu"))(*arguments_of(name))
        (tmp_path / f"{name}.export").write_bytes(exported.serialize())
    env = {**os.environ, "PYTHONPATH": str(HERE.parents[1])}
    called = subprocess.run([sys.executable, HERE, tmp_path], env=env, stdout=subprocess.PIPE, check=True, text=True)
    distances = json.loads(called.stdout)
    assert distances.keys() == PROGRAMS.keys()
    assert {name: d for name, d in distances.items() if not max(d) < 1e-4} == {}


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_gradient_of_open_shapes_is_traced_and_has_the_shapes_of_its_arguments(name):
    args = arguments_of(name)
    traced = gradient_of(name).trace(*args)
    # In another scope the same names are other dimensions.
    again = jax.eval_shape(fg.grad(PROGRAMS[name][0], (0, 1)), *arguments_of(name))
    for shapes in (traced.out_info, again):
        assert [str(x.shape) for x in jax.tree.leaves(shapes)] == [str(np.shape(x)) for x in jax.tree.leaves(args)]


def test_a_gradient_of_shapes_alone_is_lowered_and_compiled_before_there_are_values():
    params, x = PROGRAMS["gru_over_all_open"][2], argument("gru_over_all_open", 0)
    gradient = gradient_of("gru_over_all_open")
    compiled = gradient.trace(params, jax.ShapeDtypeStruct(x.shape, x.dtype)).lower().compile()
    jax.tree.map(np.testing.assert_array_equal, compiled(params, x), gradient.lower(params, x).compile()(params, x))
