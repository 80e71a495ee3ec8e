"""funcgrad: reverse-mode automatic differentiation that people can open, read, trust and steer."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from funcgrad import losses, nn, rules
from funcgrad.training import sgd
from funcgrad.transforms import grad, hessian, hvp, jacrev, value_and_grad, vjp

if TYPE_CHECKING:
    from funcgrad import parity as parity
    from funcgrad.budgets.checkpoint import checkpoint
    from funcgrad.inspect.cotangents import cotangents
    from funcgrad.inspect.explain import explain
    from funcgrad.inspect.memory import memory
    from funcgrad.inspect.nonfinite import find_nonfinite
    from funcgrad.inspect.source import backward_source

__all__ = [
    "backward_source",
    "checkpoint",
    "cotangents",
    "explain",
    "find_nonfinite",
    "grad",
    "hessian",
    "hvp",
    "jacrev",
    "losses",
    "memory",
    "nn",
    "rules",
    "sgd",
    "value_and_grad",
    "vjp",
]

__version__ = "0.1.0"

#: What is imported when it is first asked for: training does without.
_LATER = {
    "backward_source": "funcgrad.inspect.source",
    "checkpoint": "funcgrad.budgets.checkpoint",
    "cotangents": "funcgrad.inspect.cotangents",
    "explain": "funcgrad.inspect.explain",
    "find_nonfinite": "funcgrad.inspect.nonfinite",
    "memory": "funcgrad.inspect.memory",
}


def __getattr__(name: str) -> Any:
    if name == "parity":  # imports PyTorch
        return importlib.import_module("funcgrad.parity")
    if name in _LATER:
        value = globals()[name] = getattr(importlib.import_module(_LATER[name]), name)
        return value
    raise AttributeError(f"module 'funcgrad' has no attribute '{name}'")


def __dir__() -> list[str]:
    return [*globals(), "parity", *_LATER]
