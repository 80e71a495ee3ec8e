"""The examples and the demo, on what they return."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcgrad as fg
from funcgrad.__main__ import example, main

ROOT = Path(__file__).resolve().parents[1]

line_fit = example("line_fit")
diabetes = example("diabetes")


@pytest.fixture(scope="module")
def line():
    return line_fit.main()


@pytest.fixture(scope="module")
def regression():
    return diabetes.main()


# The line


def test_every_way_gives_the_same_three_gradients(line):
    assert len(line.steps) == 3
    for step in line.steps:
        assert {"by hand", "funcgrad", "jax.grad"} <= set(step)
        for other in step.values():
            chex.assert_trees_all_close(other, step["by hand"], rtol=1e-5)


def test_the_second_iteration_is_the_articles_but_for_the_noise(line):
    second = line.steps[1]["funcgrad"]
    for ours, article, tolerance in zip(second, (346.0281, 53.9505, -32.4779), line_fit.TOLERANCE, strict=True):
        assert abs(ours - article) < tolerance


def test_the_tolerance_is_three_deviations_of_the_difference_of_two_draws():
    def second_step(key):
        x, y = line_fit.noisy_line(key)
        first = line_fit.with_funcgrad(*line_fit.START, x, y)
        return line_fit.with_funcgrad(*fg.sgd(line_fit.START, tuple(first[1:]), line_fit.STEP_SIZE), x, y)

    draws = jax.jit(jax.vmap(second_step))(jax.random.split(jax.random.key(1), 2000))
    for draw, tolerance in zip(draws, line_fit.TOLERANCE, strict=True):
        assert 3 * np.sqrt(2) * np.std(draw) == pytest.approx(tolerance, rel=0.05)


def test_the_gradient_of_the_line_is_its_finite_differences():
    with jax.enable_x64(True):
        x, y = line_fit.noisy_line(jax.random.key(0))
        _, *gradient = line_fit.with_funcgrad(-10.0, -20.0, x, y)
        # The loss is quadratic, so central differences are exact but for rounding.
        up_w, down_w = (line_fit.loss(-10.0 + h, -20.0, x, y) for h in (0.5, -0.5))
        up_b, down_b = (line_fit.loss(-10.0, -20.0 + h, x, y) for h in (0.5, -0.5))
        chex.assert_trees_all_close(gradient, [up_w - down_w, up_b - down_b], rtol=1e-12)


def test_the_line_is_found(line):
    assert line.w == pytest.approx(-5, abs=0.06)
    assert line.b == pytest.approx(0, abs=0.2)
    assert line.losses[-1] == pytest.approx(0.16, abs=0.06)


def test_the_table_shows_three_iterations_and_points_at_the_second(capsys):
    line_fit.main()
    printed = capsys.readouterr().out
    assert "→ 2" in printed
    for number in ("346.0281", "53.9505", "-32.4779"):
        assert number in printed


@pytest.mark.torch
def test_the_gradient_of_the_line_is_torchs(torch, line):
    for step in line.steps:
        chex.assert_trees_all_close(step["funcgrad"], step["PyTorch"], rtol=1e-5)


# The regression


def test_patients_are_standardised_on_the_training_part():
    data = diabetes.load()
    assert len(data.x_train) + len(data.x_test) == 442
    chex.assert_trees_all_close(data.x_train.mean(0), np.zeros(10), atol=1e-5)
    chex.assert_trees_all_close(data.x_train.std(0), np.ones(10), atol=1e-5)
    assert abs(data.x_test.mean(0)).max() > 0.01


def test_a_jitted_step_takes_jaxs_gradient():
    data = diabetes.load()
    params = diabetes.init(jax.random.key(0))
    stepped, _, value = diabetes.step(diabetes.descend, params, None, data.x_train, data.y_train)
    expected, grads = jax.value_and_grad(diabetes.loss)(params, data.x_train, data.y_train)
    chex.assert_trees_all_close(value, expected, rtol=1e-5)
    chex.assert_trees_all_close(stepped, fg.sgd(params, grads, diabetes.SGD_STEP_SIZE), rtol=1e-5, atol=1e-6)


def test_both_optimisers_train(regression):
    for training in (regression.sgd, regression.adam):
        assert training.train_losses[-1] < 0.5 * training.train_losses[0]
        assert jnp.isfinite(jnp.array(training.test_losses)).all()


def test_the_network_is_far_better_than_the_mean_and_near_the_linear_regression(regression):
    errors = regression.errors
    assert errors["predicting the mean"] == pytest.approx(4965, rel=0.01)
    assert errors["scikit-learn's LinearRegression"] == pytest.approx(3180, rel=0.01)
    for name in ("MLP, gradient descent", "MLP, Adam"):
        assert errors[name] < 0.75 * errors["predicting the mean"]
        assert errors[name] < 1.1 * errors["scikit-learn's LinearRegression"]


# The demo


@pytest.mark.slow
def test_the_demo_runs_from_an_installed_package_and_prints_where_its_picture_is(tmp_path):
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "funcgrad", tmp_path / "site" / "funcgrad", ignore=ignore)
    shutil.copytree(ROOT / "examples", tmp_path / "site" / "funcgrad" / "examples", ignore=ignore)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site"), "COLUMNS": "160"}
    done = subprocess.run(
        [sys.executable, "-m", "funcgrad"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    picture = tmp_path / "funcgrad_demo.png"
    assert str(picture) in done.stdout
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_the_demo_says_what_to_install_where_something_is_missing(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["funcgrad"])
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(SystemExit, match=r"needs sklearn.*funcgrad\[examples\]"):
        main()
