"""``python -m funcgrad [PICTURE]``: run the first two examples, and draw what they learned."""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path
from types import ModuleType

PANEL_SIZE = (6.2, 4.0)


def example(name: str) -> ModuleType:
    """The example script ``name``: beside the package in a checkout, inside it when installed."""
    package = Path(__file__).resolve().parent
    installed, checkout = package / "examples" / f"{name}.py", package.parent / "examples" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, installed if installed.exists() else checkout)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def picture(path: Path) -> None:
    """Run both examples, and draw their fits and loss curves as one picture."""
    from matplotlib.figure import Figure

    examples = example("line_fit"), example("diabetes")
    figure = Figure(figsize=(2 * PANEL_SIZE[0], 2 * PANEL_SIZE[1]), dpi=130, layout="constrained")
    panels = figure.subplots(2, 2)
    for axes in panels.flat:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    for script, (fit, losses) in zip(examples, panels, strict=True):
        script.draw(script.main(), fit, losses)
    for axes in panels.flat:
        axes.title.set(fontsize=12, fontweight="bold", color="#1f2430")
        axes.legend(frameon=False)
    figure.savefig(path, pad_inches=0.2, bbox_inches="tight")


def main() -> None:
    parser = argparse.ArgumentParser("python -m funcgrad", description="Watch funcgrad's gradients train two models.")
    parser.add_argument("picture", nargs="?", default="funcgrad_demo.png", help="where to write the picture")
    path = Path(parser.parse_args().picture).resolve()
    try:
        picture(path)
    except ModuleNotFoundError as error:
        raise SystemExit(f"The demo needs {error.name}: pip install 'funcgrad[examples]'") from error
    print(f"\nThe picture of it: {path}")


if __name__ == "__main__":
    main()
