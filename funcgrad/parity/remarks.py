"""What a report says besides its numbers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from funcgrad.parity.distances import distance, largest
from funcgrad.parity.modules import ModuleLoss
from funcgrad.parity.report import ParityReport

if TYPE_CHECKING:
    from funcgrad.parity.comparison import Evidence

#: A side whose rounding is so many times the other's is told apart.
UNEVEN = 100


def hint(ours: np.ndarray, theirs: np.ndarray) -> str:
    """What the difference of two gradients looks like."""
    if not ours.any():
        return "not used on the jax side, or its gradient is stopped there"
    if not theirs.any():
        return "not used on the torch side, or its gradient is stopped there"
    if not (np.isfinite(ours).all() and np.isfinite(theirs).all()):
        return ""
    ratio = float(np.vdot(theirs, ours) / np.vdot(theirs, theirs))
    if ours.size > 1 and distance(ours, ratio * theirs) < 1e-9 * largest([ours]):
        return f"on the jax side {ratio:.6g} times what it is on the torch side"
    return ""


def remarks(report: ParityReport, evidence: Evidence) -> Iterator[str]:
    """Notes of what the rows do not show, or not why."""
    torch_loss, exact = evidence.sides[1], evidence.exact
    unused = [name for name in exact.torch.unused if not exact.jax.grads[name].any()]
    if unused:
        yield f"Used by neither side, so nothing is known of them: {', '.join(sorted(unused))}."
    jax_error, torch_error = (max(getattr(row, e) for row in report.leaves) for e in ("jax_error", "torch_error"))
    if max(jax_error, torch_error) > UNEVEN * min(jax_error, torch_error) > 0:
        worse = "jax" if jax_error > torch_error else "torch"
        yield f"The {worse} side rounds over {UNEVEN} times as much as the other: its formula is the less stable one."
    if any(row.verdict == "non-finite" for row in report.rows()):
        if all(np.isfinite(x).all() for run in exact for x in (run.loss, *run.grads.values())):
            yield f"In {report.dtype} one side overflows where the other does not."
        else:
            yield (
                "What is not finite even in float64 cannot be compared. fg.find_nonfinite(jax_loss)(params, *batch) "
                "tells where that starts on jax's side, torch.autograd.detect_anomaly on torch's."
            )
    if report.ok:
        return
    wrong = [row for row in report.leaves if not row.ok]
    if report.loss.ok and all(row.verdict == "mismatch" for row in wrong):
        yield (
            "The losses agree, so it is a derivative that differs: a stopped gradient, or another convention at a kink "
            "or a tie (rules=fg.rules.torch takes PyTorch's)."
        )
    if isinstance(torch_loss, ModuleLoss):
        statistics = torch_loss.batch_statistics()
        if statistics:
            yield (
                "In training mode, so by the statistics of the batch instead of those in buffers, normalise: "
                f"{', '.join(statistics)}."
            )
        modules = [name for name, _ in torch_loss.module.named_modules() if name]
        if modules and exact.jax.values.keys().isdisjoint(exact.torch.values):
            names = ", ".join(modules[:8]) + (", ..." if len(modules) > 8 else "")
            yield (
                "To see where the two sides part, name values on jax's side as torch names the module that returns "
                f"them, x = jax.ad_checkpoint.checkpoint_name(x, name): {names}."
            )
