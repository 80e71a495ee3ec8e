"""What depends on the platform, chosen when the program is lowered: no trace knows where it will run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax import lax

from funcgrad import _jax


def on_cpu(cpu: Callable, default: Callable, *operands: Any) -> Any:
    """``cpu(*operands)`` in what is lowered for the CPU, ``default(*operands)`` in what is lowered for anything else.

    Both return the same types. Run eagerly, it is decided here and now.
    """
    if _jax.current_trace() is _jax.eval_trace:
        return (cpu if jax.default_backend() == "cpu" else default)(*operands)
    return lax.platform_dependent(*operands, cpu=cpu, default=default)
