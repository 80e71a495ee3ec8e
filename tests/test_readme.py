"""What the README promises."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def test_its_python_blocks_run_one_after_the_other(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    namespace: dict = {}
    blocks = re.findall(r"^```python\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)
    for block in blocks:
        exec(compile(block, "README.md", "exec"), namespace)
    assert blocks
    assert namespace["loss_value"] < 0.01


def test_every_make_target_it_names_exists_and_the_first_two_are_demo_and_test():
    named = re.findall(r"^make (\w+)", README, flags=re.MULTILINE)
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    assert named[:2] == ["demo", "test"]
    assert set(named) <= set(targets)
