"""Takes the pictures of the report's page: ``python -m docs.screenshots``, with Chromium and the extra ``test``."""

from __future__ import annotations

import io
import shutil
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
from PIL import Image
from playwright.sync_api import Page, sync_playwright

from funcgrad.inspect.explain import explain

# A model: a recurrent encoder, residual blocks, and a classifier.


@jax.jit
def cell(p, state, x):
    return jnp.tanh(x @ p["w"] + state @ p["u"] + p["b"])


def encode(p, xs):
    def step(state, x):
        return cell(p, state, x), None

    start = jnp.zeros((xs.shape[1], p["b"].shape[0]))
    state, _ = jax.lax.scan(step, start, xs)
    return state


def block(p, x):
    h = jax.nn.relu(x @ p["up"] + p["bias"])
    return x + h @ p["down"]


def loss(params, xs, labels):
    x = encode(params["encoder"], xs)
    for p in params["blocks"]:
        x = block(p, x)
    logits = x @ params["head"]
    scores = jax.nn.log_softmax(logits)
    return -jnp.mean(jnp.sum(labels * scores, axis=-1))


def arguments(length: int = 60, batch: int = 8, size: int = 16, blocks: int = 6):
    keys = iter(jax.random.split(jax.random.key(0), 100))

    def weight(rows, columns, scale=1.0):
        return scale * jax.random.normal(next(keys), (rows, columns)) / jnp.sqrt(rows)

    params = {
        "encoder": {"w": weight(4, size), "u": weight(size, size, 0.5), "b": jnp.zeros(size)},
        "blocks": [
            {"up": weight(size, 4 * size), "bias": jnp.zeros(4 * size), "down": weight(4 * size, size)}
            for _ in range(blocks)
        ],
        "head": weight(size, 10),
        "temperature": jnp.ones(()),
    }
    labels = jax.nn.one_hot(jnp.arange(batch), 10)
    return params, jax.random.normal(next(keys), (length, batch, 4)), labels


def opened(page: Page) -> None:
    """The loop over the blocks, and one of them."""
    page.locator("#canvas .card", has_text="x = block(p, x)").locator(".knob").click()
    page.locator("#canvas .card", has_text="pass 2 of").locator(".knob").click()


def iterations(page: Page) -> None:
    """A step inside the loop over time."""
    page.locator("#source .row", has_text="return jnp.tanh").click()
    page.locator("#steps .row", has_text="tanh").last.click()
    page.get_by_role("img", name="Norm in each iteration").first.scroll_into_view_if_needed()


def main() -> None:
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        path = Path(folder) / "page.html"
        explain(loss)(*arguments()).to_html(path)
        chromium = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        for scheme, prepare in (("light", opened), ("dark", iterations)):
            view = {"viewport": {"width": 1360, "height": 850}, "device_scale_factor": 1.5}
            page = chromium.new_page(color_scheme=scheme, **view)
            page.goto(path.as_uri())
            page.locator("html[data-ready=true]").wait_for()
            prepare(page)
            page.mouse.move(0, 0)
            picture = (
                Image.open(io.BytesIO(page.screenshot()))
                .convert("RGB")
                .quantize(256, kmeans=1, dither=Image.Dither.NONE)
            )
            picture.save(Path(__file__).parent / "_static" / f"page_{scheme}.png", optimize=True)
        chromium.close()


if __name__ == "__main__":
    main()
