"""What tests share."""

from __future__ import annotations

import gc
import importlib
import os

import pytest

# Before JAX looks for devices: programs for several of them run on simulated ones.
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=4"


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
