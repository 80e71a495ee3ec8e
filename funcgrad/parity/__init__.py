"""PyTorch beside JAX: whether a port computes what its original does, and what to load and train it with.

Needs PyTorch; ``funcgrad`` itself does not, and imports this package when ``funcgrad.parity`` is first used.
"""

try:
    import torch as _torch  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("funcgrad.parity needs PyTorch: pip install 'funcgrad[torch]'", name="torch") from error

from funcgrad.parity import optimizers
from funcgrad.parity.comparison import compare
from funcgrad.parity.modules import ModuleLoss, module_loss, params_of
from funcgrad.parity.report import ParityReport, Parting, Row
from funcgrad.parity.state import from_state_dict, load_state_dict, to_state_dict

__all__ = [
    "ModuleLoss",
    "ParityReport",
    "Parting",
    "Row",
    "compare",
    "from_state_dict",
    "load_state_dict",
    "module_loss",
    "optimizers",
    "params_of",
    "to_state_dict",
]
