"""Every primitive that JAX can differentiate has its place: a rule, an entry without derivative, or a reason."""

from __future__ import annotations

import importlib

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.experimental import pallas, sparse
from jax.extend.core import Primitive, primitives
from jax.extend.core.primitives import custom_jvp_call_p, custom_vjp_call_p

import funcgrad as fg
from funcgrad import _jax
from funcgrad.rules.control.foreign import REASONS, reason
from funcgrad.rules.table import Rule

# What comes with JAX and puts entries into its tables when it is imported.
for module in ("buffer_callback", "compute_on", "fused", "hijax", "multihost_utils", "scheduling_groups", "xla_metadata"):
    importlib.import_module(f"jax.experimental.{module}")

TABLES = (_jax.foreign_jvps, _jax.foreign_linearizations, _jax.foreign_transposes)
KNOWN_TO_JAX = sorted({p for table in TABLES for p in table if is_from_jax(p)} if False else set().union(*TABLES), key=str)


def public_primitives() -> set[Primitive]:
    """The primitives that ``jax.lax`` and ``jax.extend.core`` name."""
    return {x for module in (lax, lax.linalg, primitives) for x in vars(module).values() if isinstance(x, Primitive)}
