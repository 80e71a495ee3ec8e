"""Writes ``optimizers.md``: ``torch.optim`` in optax, from the table that the tests verify.

python -m docs.generate_optimizers
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from funcgrad.parity.optimizers import CLIPPING, OPTIMIZERS, SCHEDULES, Spelling

PATH = Path(__file__).parent / "optimizers.md"

INTRODUCTION = """\
# PyTorch's optimizers in optax

Each pair below takes the same steps. The tests take 100 of them with both, in float64, and see to it that the spelling
that suggests itself, where one is given, takes others. `clip_grad_norm`, `adagrad`, `amsgrad`, `damped_trace` and
`onecycle` are in `fg.parity.optimizers`: optax has no spelling for them.

Two things hold for all. `scheduler.step()` is called after each `optimizer.step()`, so the first update uses the
learning rate of step 0, as an optax schedule does; a scheduler that is stepped once an epoch is, in optax,
`lambda count: schedule(count // steps_per_epoch)`. And optax computes schedules and Adam's bias corrections in float32
where PyTorch uses Python's floats, so in float32 training the last digits differ.
"""


def page() -> str:
    sections = [
        INTRODUCTION,
        *section("Optimizers", OPTIMIZERS),
        *section("Learning rates", SCHEDULES, "The optimizer has lr=0.1, and the optax schedule stands for its rate."),
        *section("Clipping", CLIPPING, "In optax, clipping comes first in the chain."),
    ]
    return "\n".join(sections)


def section(title: str, rows: Iterable[Spelling], text: str = "") -> Iterable[str]:
    yield f"## {title}\n"
    if text:
        yield f"{text}\n"
    yield "| PyTorch<br>optax | what suggests itself | and what it does |\n| --- | --- | --- |"
    for row in rows:
        differs = row.differs.replace("_", "\\_").replace("*", "\\*")
        yield f"| {code(row.torch)}<br>{code(row.optax)} | {code(row.literal)} | {differs} |"
    yield ""


def code(text: str) -> str:
    return text and f"`{text.replace('torch.optim.lr_scheduler.', 'lr_scheduler.')}`"


if __name__ == "__main__":
    PATH.write_text(page(), encoding="utf-8")
