"""The report of a real study in Chromium: silent, without a request, linked charts, for eyes, phones and paper."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from sim import run
from sim.report.html import write_report
from sim.report.reading import read_results
from sim.scenario import load_scenario

pytestmark = pytest.mark.slow

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
if not (CHROMIUM and DRIVER):
    pytest.skip("needs Chromium and its driver (Debian: chromium, chromium-driver)", allow_module_level=True)

from selenium.webdriver import Chrome, ChromeOptions, ChromeService  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.wait import WebDriverWait  # noqa: E402

SCENARIO = Path(__file__).parents[2] / "scenarios" / "heart.toml"
WIDE, PHONE = 1400, 360


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of four methods on the heart-disease records, with and without DP."""
    folder = tmp_path_factory.mktemp("study")
    asked = ["seeds=[0, 1]", "train.rounds=4", 'sweep={"privacy.epsilon" = [3, inf]}']
    run(load_scenario(SCENARIO, asked, ["local", "fedavg", "splitfed-v1"]), out=folder)
    return write_report(read_results(folder / "heart"), folder / "heart")


@pytest.fixture
def chrome() -> Iterator[Chrome]:
    options = ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = Chrome(options=options, service=ChromeService(str(DRIVER)))
    try:
        yield driver
    finally:
        driver.quit()


def opened(chrome: Chrome, page: Path, width: int = WIDE) -> None:
    screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width == PHONE}
    chrome.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    chrome.get(page.as_uri())
    WebDriverWait(chrome, 120).until(lambda _: chrome.execute_script("return document.documentElement.dataset.drawn"))


def unfold(chrome: Chrome) -> None:
    chrome.execute_script("for (const fold of document.querySelectorAll('.fold, .below')) fold.open = true")


def strengths(chrome: Chrome, panel: str) -> dict[str, float]:
    """Opacity of a panel's marks, by series, from the scene that Vega has drawn."""
    return chrome.execute_async_script(
        """
        const [panel, done] = arguments, found = {};
        const visit = (item) => {
          if (item.datum?.series && item.shape) found[item.datum.series] = item.opacity ?? 1;
          (item.items ?? []).forEach(visit);
        };
        const view = views[panel];
        view.runAsync().then(() => { visit(view.scenegraph().root); done(found); });
        """,
        panel,
    )


def test_silent_and_without_a_request(chrome: Chrome, page: Path) -> None:
    opened(chrome, page)
    assert [entry["message"] for entry in chrome.get_log("browser")] == []
    asked = []
    for entry in chrome.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            asked.append(message["params"]["request"]["url"])
    assert page.as_uri() in asked  # the log sees requests at all
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []
    charts = "return [...document.querySelectorAll('.chart')].map((chart) => !!chart.querySelector('svg path'))"
    drawn = chrome.execute_script(charts)
    assert len(drawn) >= 10
    assert all(drawn)


def test_a_script_that_is_not_ours_does_not_run(chrome: Chrome, page: Path, tmp_path: Path) -> None:
    text = page.read_text(encoding="utf-8").replace("</main>", "<script>window.foreign = 1</script></main>")
    copy = tmp_path / "report.html"
    copy.write_text(text, encoding="utf-8")
    opened(chrome, copy)
    assert chrome.execute_script("return window.foreign") is None
    assert any("Content Security Policy" in entry["message"] for entry in chrome.get_log("browser"))


def test_keyboard_picks_a_method_in_every_chart(chrome: Chrome, page: Path) -> None:
    opened(chrome, page)
    assert set(strengths(chrome, "pareto-0").values()) == {1.0}
    box = chrome.find_element(By.CSS_SELECTOR, "input[name=method][value=FedAvg]")
    chrome.execute_script("document.querySelector('.picker summary').focus()")
    for _ in range(20):  # Tab reaches it from the list's heading
        if chrome.switch_to.active_element == box:
            break
        chrome.switch_to.active_element.send_keys(Keys.TAB)
    assert chrome.switch_to.active_element == box
    box.send_keys(Keys.SPACE)
    for panel in ("privacy-0", "pareto-1", "learning-0", "clinics-0"):
        found = strengths(chrome, panel)
        assert found.pop("FedAvg") > 0.8
        assert set(found) >= {"Local", "SplitFed V1, vanilla"}
        assert max(found.values()) < 0.2
    assert chrome.find_element(By.ID, "picked").text == "FedAvg"
    clear = chrome.find_element(By.ID, "clear")
    clear.send_keys(Keys.ENTER)
    assert set(strengths(chrome, "pareto-1").values()) == {1.0}


def test_a_click_in_one_chart_highlights_in_the_others(chrome: Chrome, page: Path) -> None:
    opened(chrome, page)
    place = chrome.execute_script(
        """
        const chart = document.getElementById("privacy-0");
        chart.scrollIntoView({block: "center"});
        const marks = [...chart.querySelectorAll(".mark-symbol path")];
        const mark = marks.find((path) => path.__data__.datum.series === "Local");
        const box = mark.getBoundingClientRect();
        return [box.x + box.width / 2, box.y + box.height / 2];
        """
    )
    at = {"x": place[0], "y": place[1], "button": "left", "clickCount": 1}
    for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
        chrome.execute_cdp_cmd("Input.dispatchMouseEvent", {"type": kind, **at})
    assert chrome.execute_script("return state.picked") == ["Local"]
    found = strengths(chrome, "learning-0")
    assert found.pop("Local") > max(found.values())
    assert chrome.find_element(By.CSS_SELECTOR, "input[value=Local]").is_selected()


def test_choices_change_what_is_drawn(chrome: Chrome, page: Path) -> None:
    opened(chrome, page)
    points = "return views['pareto-2'].data('data_0').map((row) => [row.adversary, row.score, row.epsilon])"
    assert {row[0] for row in chrome.execute_script(points)} == {"Model user"}
    for name, key in (("adversary", "s"), ("score", "acc")):
        chrome.find_element(By.CSS_SELECTOR, f"select[data-parameter={name}]").send_keys(key)
    strengths(chrome, "pareto-2")  # waits for the chart
    rows = chrome.execute_script(points)
    assert {(row[0], row[1]) for row in rows} == {("Server", "Accuracy")}
    assert {row[2] for row in rows} == {"0", "3", "∞"}  # local sends nothing; SplitFed's smashed data has no noise


def test_every_chart_has_words_a_table_and_a_download(chrome: Chrome, page: Path) -> None:
    opened(chrome, page)
    unfold(chrome)
    for figure in chrome.find_elements(By.TAG_NAME, "figure"):
        assert len(figure.find_element(By.CSS_SELECTOR, "[role=img]").get_attribute("aria-label") or "") > 50
        details = figure.find_element(By.CSS_SELECTOR, "details[data-table]")
        details.find_element(By.TAG_NAME, "summary").send_keys(Keys.ENTER)
        WebDriverWait(chrome, 20).until(lambda _, place=details: place.find_elements(By.TAG_NAME, "td"))
        name = figure.find_element(By.CSS_SELECTOR, "button[data-table]").get_attribute("data-table")
        lines = chrome.execute_script("return csv(arguments[0])", name).splitlines()
        assert {"series", "method"} & set(lines[0].split(","))
        assert len(lines) - 1 == chrome.execute_script("return rowsOf(arguments[0]).length", name)


def test_no_axis_repeats_a_tick_and_every_chart_has_one(chrome: Chrome, page: Path) -> None:
    opened(chrome, page)
    axes = chrome.execute_script(
        """
        return [...document.querySelectorAll(".role-axis-label")].map((axis) =>
          [...axis.querySelectorAll("text")].filter((text) => text.getAttribute("opacity") !== "0" && text.textContent)
            .map((text) => text.textContent));
        """
    )
    assert len(axes) > 15
    assert [axis for axis in axes if len(set(axis)) < len(axis)] == []
    assert [axis for axis in axes if axis and len(axis) < 2] == []


@pytest.mark.parametrize("width", [WIDE, PHONE])
def test_fits_the_screen(chrome: Chrome, page: Path, width: int, tmp_path: Path) -> None:
    opened(chrome, page, width)
    assert chrome.execute_script("return document.documentElement.scrollWidth") == width
    assert chrome.execute_script("return document.documentElement.scrollHeight") < (3_000 if width == WIDE else 6_000)
    unfold(chrome)
    assert chrome.execute_script("return document.documentElement.scrollWidth") == width
    wide = chrome.execute_script(
        """
        const charts = [...document.querySelectorAll(".chart svg")];
        return charts.filter((chart) => chart.getBoundingClientRect().right > innerWidth).length;
        """
    )
    assert wide == 0
    picture = base64.b64decode(
        chrome.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True})["data"]
    )
    (tmp_path / "screen.png").write_bytes(picture)
    assert int.from_bytes(picture[16:20], "big") == width


def test_prints_with_its_charts(chrome: Chrome, page: Path, tmp_path: Path) -> None:
    opened(chrome, page)
    pdf = base64.b64decode(chrome.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})["data"])
    (tmp_path / "report.pdf").write_bytes(pdf)
    assert pdf.startswith(b"%PDF")
    folded = """
        const inside = document.querySelectorAll("details.statement table, #provenance ~ details pre");
        return [...inside].map((element) => element.checkVisibility());
    """
    on_screen = chrome.execute_script(folded)
    chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    on_paper = chrome.execute_script(folded)
    assert len(on_paper) >= 5
    assert (any(on_screen), all(on_paper)) == (False, True)
    hidden = (
        "return ['.below button', '.choices', '.clear'].map((s) => getComputedStyle(document.querySelector(s)).display)"
    )
    assert chrome.execute_script(hidden) == ["none"] * 3
    assert chrome.execute_script("return getComputedStyle(document.querySelector('.chart')).display") != "none"
    with_figure = "return getComputedStyle(document.querySelector('.fold:has(> figure)')).breakInside"
    assert chrome.execute_script(with_figure) == "avoid"  # no heading at the foot of a page, its chart on the next
