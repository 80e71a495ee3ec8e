"""funcgrad: reverse-mode automatic differentiation that people can open, read, trust and steer."""

from funcgrad import losses, nn, rules
from funcgrad.training import sgd
from funcgrad.transforms import grad, hessian, hvp, jacrev, value_and_grad, vjp

__all__ = ["grad", "hessian", "hvp", "jacrev", "losses", "nn", "rules", "sgd", "value_and_grad", "vjp"]

__version__ = "0.1.0"
