"""What tests share."""

from __future__ import annotations

import functools
import gc
import importlib
import os
from importlib.metadata import version

import pytest

# Compiling takes most of the tests' time, and what is run once or twice need not be fast.
USUAL = {"xla_backend_optimization_level": 3, "xla_cpu_parallel_codegen_split_count": 32}
QUICK = {"xla_backend_optimization_level": 0, "xla_cpu_parallel_codegen_split_count": 1}
if version("jaxlib") < "0.11":  # XLA ends the process for a flag that it no longer has.
    USUAL["xla_cpu_use_fusion_emitters"], QUICK["xla_cpu_use_fusion_emitters"] = True, False
# Before JAX looks for devices: programs for several of them run on simulated ones.
quick = " ".join(f"--{flag}={str(value).lower()}" for flag, value in QUICK.items())
os.environ["XLA_FLAGS"] = f"{quick} {os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=4"


def pytest_configure():
    """What a test compiles to look at it is compiled as users do: its memory, its flops and its text are theirs."""
    from jax.stages import Lowered

    @functools.wraps(Lowered.compile)
    def compile_as_users_do(self, compiler_options=None, *, usual=Lowered.compile, **how):
        return usual(self, {**USUAL, **(compiler_options or {})}, **how)

    Lowered.compile = compile_as_users_do


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Mark what asks for PyTorch, so that ``-m "not torch"`` needs no list."""
    for item in items:
        if "torch" in getattr(item, "fixturenames", ()):
            item.add_marker("torch")


def pytest_sessionfinish():
    """Leave nothing to collect: pytest collects five times on its way out, and a slow walk over all of JAX outlasts the
    patience of xdist, which then interrupts it."""
    gc.freeze()


@pytest.fixture(scope="session")
def torch():
    """PyTorch, on one thread: tests run side by side."""
    module = importlib.import_module("torch")
    module.set_num_threads(1)
    return module
