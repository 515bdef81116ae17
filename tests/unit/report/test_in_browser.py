"""A report in a real browser: opened from disk, without network."""

from collections.abc import Iterator

import pytest
from builders.browser import Tab, find_browser, open_browser
from builders.scored_runs import build_scored_run

from autoseg.processes.progress import SilentProgress
from autoseg.report.pictures import find_colour
from autoseg.report.viewer import SCRIPT
from autoseg.workflows.report.reporting import write_report

BROWSER = find_browser()

pytestmark = [
    pytest.mark.skipif(BROWSER is None, reason="no browser is installed; for Debian: apt-get install chromium"),
    pytest.mark.skipif(not SCRIPT.is_file(), reason="the viewer is not there; fetch it with: make viewer"),
]
SHOWN = "document.querySelector('#panel').dataset.state === 'shown'"
READ_VOXEL = """(() => {
  const viewer = autosegReport.state.viewer;
  const volume = viewer.volumes.find((volume) => volume.name.startsWith("reference"));
  const place = volume.img.indexOf(%d), [, width, height] = volume.hdr.dims;
  const stored = [place %% width, Math.floor(place / width) %% height, Math.floor(place / width / height)];
  const voxel = [width - 1 - stored[0], height - 1 - stored[1], stored[2]]; // from axes L, P, S to R, A, S
  viewer.setCrosshairWidth(0);
  viewer.scene.crosshairPos = viewer.vox2frac(voxel);
  viewer.drawScene();
  const [x, y] = viewer.frac2canvasPos(viewer.scene.crosshairPos), ratio = viewer.uiData.dpr ?? 1;
  const gl = viewer.gl, pixel = new Uint8Array(4);
  gl.readPixels(Math.round(x), gl.drawingBufferHeight - Math.round(y), 1, 1, gl.RGBA, gl.UNSIGNED_BYTE, pixel);
  return [...pixel.slice(0, 3)];
})()"""


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    assert BROWSER is not None
    folder = tmp_path_factory.mktemp("browser")
    outcome = write_report(build_scored_run(folder).root, progress=SilentProgress())
    with open_browser(BROWSER, folder, size=(560, 420)) as opened:
        opened.open(outcome.path)
        yield opened


def name_shown_case(tab: Tab) -> str:
    name: str = tab.evaluate("document.querySelector('#panel').dataset.case")
    return name


def test_a_click_on_a_row_shows_that_case_in_its_colours(tab: Tab) -> None:
    tab.evaluate("document.querySelectorAll('#cases tbody tr')[1].click()")
    tab.wait_for(SHOWN)
    assert name_shown_case(tab) == "case1"
    assert tab.evaluate("document.querySelector('#panel-name').textContent") == "case1"
    tab.evaluate("document.querySelector('[data-view=axial]').click()")
    tab.press("2")  # the prediction is hidden, the reference shown
    tab.press("1")
    tab.evaluate("(() => { const input = document.querySelector('#opacity'); input.value = 100;"
                 " input.dispatchEvent(new Event('input')); })()")  # fmt: skip
    for label in (1, 2):
        found = tab.evaluate(READ_VOXEL % label)
        assert max(abs(a - b) for a, b in zip(found, find_colour(label), strict=True)) <= 8, (label, found)
    assert tab.list_problems() == []


def test_keys_step_through_the_cases_in_the_order_of_the_table(tab: Tab) -> None:
    tab.press("n")
    tab.wait_for("document.querySelector('#panel').dataset.case === 'case2'")
    tab.wait_for(SHOWN)
    tab.evaluate("document.querySelector('#close').click()")
    assert tab.evaluate("document.querySelector('#panel').open") is False


def test_a_table_is_sorted_by_a_click_on_a_heading(tab: Tab) -> None:
    tab.evaluate("document.querySelectorAll('#cases th button')[2].click()")
    tab.evaluate("document.querySelectorAll('#cases th button')[2].click()")
    assert tab.evaluate("document.querySelector('#cases tbody tr').cells[0].textContent") == "case5"
    assert tab.evaluate("document.querySelectorAll('#cases th')[2].getAttribute('aria-sort')") == "descending"


def test_the_theme_changes_by_a_key_and_nothing_is_wrong_in_the_console(tab: Tab) -> None:
    paper = "getComputedStyle(document.body).backgroundColor"
    before = tab.evaluate(paper)
    tab.press("t")
    assert tab.evaluate(paper) != before
    assert tab.list_problems() == []


def press_on_row(tab: Tab, row: int, *keys: str) -> None:
    tab.evaluate(f"document.querySelectorAll('#cases tbody tr')[{row}].focus()")
    for key in keys:
        tab.press(key)


def test_rows_are_reached_and_opened_and_closed_by_keys_alone(tab: Tab) -> None:
    press_on_row(tab, 0, "ArrowDown", "ArrowDown", "ArrowUp")
    focused = "[...document.querySelectorAll('#cases tbody tr')].indexOf(document.activeElement)"
    assert tab.evaluate(focused) == 1
    expected = tab.evaluate("document.activeElement.cells[0].textContent")
    tab.press("Enter")
    tab.wait_for(SHOWN)
    assert name_shown_case(tab) == expected
    tab.press("Escape")
    tab.wait_for("document.querySelector('#panel').open === false")
    unreachable = (
        "[...document.querySelectorAll('tr[data-case], .card[data-case]')].filter((place) => place.tabIndex < 0).length"
    )
    assert tab.evaluate(unreachable) == 0


CONTRAST = """(() => {
  const light = (text) => {
    const parts = text.match(/[\\d.]+/g).slice(0, 3).map((part) => part / 255);
    const linear = parts.map((part) => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
  };
  const back = (place) => {
    for (; place; place = place.parentElement) {
      const colour = getComputedStyle(place).backgroundColor;
      if (/^rgb\\(/.test(colour)) return colour; // else it is translucent
    }
    return "rgb(255, 255, 255)";
  };
  const places = [...document.querySelectorAll("h1, h2, h3, p, td, th, dt, dd, nav a, .warning, .note")];
  const seen = places.filter((place) => place.offsetParent !== null && place.textContent.trim());
  const ratios = seen.map((place) => {
    const [high, low] = [getComputedStyle(place).color, back(place)].map(light).sort((a, b) => b - a);
    return (high + 0.05) / (low + 0.05);
  });
  return [seen.length, Math.min(...ratios)];
})()"""
"""Number of visible texts, and the lowest contrast of a text with its background (WCAG 2.1)."""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_are_readable_in_both_colour_schemes(tab: Tab, scheme: str) -> None:
    tab.evaluate("delete document.documentElement.dataset.theme")
    tab.call("Emulation.setEmulatedMedia", media="", features=[{"name": "prefers-color-scheme", "value": scheme}])
    paper = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, paper[4:-1].split(","))) > 384) == (scheme == "light")
    count, lowest = tab.evaluate(CONTRAST)
    assert count > 50
    assert lowest >= 4.5


def test_it_is_printed_black_on_white_with_all_rows_and_without_buttons(tab: Tab) -> None:
    tab.evaluate("document.documentElement.dataset.theme = 'dark'")
    tab.evaluate("document.querySelector('#cases tbody tr').click()")
    tab.wait_for(SHOWN)
    tab.call("Emulation.setEmulatedMedia", media="print", features=[])
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    for hidden in ("nav", "#theme", "#panel"):
        assert tab.evaluate(f"getComputedStyle(document.querySelector('{hidden}')).display") == "none"
    clipped = (
        "[...document.querySelectorAll('.scroll, .tall')].filter((p) => getComputedStyle(p).overflowY !== 'visible')"
    )
    assert tab.evaluate(f"{clipped}.length") == 0
    assert tab.evaluate(CONTRAST)[1] >= 4.5
    printed = tab.call("Page.printToPDF")["data"]
    assert len(printed) > 10_000
    tab.call("Emulation.setEmulatedMedia", media="", features=[])
    assert tab.list_problems() == []
