"""Ways to see what a network looks at: other rules for ``jax.nn.relu``, as for any network made of it.

The picture is the gradient of a class score with respect to the image. Guided backpropagation (Springenberg et al.,
2015, "Striving for Simplicity") lets pass only what is positive on both ways; a deconvnet (Zeiler and Fergus, 2014,
"Visualizing and Understanding Convolutional Networks") only what is positive on the way back.
"""

from __future__ import annotations

from jax import lax, nn

from funcgrad.rules.elementwise import masked
from funcgrad.rules.numbers import const
from funcgrad.rules.rule import formula


def positive(x):
    return lax.gt(x, const(x, 0))


guided = {nn.relu: formula(lambda ct, on: masked(ct, lax.bitwise_and(on, positive(ct))), on=positive)}
deconvolution = {nn.relu: lambda ct: masked(ct, positive(ct))}
