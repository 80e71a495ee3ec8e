"""Linear algebra: factorizations, spectral decompositions and structured solves."""

from funcgrad.rules.linalg import factorizations, reflections, schur, solves, spectral

rules = {**factorizations.rules, **spectral.rules, **solves.rules, **reflections.rules, **schur.rules}
