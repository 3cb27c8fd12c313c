"""The page in a real browser: light and dark, narrow and wide, from a file, without a network."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from score_tables import group, score_table, user, write_run

from polar_ray.deriving.report.report import report

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (pip install playwright)")

ATTACK = "</script><script>window.attacked = true</script><img src=x onerror='window.attacked = true'><b>bold</b>"
LONG = "a long answer " * 400
ARABIC = "مرحبا بالعالم، هذه إجابة طويلة بعض الشيء"
CHINESE = "兔子有十一只,鸡有十二只。" * 3
WIDE, NARROW = (1280, 900), (360, 740)

CONTRAST = """() => {
  const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const rgb = (color) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = color;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = ([r, g, b]) => [r, g, b]
    .map((v) => v / 255).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const color = rgb(getComputedStyle(at).backgroundColor);
      if (color[3] > 200) return color;
    }
    return rgb("white");
  };
  const poor = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.textContent.trim() || !element.checkVisibility()) continue;
    if (element.closest("script, style, noscript, .sr, option")) continue;
    const style = getComputedStyle(element);
    const color = rgb(element.closest("svg") ? style.fill : style.color);
    const [a, b] = [light(color), light(behind(element))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    const text = walker.currentNode.textContent.trim().slice(0, 40);
    if (ratio < 4.5) poor.push(`${ratio.toFixed(2)} ${element.tagName}.${element.className} ${text}`);
  }
  return poor;
}"""


@pytest.fixture(scope="module")
def page_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report on prompts in several scripts, with two scorers, labels, failures, dead letters and an attack."""
    folder = tmp_path_factory.mktemp("page")
    texts = [LONG, ARABIC, CHINESE, ATTACK, "", "x" * 3000]
    rows = []
    for number in range(24):
        many = 3 + number % 4
        row = group(
            f"prompt-{number:02d}",
            [None if (number + place) % 9 == 0 else ((number * 7 + place * 3) % 11) / 10 for place in range(many)],
            [texts[(number + place) % len(texts)] for place in range(many)],
            prompt=[user([f"question {number}", ARABIC, CHINESE, ATTACK][number % 4])],
        )
        for place, candidate in enumerate(row["candidates"]):
            candidate["model"] = ["small", "large", "a-model-with-a-very-long-name-that-goes-on-and-on-v1.5-chat"][
                place % 3
            ]
        labels = [{"candidate_id": f"c{place}", "kind": "judge", "score": place} for place in range(many)]
        row["extra"] = json.dumps({"labels": labels})
        row["reward_length"] = [float(place) for place in range(many)]
        row["status_length"] = ["truncated" if place == 2 else "ok" for place in range(many)]
        row["reward_main"], row["status_main"] = row["reward"], row["status"]
        rows.append(row)
    lists = {"reward": pa.list_(pa.float32()), "status": pa.list_(pa.string())}
    types = {f"{name}_{scorer}": type_ for scorer in ("main", "length") for name, type_ in lists.items()}
    table = score_table(rows, **types).drop_columns(["reward", "status"])
    run = write_run(folder / "run", table)
    manifest = json.loads((run / "manifest.json").read_text())
    columns = {"columns": {"labels": "labels"}, "candidate_fields": {"candidate_id": "candidate_id"}}
    manifest["recipe"] |= {"name": "a run with a name " + "that-is-long-" * 6, "input": {"layout": "groups", **columns}}
    manifest["counts"]["dead_letters"] = {"invalid_json": 3, "prompt_missing": 1}
    manifest["conservation"] = {"rows_read": 30, "rows_in_groups": 24, "dead_letters": 4, "drops": 2, "holds": True}
    manifest["stage_seconds"] = {"read": 0.5, "score:": 2.0}
    manifest["throughput"] = {"candidates_per_s": 1234.5}
    manifest["inputs"] = [{"path": "/data/" + "deep/" * 20 + "file.jsonl", "size": 12345}]
    manifest |= {"finished": "2026-01-02T03:04:05+00:00", "duration_s": 12.0}
    (run / "manifest.json").write_text(json.dumps(manifest))
    report(str(run), str(folder / "report.html"), processes=1)
    return folder / "report.html"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium: the system's, or the one that playwright installed."""
    with playwright.sync_playwright() as started:
        path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
        quiet = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
        try:
            launched = started.chromium.launch(executable_path=path, args=quiet)
        except playwright.Error:
            pytest.skip("there is no Chromium (install chromium, or run: playwright install chromium)")
        yield launched
        launched.close()


class Opened:
    """A page in a context of its own, with what it said and asked for."""

    def __init__(self, browser: Any, path: Path, size: tuple[int, int] = WIDE, scheme: str = "light") -> None:
        self.context = browser.new_context(
            viewport={"width": size[0], "height": size[1]}, color_scheme=scheme, reduced_motion="reduce"
        )
        self.page = self.context.new_page()
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(path.as_uri())
        # Charts are drawn when their width is known. (To wait for an expression takes an eval, which the page forbids.)
        self.page.locator("[data-chart=density]:visible svg").first.wait_for()

    def __enter__(self) -> "Opened":
        return self

    def __exit__(self, *error: object) -> None:
        self.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [WIDE, NARROW], ids=["wide", "narrow"])
def test_the_page_is_whole_at_every_width_and_in_both_schemes(
    browser: Any, page_path: Path, size: tuple[int, int], scheme: str
) -> None:
    with Opened(browser, page_path, size, scheme) as opened:
        page = opened.page
        for scorer in ("1", "0"):
            page.select_option("#scorer", scorer)
            page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
            page.locator("[data-chart=density]:visible svg").first.wait_for()
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
            assert page.evaluate(CONTRAST) == []
            undrawn = (
                "[...document.querySelectorAll('.chart')].filter((e) => e.checkVisibility() && !e.querySelector('svg'))"
            )
            assert page.evaluate(f"{undrawn}.length") == 0
        assert opened.said == []
        assert [url for url in opened.asked if not url.startswith("data:")] == [page_path.as_uri()]


def test_markup_in_texts_is_shown_as_text(browser: Any, page_path: Path) -> None:
    with Opened(browser, page_path) as opened:
        page = opened.page
        page.fill("#query", "window.attacked")
        assert page.locator("#list li").count() > 0
        assert ATTACK in page.locator("#example").inner_text().replace("\n", " ")
        assert page.evaluate("window.attacked") is None
        assert page.locator("#example img, #example b b, #list img").count() == 0


def test_search_and_filters_narrow_the_list_and_say_how_many_are_left(browser: Any, page_path: Path) -> None:
    with Opened(browser, page_path) as opened:
        page = opened.page
        every = page.locator("#list li").count()
        assert page.locator("#found").inner_text() == f"{every} of {every} prompts"
        page.fill("#query", "QUESTION 8")
        assert page.locator("#list li").count() == 1
        assert page.locator("#example mark").first.inner_text() == "question 8"
        assert page.locator("#found").inner_text() == f"1 of {every} prompts"
        page.fill("#query", "(no such text [")
        assert page.locator("#list li").count() == 0
        assert "No example fits" in page.locator("#example").inner_text()
        page.fill("#query", "")
        page.select_option("#status", "error")
        failed = page.locator("#list li").count()
        assert 0 < failed < every
        assert page.locator("#example .candidate.match .status").first.inner_text() == "error"
        page.select_option("#model", "small")
        assert page.locator("#list li").count() <= failed
        page.select_option("#status", "")
        page.select_option("#model", "")
        page.select_option("#category", "failed")
        assert all("failed" in why for why in page.locator("#list .why").all_inner_texts())


def test_candidates_stand_in_the_order_of_the_scorer_that_is_chosen(browser: Any, page_path: Path) -> None:
    with Opened(browser, page_path) as opened:
        page = opened.page
        for scorer, name in (("0", "main"), ("1", "length")):
            page.select_option("#scorer", scorer)
            ranks = [int(text.split()[1]) for text in page.locator("#example .rank").all_inner_texts()]
            assert ranks == sorted(ranks)
            assert ranks[0] == 0
            assert page.locator("#rewards .of").first.inner_text() == name
            assert page.locator("[id=rewards]").count() == 1


def test_the_keyboard_is_enough(browser: Any, page_path: Path) -> None:
    with Opened(browser, page_path) as opened:
        page = opened.page
        selected = page.locator("#list li[aria-selected=true]")
        titles = page.locator("#list .snippet").all_inner_texts()
        page.keyboard.press("j")
        page.keyboard.press("j")
        page.keyboard.press("k")
        assert selected.count() == 1
        assert selected.locator(".snippet").inner_text() == titles[1]
        page.keyboard.press("/")
        assert page.evaluate("document.activeElement.id") == "query"
        page.keyboard.type("question 4")
        assert page.locator("#list li").count() == 1
        page.keyboard.press("Escape")
        assert page.locator("#list li").count() == len(titles)
        page.focus("#list")
        page.keyboard.press("End")
        assert page.get_attribute("#list", "aria-activedescendant") == f"option-{len(titles) - 1}"
        page.keyboard.press("Home")
        assert selected.locator(".snippet").inner_text() == titles[0]
        page.focus("#theme")
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none"


def test_the_theme_can_be_chosen_against_the_system(browser: Any, page_path: Path) -> None:
    with Opened(browser, page_path, scheme="light") as opened:
        background = "getComputedStyle(document.body).backgroundColor"
        light = opened.page.evaluate(background)
        opened.page.click("#theme")
        assert opened.page.evaluate(background) != light
        assert opened.page.evaluate(CONTRAST) == []
        opened.page.click("#theme")
        assert opened.page.evaluate(background) == light


def test_long_texts_are_folded_and_unfold(browser: Any, page_path: Path) -> None:
    with Opened(browser, page_path) as opened:
        page = opened.page
        folded = page.locator("#example .fold").count()
        assert folded > 0
        page.locator("#example .more").first.click()
        assert page.locator("#example .fold").count() == folded - 1
        assert page.locator("#example .more").first.inner_text() == "Show less"


def test_right_to_left_text_starts_on_the_right(browser: Any, page_path: Path) -> None:
    with Opened(browser, page_path) as opened:
        opened.page.fill("#query", ARABIC)
        text = opened.page.locator("#example .text div").filter(has_text=ARABIC).first
        assert text.evaluate("(element) => getComputedStyle(element).direction") == "rtl"


def test_every_chart_has_a_name_and_a_table_of_its_figures(browser: Any, page_path: Path) -> None:
    with Opened(browser, page_path) as opened:
        page = opened.page
        charts = page.locator(".chart:visible:not([data-chart=spark])")
        for number in range(charts.count()):
            chart = charts.nth(number)
            assert chart.locator("svg").get_attribute("aria-label")
            chart.locator("summary").click()
            chart.locator("tbody tr").first.wait_for()
        table = page.locator("[data-chart=rewards]:visible tbody td:first-of-type").all_inner_texts()
        shown = json.loads(page.locator("#data").inner_text())["scorers"][0]["reward"]
        assert sum(int(number) for number in table) == shown["count"]
        assert page.locator("h1").count() == 1


def test_a_tip_names_what_is_under_the_pointer(browser: Any, page_path: Path) -> None:
    with Opened(browser, page_path) as opened:
        page = opened.page
        box = page.locator("[data-chart=curve]:visible svg").bounding_box()
        page.mouse.wheel(0, box["y"] - 200)
        page.locator("[data-chart=curve]:visible svg").hover(position={"x": 60, "y": 60})
        assert page.locator("#tip").inner_text().startswith("best of 1: ")


@pytest.mark.parametrize("chosen", [False, True], ids=["system", "chosen"])
def test_a_dark_page_is_printed_dark_on_white(browser: Any, page_path: Path, chosen: bool) -> None:
    with Opened(browser, page_path, scheme="light" if chosen else "dark") as opened:
        page = opened.page
        if chosen:
            page.click("#theme")
        page.emulate_media(media="print")
        assert page.evaluate(CONTRAST) == []
        assert page.locator("nav").is_hidden()
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert page.pdf()[:4] == b"%PDF"


@pytest.mark.parametrize("rewards", [[], [[None, None]], [[1.0]], [[1.0, 1.0], [1.0, 1.0]]])
def test_a_page_with_little_in_it_works_as_well(
    browser: Any, tmp_path: Path, rewards: list[list[float | None]]
) -> None:
    run = write_run(tmp_path / "run", score_table([group(f"p{n}", each) for n, each in enumerate(rewards)]))
    report(str(run), str(tmp_path / "page.html"))
    context = browser.new_context(viewport={"width": 360, "height": 740})
    page = context.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto((tmp_path / "page.html").as_uri())
    page.wait_for_timeout(100)
    assert said == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.locator("text=NaN").count() == 0
    context.close()
