"""The page of `innerstep report` in a real browser: keyboard, narrow screens, themes, charts, hostile names."""

import re

import pytest
from browser import NAMES, Browser, find_browser
from sample_reports import HOSTILE, events, held_out_line, metric_lines, training_line, write_run

from trainer.report_page.report import write_report

pytestmark = pytest.mark.skipif(
    find_browser() is None, reason=f"needs a browser: one of {', '.join(NAMES)}, or CHROMIUM in the environment"
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Browser(tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one")
    lines = [training_line(40, loss=None, nonfinite={"loss": "nan"}), *metric_lines()]
    run = write_run(folder / "run", lines, events(resumed_after=[20]), grad_clip_norm=2.5)
    write_report([str(run)], None)
    return run / "report.html"


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    first = write_run(folder / "first", timeline=events())
    lines = [{**line, "loss": 3 * line["loss"]} for line in metric_lines()]
    second = write_run(folder / "second", lines, events(), accumulate=3)
    write_report([str(first), str(second)], folder / "page.html")
    return folder / "page.html"


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    names = {f"loss/{HOSTILE}": 1.0, HOSTILE: 2.0, f"lr/{HOSTILE}": 1.0, f"grad_norm/{HOSTILE}": 1.0, "__proto__": 3.0}
    lines = [training_line(step, **names) for step in range(9)] + [held_out_line(9, 0.5, **names)]
    timeline = [{**event, "plan": HOSTILE, "message": HOSTILE, "device": HOSTILE} for event in events()]
    runs = [write_run(folder / f"{number}'\"<b>&lt;</title>".replace("/", "∕"), lines, timeline) for number in "12"]
    write_report([str(run) for run in runs], folder / "page.html")
    return folder / "page.html"


def paths(browser, title):
    """Return the number of curves in the chart of this title."""
    return browser.run(
        "[...document.querySelectorAll('figure')].find("
        f"(one) => one.querySelector('figcaption').textContent.startsWith({title!r})"
        ").querySelectorAll('.curve').length"
    )


def tab_to(browser, condition):
    """Press Tab until the active element fulfils a condition of `it`."""
    for _ in range(80):
        browser.press("Tab")
        if browser.run(f"((it) => Boolean({condition}))(document.activeElement)"):
            return
    raise AssertionError(f"no element with {condition} is reached by Tab")


def test_a_page_shows_every_section_and_asks_for_nothing_outside_it(browser, one):
    browser.open(one)
    headings = browser.run("[...document.querySelectorAll('h2')].map((one) => one.firstChild.textContent)")
    assert headings == [
        "Overview", "Losses", "Metrics", "Learning rates", "Gradients", "Evaluations", "Checkpoints", "Time", "Plan",
        "Config"]  # fmt: skip
    assert browser.run("document.title") == "run · innerstep report"
    assert browser.run("document.body.innerText.includes('[object')") is False
    assert browser.problems() == []


def test_charts_have_curves_the_best_evaluation_resumes_and_odd_values(browser, one):
    browser.open(one, height=4000)
    browser.wait_for("document.querySelectorAll('.curve').length > 8")
    assert paths(browser, "Loss") == 2
    assert paths(browser, "Learning rate") == 2
    assert browser.run("document.querySelectorAll('circle.best').length") == 1
    assert browser.run("document.querySelectorAll('figure:first-child .resume').length") >= 1
    assert browser.run("document.querySelectorAll('.odd').length") == 1
    assert "1 value not finite, the first nan at update 40" in browser.run("document.body.innerText")


def test_the_legend_hides_and_shows_a_run_by_keyboard(browser, two):
    browser.open(two)
    browser.wait_for("document.querySelectorAll('.curve').length > 0")
    assert paths(browser, "Loss") == 4
    tab_to(browser, "it.closest('#runs') && it.textContent === 'second'")
    browser.press(" ")
    assert browser.run("document.activeElement.getAttribute('aria-pressed')") == "false"
    browser.wait_for("document.querySelector('figure').querySelectorAll('.curve').length === 2")
    browser.press("Enter")
    browser.wait_for("document.querySelector('figure').querySelectorAll('.curve').length === 4")


def test_the_smoothing_slider_moves_the_curve_and_leaves_the_raw_line_behind(browser, one):
    browser.open(one)
    browser.wait_for("document.querySelector('.raw')")
    curve = "document.querySelector('figure .curve').getAttribute('d')"
    before = browser.run(curve)
    tab_to(browser, "it.id === 'smoothing'")
    browser.press("Home")
    browser.wait_for(f"{curve} !== {before!r}")
    assert browser.run("document.querySelector('output').textContent") == "0.00"
    assert browser.run("document.querySelector('figure .raw')") is None, "the curve is the raw line"


def test_arrows_read_out_the_values_of_a_chart(browser, one):
    browser.open(one)
    browser.wait_for("document.querySelector('.curve')")
    tab_to(browser, "it.classList.contains('plot')")
    browser.press("Home")
    assert browser.run("document.activeElement.querySelector('[aria-live]').textContent").startswith(
        "update 0, training 2"
    )
    browser.press("ArrowRight", 2)
    spoken = browser.run("document.activeElement.querySelector('[aria-live]').textContent")
    assert re.match(r"update 2, training 1\.\d+ \(raw 0\.6667\)", spoken)
    browser.press("+")
    assert browser.run("document.getElementById('reset').hidden") is False
    browser.press("Escape")
    assert browser.run("document.getElementById('reset').hidden") is True


def test_dragging_over_a_chart_shows_that_part_of_all_charts(browser, one):
    browser.open(one)
    browser.wait_for("document.querySelector('.curve')")
    box = browser.run("(({x, y, width}) => [x, y, width])(document.querySelector('.plot').getBoundingClientRect())")
    x, y, width = box[0], box[1] + 60, box[2]
    browser.mouse("mouseMoved", x + width * 0.4, y)
    browser.mouse("mousePressed", x + width * 0.4, y, button="left", clickCount=1)
    browser.mouse("mouseMoved", x + width * 0.7, y, button="left")
    browser.mouse("mouseReleased", x + width * 0.7, y, button="left", clickCount=1)
    assert browser.run("state.range.map(Math.round)")[0] in range(8, 20)
    browser.run("document.getElementById('reset').click()")
    assert browser.run("state.range") is None


def test_the_logarithmic_scale_changes_the_ticks(browser, one):
    browser.open(one)
    browser.wait_for("document.querySelector('.curve')")
    labels = "[...document.querySelector('#losses .plot svg').querySelectorAll('text')].map((one) => one.textContent)"
    before = browser.run(labels)
    browser.run("document.getElementById('losses-log').click()")
    browser.wait_for(f"JSON.stringify({labels}) !== JSON.stringify({before})")
    assert "0.1" in browser.run(labels)


def test_the_values_of_a_chart_can_be_read_as_a_table(browser, one):
    browser.open(one)
    browser.run("document.querySelector('#losses figure details').open = true")
    browser.wait_for("document.querySelector('#losses figure table')")
    rows = "[...document.querySelectorAll('#losses figure')[0].querySelectorAll('tbody tr')]"
    assert browser.run(f"{rows}[10].innerText.split(/\\s+/)") == ["10", "0.181818", "0.3"]


@pytest.mark.parametrize("width", [320, 360, 768])
def test_a_narrow_screen_needs_no_sideways_scrolling(browser, one, two, hostile, width):
    for page in (one, two, hostile):
        browser.open(page, width=width, height=700)
        browser.run("for (const one of document.querySelectorAll('details')) one.open = true")
        browser.wait_for("document.querySelector('.curve')")
        assert browser.run("document.documentElement.scrollWidth") <= width, page


def test_the_theme_follows_the_system_until_one_is_chosen(browser, one):
    background = "getComputedStyle(document.body).backgroundColor"
    browser.open(one, scheme="dark")
    assert browser.run(background) == "rgb(19, 21, 26)"
    browser.open(one, scheme="light")
    assert browser.run(background) == "rgb(255, 255, 255)"
    choose = "((it) => {{ it.value = '{}'; it.dispatchEvent(new Event('change')); }})(document.getElementById('theme'))"
    browser.run(choose.format("dark"))
    assert browser.run(background) == "rgb(19, 21, 26)"
    browser.run(choose.format("auto"))
    assert browser.run(background) == "rgb(255, 255, 255)"


CONTRAST = """(() => {
  const channel = (value) => (value / 255 <= 0.04045 ? value / 255 / 12.92 : ((value / 255 + 0.055) / 1.055) ** 2.4);
  const weights = [0.2126, 0.7152, 0.0722];
  const light = (text) => weights.reduce((sum, weight, at) => sum + weight * channel(text.match(/\\d+/g)[at]), 0);
  const box = document.body.appendChild(document.createElement('i'));
  const colour = (name) => { box.style.color = `var(--${name})`; return light(getComputedStyle(box).color) + 0.05; };
  const ratio = (...names) => { const [low, high] = names.map(colour).sort((a, b) => a - b); return high / low; };
  const words = ['text', 'muted', 'accent', 'good', 'bad'];
  const texts = words.flatMap((text) => [[text, 'page', 4.5], [text, 'panel', 4.5]]);
  const lines = [...Array(8).keys()].map((index) => [`c${index}`, 'page', 3]);
  const all = [...texts, ...lines, ['text', 'mark', 4.5], ['strong', 'page', 3]];
  return all.filter(([one, other, least]) => ratio(one, other) < least);
})()"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_and_lines_have_enough_contrast(browser, one, scheme):
    browser.open(one, scheme=scheme)
    assert browser.run(CONTRAST) == []


def test_controls_charts_and_tables_have_names(browser, two):
    browser.open(two)
    unnamed = """[...document.querySelectorAll('button, input, select, a, [tabindex="0"], section')]
        .filter((one) => !one.textContent.trim() && !one.closest('label, [aria-label], [aria-labelledby]'))
        .map((one) => one.outerHTML)"""
    assert browser.run(unnamed) == []
    assert browser.run("[...document.querySelectorAll('th')].every((one) => one.scope)") is True
    ids = browser.run("[...document.querySelectorAll('[id]')].map((one) => one.id)")
    assert len(ids) == len(set(ids))


def test_runs_side_by_side_have_the_differences_of_their_configs(browser, two):
    browser.open(two)
    text = browser.run("document.getElementById('config').innerText")
    assert re.search(r"train\.accumulate\s+1\s+3", text)


def test_hostile_names_are_shown_and_do_not_run(browser, hostile):
    browser.open(hostile, height=5000)
    browser.wait_for("document.querySelectorAll('.curve').length > 4")
    browser.run("for (const one of document.querySelectorAll('details')) one.open = true")
    move = "new PointerEvent('pointermove', {clientX: 300})"
    browser.run(f"for (const one of document.querySelectorAll('.plot')) one.dispatchEvent({move})")
    assert browser.run("window.ran") is None
    assert browser.run("document.querySelectorAll('img, b, script:not(#values):not(:last-of-type)').length") == 0
    assert HOSTILE in browser.run("document.getElementById('plan').textContent")
    assert "[object" not in browser.run("document.body.innerText")
    assert browser.problems() == []


def test_the_policy_refuses_what_would_be_put_into_the_page(browser, one):
    browser.open(one)
    browser.run(
        "document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.ran=1\"><iframe src=\"https://example.org\">')"
    )
    browser.run("new Promise((done) => setTimeout(done, 200))")
    assert browser.run("window.ran") is None
    assert any("Content Security Policy" in problem for problem in browser.problems())


def test_reduced_motion_moves_nothing(browser, one):
    browser.open(one, reduced_motion=True)
    durations = "[...document.querySelectorAll('*')].map((one) => getComputedStyle(one).transitionDuration)"
    assert browser.run(f"[...new Set({durations})]") == ["0s"]
    assert browser.run("getComputedStyle(document.documentElement).scrollBehavior") == "auto"


def test_a_print_has_all_charts_in_light_colours_and_no_controls(browser, one):
    browser.open(one, scheme="dark")
    browser.run("window.dispatchEvent(new Event('beforeprint'))")
    browser.call("Emulation.setEmulatedMedia", media="print")
    try:
        assert browser.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert (
            browser.run("[...document.querySelectorAll('.plot')].every((one) => one.querySelector('.curve'))") is True
        )
        assert browser.run("document.getElementById('smoothing').offsetParent") is None
        assert browser.call("Page.printToPDF")["data"]
    finally:
        browser.call("Emulation.setEmulatedMedia", media="")
