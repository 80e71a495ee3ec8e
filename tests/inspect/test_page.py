"""The page of a report, in a browser."""

from __future__ import annotations

import json
import re
import shutil

import jax
import jax.numpy as jnp
import pytest
from playwright.sync_api import expect, sync_playwright

from funcgrad.inspect import page as pages
from funcgrad.inspect.explain import explain
from funcgrad.inspect.memory import memory
from tests.inspect import reports


@pytest.fixture(scope="module")
def chromium():
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        pytest.fail(f"The tests of the page need one of {', '.join(names)} on PATH; Debian has the package chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def show(chromium, tmp_path):
    """Opens the page of a report. In the end nothing may have gone wrong in it, and nothing been asked for outside."""
    wrong, requests, contexts = [], [], []

    def show(report, **options):
        path = tmp_path / "page.html"
        pages.write(report, path)
        context = chromium.new_context(viewport={"width": 1400, "height": 900}, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(path.as_uri())
        page.locator("html[data-ready=true]").wait_for()
        return page

    show.wrong = wrong
    yield show
    for context in contexts:
        context.close()
    assert wrong == []
    assert [url for url in requests if not url.startswith(("file:", "data:"))] == []


def line(page, text):
    return page.locator("#source .row.live", has_text=text)


def names(page, rows="#steps .row:not(.dim)"):
    return page.locator(f"{rows} .name").all_inner_texts()


def test_opening_shows_source_graph_and_overview(show):
    page = show(reports.recurrent())
    assert page.title() == "Backward pass of loss"
    expect(line(page, "jnp.tanh")).to_contain_text("nan")
    expect(line(page, "predictions = states")).to_contain_text("0.31")
    assert names(page) == ["div", "reduce_sum", "integer_pow", "sub", "dot_general", "scan"]
    assert sorted(names(page, "#canvas .card:not(.pill)")) == sorted(names(page))
    expect(page.locator("#details")).to_contain_text("No gradient reaches params['unused']")


def test_a_click_on_a_line_selects_its_steps(show):
    page = show(reports.recurrent())
    line(page, "jnp.mean").click()
    assert names(page) == ["div", "reduce_sum", "integer_pow"]
    expect(line(page, "jnp.mean")).to_have_attribute("aria-selected", "true")
    assert set(names(page, "#canvas .card.on")) == {"div", "reduce_sum", "integer_pow"}
    # Steps inside of others show with those around them.
    line(page, "jnp.tanh").click()
    assert names(page) == ["tanh", "add", "add", "dot_general"]
    assert names(page, "#steps .row.dim") == ["scan", "cell"]
    page.get_by_role("button", name="all steps").click()
    assert len(names(page)) == 6


def test_a_click_on_a_card_shows_its_formulas_and_numbers(show):
    page = show(reports.recurrent())
    page.locator("#canvas .card", has_text="dot_general").click()
    details = page.locator("#details")
    expect(details).to_contain_text("dot_general(f32[100,16], f32[16,1]) -> f32[100,1]")
    assert details.locator(".rule").all_inner_texts() == ["x: ct @ y.T", "y: x.T @ ct"]
    expect(details).to_contain_text("6.3 KiB")
    expect(line(page, "predictions =")).to_have_attribute("aria-selected", "true")


def test_a_search_narrows_the_steps(show):
    page = show(reports.recurrent())
    page.locator("#query").fill("TANH out**2")
    assert names(page) == ["tanh"]
    expect(page.locator("#found")).to_have_text("1 of 11")
    expect(line(page, "error =")).to_have_class(re.compile("dim"))
    expect(line(page, "jnp.tanh")).not_to_have_class(re.compile("dim"))
    page.locator("#query").fill("no such thing")
    expect(page.locator("#no-steps")).to_be_visible()
    # What is searched for are names, lines, formulas, types, findings.
    queries = {"params['out']": 1, "recurrent.py:33": 1, "ct / 100": 1, "f32[100,16]": 2, "shrink": 1}
    for query, found in queries.items():
        page.locator("#query").fill(query)
        assert page.locator("#found").inner_text() == f"{found} of 11", query


def test_loops_and_calls_open_and_close(show):
    page = show(reports.recurrent())
    page.locator("#steps .twist", has_text="▸").click()
    assert names(page)[-1] == "cell"
    page.locator("#steps .row[aria-expanded=true] .twist").click()
    assert names(page)[-1] == "scan"
    card = page.locator("#canvas .card", has_text="scan")
    card.locator(".knob").click()
    expect(page.locator("#canvas .card", has_text="cell")).to_be_visible()
    card.locator(".knob").click()
    expect(page.locator("#canvas .card", has_text="cell")).to_have_count(0)


def test_iterations_of_a_loop_show_as_a_chart(show):
    page = show(reports.recurrent())
    line(page, "jnp.tanh").click()
    page.locator("#steps .row", has_text="tanh").click()
    chart = page.get_by_role("img", name="Norm in each iteration")
    assert chart.count() == 1
    # Norms grow evenly on a log scale from iteration 0 on, left to right and bottom to top.
    points = [tuple(map(float, p.split())) for p in re.split("[ML]", chart.locator(".norm").get_attribute("d"))[1:]]
    assert len(points) == 100 and points == sorted(points) and points == sorted(points, key=lambda p: -p[1])


def test_parameters_show_their_gradients(show):
    page = show(reports.recurrent())
    page.locator("#details table button", has_text="params['u']").click()
    expect(page.locator("#details h3")).to_have_text("params['u']")
    expect(page.locator("#details")).to_contain_text("3.4e-5")
    assert names(page) == ["scan"]
    page.locator("#canvas .card", has_text="params['out']").click()
    expect(page.locator("#details h3")).to_have_text("params['out']")


def test_gaps_in_the_source_open(show):
    page = show(reports.recurrent())
    gap = page.locator("#source .gap").last
    count = int(re.search(r"\d+", gap.inner_text())[0])
    before = page.locator("#source .row .number").count()
    gap.click()
    assert page.locator("#source .row .number").count() == before + count


def test_all_of_it_can_be_reached_from_the_keyboard(show):
    page = show(reports.recurrent())
    press = page.keyboard.press
    focused = lambda: page.evaluate("document.activeElement.id || document.activeElement.dataset.id")  # noqa: E731

    press("/")
    assert focused() == "query"
    page.keyboard.type("cell")
    press("Enter")
    assert focused() == "steps"
    press("End")
    press("Enter")
    expect(page.locator("#details h3")).to_have_text("dot_general")
    press("Escape")  # ends the search
    assert page.locator("#query").input_value() == "" and page.locator("#steps [aria-selected=true]").count() == 1
    press("Escape")  # then the selection
    expect(page.locator("#details h3")).to_have_text("Overview")

    page.locator("#source").focus()
    press("End")
    press("ArrowUp")
    press("Enter")
    expect(page.locator("#details h3")).to_have_text("recurrent.py:33")
    active = page.locator("#source").get_attribute("aria-activedescendant")
    expect(page.locator(f"#{active}")).to_contain_text("error = predictions")

    page.locator("#steps").focus()
    press("Escape")
    press("End")
    for _ in range(4):  # to the cell, which closes, to the scan, which closes
        press("ArrowLeft")
    assert names(page)[-1] == "scan"
    press("ArrowRight")  # opens the scan
    press("ArrowRight")  # goes into it
    press("Enter")
    expect(page.locator("#details h3")).to_have_text("cell")

    page.locator("#canvas .card", has_text="integer_pow").focus()
    press("ArrowDown")
    press("Enter")
    expect(page.locator("#details h3")).to_have_text("reduce_sum")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"

    # Tab goes through search, switches, source, graph, steps and details, each of them one stop.
    page.locator("#query").focus()
    stops = []
    for _ in range(9):
        press("Tab")
        stops.append(page.evaluate("(document.activeElement.closest('[id]:not(.row)') ?? document.body).id"))
    assert stops == ["direction", "theme", "source", "canvas", "zoom-out", "zoom-in", "zoom-fit", "all-steps", "steps"]


def test_an_open_card_leads_into_itself(show):
    page = show(reports.recurrent())
    page.locator("#canvas .card", has_text="scan").focus()
    page.keyboard.press("Space")
    page.keyboard.press("ArrowDown")
    expect(page.locator("#canvas .card:focus")).to_contain_text("params['w']")
    page.keyboard.press("ArrowDown")
    expect(page.locator("#canvas .card:focus")).to_contain_text("cell")


def test_text_of_the_program_is_never_markup(show):
    report = reports.hostile()
    html = pages.render(report)
    data = re.search(r'<script type="application/json" id="report">(.*?)</script>', html, re.DOTALL)[1]
    assert "<" not in data and data.isascii() and json.loads(data) == json.loads(json.dumps(report))

    page = show(report)
    for row in page.locator("#steps .row").all():
        row.click()
    line(page, "loss =").click()
    page.locator("#canvas .card").first.click()
    assert page.evaluate("window.pwned") is None
    assert page.locator("img, style:not(head style)").count() == 0
    assert page.evaluate("document.scripts.length") == 1 + len(pages.SCRIPTS) + 1
    assert "</script><img src=x" in line(page, "loss =").inner_text()


def test_no_script_but_the_pages_own_may_run(show):
    page = show(reports.recurrent())
    with page.expect_console_message(lambda message: "Content Security Policy" in message.text):
        page.evaluate("document.body.append(Object.assign(document.createElement('script'), {text: 'pwned = 1'}))")
    show.wrong.clear()
    assert page.evaluate("window.pwned") is None


def test_colours_follow_the_system_until_switched(show):
    page = show(reports.recurrent(), color_scheme="dark")
    background = lambda: page.evaluate("getComputedStyle(document.body).backgroundColor")  # noqa: E731
    dark = background()
    assert max(map(int, re.findall(r"\d+", dark))) < 60
    page.emulate_media(color_scheme="light")
    light = background()
    assert min(map(int, re.findall(r"\d+", light))) > 200
    page.get_by_role("button", name="Use dark colours").click()
    assert background() == dark
    page.emulate_media(color_scheme="dark")
    page.get_by_role("button", name="Use light colours").click()
    assert background() == light


def test_the_graph_shows_one_direction_or_both(show):
    page = show(reports.recurrent())
    expect(page.locator("#canvas .link.b").first).to_be_visible()
    page.get_by_role("radio", name="Forward").click()
    expect(page.locator("#canvas .link.b").first).to_be_hidden()
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#canvas .link.f").first).to_be_hidden()
    expect(page.get_by_role("radio", name="Backward")).to_be_focused()


def test_five_thousand_steps_open_in_three_seconds(show):
    page = show(reports.layered(5000))
    ready = page.evaluate("performance.getEntriesByName('ready')[0].startTime")
    assert ready < 3000
    # Of all of it only what is in view is in the document.
    assert page.locator("#steps .row").count() < 100 and page.locator("#canvas .card").count() < 100
    line(page, "h3 =").click()
    expect(page.locator("#step-count")).to_have_text("120 of 5,000")
    page.locator("#steps .row").nth(3).click()
    expect(page.locator("#canvas .card.on:not(.box):not(.group)")).to_have_count(1)


def test_a_long_program_folds_by_line_and_by_pass_of_a_loop(show):
    def double(x):
        x = jnp.sin(x)
        return 2 * x

    def loss(x):
        for _ in range(15):
            x = double(x)
        return jnp.sum(x)

    page = show(explain(loss)(1.0).to_dict())
    cards = page.locator("#canvas .card .name")
    assert [re.sub(r"^\d+ +", "", text) for text in cards.all_inner_texts()] == ["x = double(x)", "return jnp.sum(x)"]
    for title in ("x = double(x)", "pass 1 of 15"):
        page.locator("#canvas .card", has_text=title).locator(".knob").click()
    assert {"sin", "mul"} <= set(cards.all_inner_texts())
    # The line that calls leads to the steps of all passes.
    line(page, "x = double(x)").click()
    expect(page.locator("#step-count")).to_have_text(re.compile("^30 of "))


@pytest.mark.parametrize("width", [360, 800, 1100])
def test_narrow_screens_need_no_sideways_scrolling(show, width):
    page = show(reports.recurrent())
    page.set_viewport_size({"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_an_empty_report_opens(show):
    page = show(reports.Recorder("constant", {"constant.py": "def constant(x): return 1.0\n"}).report())
    expect(page.locator("#no-steps")).to_be_visible()


def test_a_float_without_a_name_in_json_is_refused():
    with pytest.raises(ValueError, match="JSON"):
        pages.render({"totals": float("nan")})


def test_the_report_of_a_real_program_shows(show):
    @jax.jit
    def cell(w, x):
        return jnp.tanh(x @ w)

    def loss(params, x):
        x, _ = jax.lax.scan(lambda x, _: (cell(params["w"], x), None), x, length=5)
        return jnp.sum(x * params["b"])

    report = explain(loss)({"w": jnp.eye(3), "b": jnp.ones(3)}, jnp.arange(3.0)).to_dict()
    page = show(report)
    expect(line(page, 'return jnp.sum(x * params["b"])')).to_be_visible()
    page.locator("#query").fill("tanh")
    page.keyboard.press("Enter")
    page.keyboard.press("End")
    page.keyboard.press("Enter")
    expect(page.locator("#details .rule").first).to_contain_text("ct")
    assert page.get_by_role("img", name="Norm in each iteration").count() > 0
    expect(page.locator("#canvas .card.on:not(.box):not(.group)")).to_have_count(1)


def test_the_memory_of_the_compiled_gradient_is_shown_with_it(show):
    def model(w, x):
        return jnp.sum(jnp.sin(jnp.sin(x @ w) @ w))

    args = jnp.eye(8), jnp.ones((64, 8))
    report = {**explain(model)(*args).to_dict(), "memory": memory(model)(*args).to_dict()}
    page = show(report)
    overview = page.locator("#details")
    expect(overview).to_contain_text("Memory of the compiled gradient")
    expect(overview).to_contain_text("f32[64,8] of dot_general")
    expect(overview).to_contain_text("memory=0.5")
    overview.locator("button.link-button", has_text="test_page.py:").first.click()
    expect(page.locator("#chosen")).to_contain_text("test_page.py:")
