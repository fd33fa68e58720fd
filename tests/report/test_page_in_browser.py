"""The page in a headless Chromium: no errors, fits a phone, boxes where they belong, keys work."""

import json
import shutil

import pytest

from g2rpo_jax import report
from g2rpo_jax.config import RunConfig, to_plain
from tests.report import browser, run_folder

PROGRAM = browser.find()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PROGRAM is None, reason=f"none of {', '.join(browser.NAMES)} is on PATH"),
]

TOO_WIDE = """[...document.querySelectorAll("body *")]
  .filter(e => !e.closest(".scroll, .strip, .skip, .stage"))
  .filter(e => e.getBoundingClientRect().right > document.documentElement.clientWidth + 1)
  .map(e => e.tagName + "." + e.getAttribute("class"))"""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The page of a synthetic run, moved away from its folder: it needs nothing beside it."""
    folder = run_folder.make(tmp_path_factory.mktemp("runs") / "run")
    path = report.write_page(folder, to_plain(RunConfig()))
    return shutil.copy(path, tmp_path_factory.mktemp("alone") / "page.html")


@pytest.fixture(scope="module")
def chrome(tmp_path_factory):
    """The browser."""
    opened = browser.Browser(PROGRAM, tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


def show(chrome, where):
    """Shows the first sample for which the JavaScript condition on `row` holds."""
    chrome.value(f"view.rows = DATA.samples, view.at = DATA.samples.findIndex(row => {where})")
    assert chrome.value("view.at >= 0"), where
    chrome.value("showRow()")
    chrome.settle()


def fractions(chrome, selector):
    """Rectangles of drawn boxes as [left, top, right, bottom] in thousandths of the picture."""
    return chrome.value(
        f"""(() => {{
          const picture = document.querySelector(".stage img").getBoundingClientRect();
          return [...document.querySelectorAll("{selector}")].map(node => {{
            const box = node.getBBox();
            const at = node.ownerSVGElement.getBoundingClientRect();
            const x = at.left + box.x - picture.left, y = at.top + box.y - picture.top;
            return [x / picture.width, y / picture.height,
              (x + box.width) / picture.width, (y + box.height) / picture.height]
              .map(v => 1000 * v);
          }});
        }})()"""
    )


@pytest.mark.parametrize("width, dark", [(1280, False), (1280, True), (390, False), (320, True)])
def test_it_draws_without_an_error_and_fits(chrome, page, tmp_path, width, dark):
    chrome.open(page, width=width, dark=dark)
    state = json.loads(chrome.value("JSON.stringify(document.documentElement.dataset)"))
    assert state == {"rendered": "true"} and chrome.errors == [] and chrome.requests == []
    chrome.value("document.querySelectorAll('details').forEach(d => d.open = true)")
    for name in ("hostile", "tracking", "segmentation", "several"):
        show(chrome, f"row.id === '{name}' || row.task === '{name}'")
        assert chrome.value("document.documentElement.scrollWidth") <= width
        assert chrome.value(TOO_WIDE) == []
    chrome.screenshot(tmp_path / "seen.png")
    assert (tmp_path / "seen.png").stat().st_size > 5_000
    assert chrome.errors == []


def test_no_section_is_empty_and_every_chart_has_its_lines(chrome, page):
    chrome.open(page)
    assert chrome.value(
        "[...document.querySelectorAll('.body')].every(b => b.textContent.length > 40)"
    )
    charts = chrome.value(
        "[...document.querySelectorAll('.charts .chart')].filter(c => !c.closest('details'))"
        ".map(c => [c.dataset.metric, c.querySelectorAll('g.series path').length])"
    )
    assert dict(charts) == {
        "eval/accuracy": 7,
        "reward/accuracy": 7,
        "rollout/length_tokens": 7,
        "policy/entropy": 7,
        "rollout/gap": 1,
        "rollout/tokens_per_s": 1,
    }


def test_boxes_stand_where_answer_and_truth_say(chrome, page):
    for width in (1280, 390):
        chrome.open(page, width=width)
        show(chrome, "row.task === 'spatial_grounding'")
        truth = chrome.value("JSON.parse(view.rows[view.at].answer).boxes")
        assert fractions(chrome, "rect.truth") == [pytest.approx(truth, abs=3)]
        # The response with the highest reward first.
        assert fractions(chrome, "rect.guess:not(.other)") == [
            pytest.approx([100, 200, 300, 600], abs=3)
        ]
        chrome.value("document.querySelectorAll('.number')[1].click()")
        assert fractions(chrome, "rect.guess:not(.other)") == [
            pytest.approx([0, 0, 500, 500], abs=3)
        ]
        # Corners in the wrong order are drawn as the box they span.
        chrome.value("document.querySelectorAll('.number')[2].click()")
        assert fractions(chrome, "rect.guess:not(.other)") == [
            pytest.approx([20, 10, 990, 500], abs=3)
        ]


def test_a_track_is_drawn_on_the_frame_that_is_shown(chrome, page):
    chrome.open(page)
    show(chrome, "row.task === 'tracking'")
    frames = chrome.value("videoOf(view.rows[view.at]).frames.map(f => f.time)")
    for second in (1, 4):
        chrome.value(f"document.querySelectorAll('.strip button')[{frames.index(second)}].click()")
        left = 125 * second
        assert fractions(chrome, "rect.truth") == [
            pytest.approx([left, 333, left + 190, 680], abs=3)
        ]
    chrome.value(f"document.querySelectorAll('.strip button')[{frames.index(0)}].click()")
    assert fractions(chrome, "rect.truth") == []


def test_points_are_drawn_in_their_places(chrome, page):
    chrome.open(page)
    show(chrome, "row.task === 'segmentation'")
    centres = [[(p[0] + p[2]) / 2, (p[1] + p[3]) / 2] for p in fractions(chrome, "circle.truth")]
    assert centres == [
        pytest.approx(p, abs=3)
        for p in ([400, 400], [500, 500], [600, 600], [100, 100], [900, 100], [900, 900])
    ]


def test_every_picture_of_a_row_is_shown(chrome, page):
    chrome.open(page)
    show(chrome, "row.id === 'several'")
    shapes = "[...document.querySelectorAll('.stage')].map(s => s.clientWidth / s.clientHeight)"
    assert chrome.value(shapes) == [pytest.approx(r, rel=0.05) for r in (4, 1.5, 20 / 90)]


def test_a_task_alone_shows_its_configured_band(chrome, page):
    chrome.open(page)
    band = "document.querySelectorAll('[data-metric=\"policy/entropy\"] .band').length"
    assert chrome.value(band) == 0
    chrome.value(
        "document.querySelector('.chip[data-task=ocr]').dispatchEvent(new Event('pointerenter'))"
    )
    assert chrome.value(band) == 1


def test_hostile_text_is_text(chrome, page):
    chrome.open(page)
    show(chrome, "row.id === 'hostile'")
    assert "</script><script>document" in chrome.value(
        "document.querySelector('.thinking').textContent"
    )
    assert chrome.value("document.querySelectorAll('.viewer script, .viewer iframe').length") == 0
    assert chrome.value("[...document.images].every(i => i.src.startsWith('data:image/'))")
    assert chrome.value("document.documentElement.dataset.error === undefined")
    assert "characters left out" in chrome.value("document.querySelector('.responses').textContent")


def test_the_policy_stops_what_would_slip_through(chrome, page):
    chrome.open(page)
    chrome.value(
        """document.body.insertAdjacentHTML("beforeend",
        '<img src="data:," onerror="document.documentElement.dataset.error=1">'
        + '<img src="http://127.0.0.1:9/x.png">')"""
    )
    chrome.value("new Promise(f => setTimeout(f, 100))")
    assert chrome.value("document.documentElement.dataset.error === undefined")
    assert sum("Content Security Policy" in error for error in chrome.errors) == 2


def test_rows_can_be_filtered_and_stepped_through_with_keys(chrome, page):
    chrome.open(page)
    count = "document.querySelector('#rollouts [role=status]').textContent"
    total = chrome.value("DATA.samples.length")
    assert chrome.value(count) == f"1 of {total}"
    chrome.value("document.querySelector('#rollouts .number').focus()")
    chrome.key("ArrowRight")
    assert chrome.value(count) == f"2 of {total}"
    assert chrome.value("location.hash") == "#sample-2"
    chrome.value(
        """(() => { const fate = document.querySelector("[data-filter=fate]");
        fate.value = "all right"; fate.dispatchEvent(new Event("change")); })()"""
    )
    assert chrome.value(count) == "1 of 6"
    assert "none: all right" in chrome.value("document.querySelector('.advantage').textContent")


def test_an_address_names_a_row(chrome, page):
    chrome.open(page)
    chrome.value("location.hash = '#sample-5'; location.reload()")
    chrome.value("new Promise(f => setTimeout(f, 50))")
    while not chrome.value("document.documentElement.dataset.rendered === 'true'"):
        pass
    assert chrome.value("view.at") == 4


def test_curves_tell_values_and_tasks_can_be_hidden(chrome, page):
    chrome.open(page)
    chart = "document.querySelector('[data-metric=\"eval/accuracy\"]')"
    plot = f"{chart}.querySelector('svg')"
    chrome.value(f"{chart}.scrollIntoView({{behavior: 'instant'}})")
    x, y, width = chrome.value(
        f"(r => [r.left, r.top + 60, r.width])({plot}.getBoundingClientRect())"
    )
    chrome.move(x + width - 15, y)
    chrome.settle()
    told = chrome.value(f"{chart}.querySelector('.tip').innerText")
    assert "step 6" in told and "ocr" in told and "0.53" in told
    inside = "r.top >= c.top && r.left >= c.left && r.right <= c.right + 1"
    rectangles = f"({chart}.querySelector('.tip').getBoundingClientRect(), "
    rectangles += f"{chart}.getBoundingClientRect())"
    assert chrome.value(f"((r, c) => {inside}){rectangles}")
    chrome.value("document.querySelector('.chip[data-task=ocr]').click()")
    chrome.value(f"{plot}.focus()")
    chrome.key("End")
    told = chrome.value(f"{chart}.querySelector('.tip').innerText")
    assert "step 6" in told and "ocr" not in told
    assert chrome.value(f"{chart}.querySelectorAll('g.series').length") == 6


def test_the_configuration_can_be_searched(chrome, page):
    chrome.open(page)
    seen = (
        "[...document.querySelectorAll('.field')].filter(f => f.offsetParent).map(f => f.innerText)"
    )
    chrome.value(
        """(() => { const find = document.querySelector("#config input[type=search]");
        find.value = "optim.lr"; find.dispatchEvent(new Event("input")); })()"""
    )
    assert chrome.value(seen) == ["lr = 0.0003 (default 0.000002)"]
    chrome.value(
        """(() => { const find = document.querySelector("#config input[type=search]");
        find.value = ""; find.dispatchEvent(new Event("input")); })()"""
    )
    chrome.value("document.querySelector('#config input[type=checkbox]').click()")
    changed = chrome.value(seen)
    assert changed and all("(default" in text for text in changed)
    assert any(text.startswith("steps = 230") for text in changed)
