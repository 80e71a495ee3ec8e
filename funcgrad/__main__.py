"""``python -m funcgrad [PICTURE]``: run the first two examples, and draw what they learned."""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

PANEL_SIZE = (6.2, 4.0)
INK, MUTED, BLUE, ORANGE = "#1f2430", "#8a8f98", "#2a6fbb", "#d9622b"


def example(name: str) -> ModuleType:
    """The example script ``name``: beside the package in a checkout, inside it when installed."""
    package = Path(__file__).resolve().parent
    installed, checkout = package / "examples" / f"{name}.py", package.parent / "examples" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, installed if installed.exists() else checkout)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def draw_line(axes: Any, fit: Any) -> None:
    axes.set_title("A line through noisy points")
    axes.scatter(fit.x, fit.y, s=14, color=MUTED, label="100 points, y = -5 x + noise")
    axes.plot(fit.x, -10 * fit.x - 20, color=INK, linestyle=":", label="start: -10.00 x - 20.00")
    axes.plot(fit.x, fit.w * fit.x + fit.b, color=ORANGE, linewidth=2, label=f"fit: {fit.w:.2f} x {fit.b:+.2f}")
    axes.set(xlabel="x", ylabel="y")
    axes.legend()


def draw_line_loss(axes: Any, fit: Any) -> None:
    axes.set_title("The loss of the line")
    axes.semilogy(range(1, len(fit.losses) + 1), fit.losses, color=ORANGE, marker="o", markersize=3)
    axes.annotate(
        f"the article's iteration:\n{fit.losses[1]:.1f}", (2, fit.losses[1]), (7, fit.losses[1]), va="center",
        arrowprops={"arrowstyle": "->", "color": INK},
    )  # fmt: skip
    axes.axhline(0.16, color=MUTED, linestyle="--", label="the noise's variance, 0.16")
    axes.set(xlabel="iteration", ylabel="mean squared error")
    axes.legend()


def draw_regression(axes: Any, regression: Any) -> None:
    measured = regression.data.score(regression.data.y_test)
    ends = [measured.min(), measured.max()]
    axes.set_title(f"Diabetes: {len(measured)} patients not trained on")
    axes.plot(ends, ends, color=MUTED, linestyle="--", label="a perfect prediction")
    axes.scatter(measured, regression.predictions["MLP, Adam"], s=14, color=BLUE, label="MLP, Adam")
    axes.set(xlabel="progression measured a year later", ylabel="progression predicted")
    axes.legend()


def draw_regression_loss(axes: Any, regression: Any) -> None:
    axes.set_title("The loss of the network")
    for name, training, color in (("gradient descent", regression.sgd, ORANGE), ("Adam", regression.adam, BLUE)):
        axes.plot(training.train_losses, color=color, linestyle=":", label=f"{name}, training part")
        axes.plot(training.test_losses, color=color, label=f"{name}, test part")
    linear = regression.errors["scikit-learn's LinearRegression"] / regression.data.y_scale.item() ** 2
    axes.axhline(linear, color=MUTED, linestyle="--", label="linear regression, test part")
    axes.set(xlabel="step", ylabel="mean squared error / variance")
    axes.legend()


def draw(fit: Any, regression: Any, path: Path) -> None:
    """Both fits and both loss curves, as one picture."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2 * PANEL_SIZE[0], 2 * PANEL_SIZE[1]), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(2, 2)
    for axes in panels.flat:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    draw_line(panels[0, 0], fit)
    draw_line_loss(panels[0, 1], fit)
    draw_regression(panels[1, 0], regression)
    draw_regression_loss(panels[1, 1], regression)
    for axes in panels.flat:
        axes.title.set(fontsize=12, fontweight="bold", color=INK)
        axes.get_legend().set(frame_on=False)
    figure.savefig(path, pad_inches=0.2, bbox_inches="tight")


def main() -> None:
    parser = argparse.ArgumentParser("python -m funcgrad", description="Watch funcgrad's gradients train two models.")
    parser.add_argument("picture", nargs="?", default="funcgrad_demo.png", help="where to write the picture")
    path = Path(parser.parse_args().picture).resolve()
    try:
        line_fit, diabetes = example("line_fit"), example("diabetes")
        fit, regression = line_fit.main(), diabetes.main()
        draw(fit, regression, path)
    except ModuleNotFoundError as error:
        raise SystemExit(f"The demo needs {error.name}: pip install 'funcgrad[examples]'") from error
    print(f"\nThe picture of it: {path}")


if __name__ == "__main__":
    main()
