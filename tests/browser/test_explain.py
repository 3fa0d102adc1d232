"""The page that ``python -m checking explain --html`` writes, as somebody sees it who opens it."""

from __future__ import annotations

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import pytest
from playwright.sync_api import Browser, Page, expect

from checking.explain.explanation import explain
from checking.tlc.toolbox import find_toolbox
from tests.browser.chromium import visit
from tests.checking.test_explain import recorded, unfenced

SPECIFICATIONS: Final = Path(__file__).parents[2] / "tla"
PHONE, DESK = 390, 1280
CONTRAST: Final = 4.5
"""What the Web Content Accessibility Guidelines ask of text (level AA)."""
EVIL: Final = "<img src=x onerror=document.title=1></script><script>document.title=2</script>"

CONTRASTS: Final = """(selector) => {
    const linear = (part) => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
    const luminance = (colour) => {
        const parts = colour.match(/[\\d.]+/g).slice(0, 3).map((part) => linear(part / 255));
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
    };
    const ground = (element) => {
        if (element instanceof SVGElement) return getComputedStyle(document.querySelector("svg .ground")).fill;
        for (let each = element; each; each = each.parentElement) {
            const colour = getComputedStyle(each).backgroundColor;
            if (!colour.endsWith(", 0)")) return colour;
        }
    };
    return [...document.querySelectorAll(selector)].map((element) => {
        const style = getComputedStyle(element);
        const own = luminance(element instanceof SVGElement ? style.fill : style.color);
        const behind = luminance(ground(element));
        return (Math.max(own, behind) + 0.05) / (Math.min(own, behind) + 0.05);
    });
}"""


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Write the page of a trace that is rejected, and whose names are markup."""
    folder = tmp_path_factory.mktemp("explain")

    async def text() -> str:
        lines = await recorded(folder)
        unfenced(lines)
        trace = folder / "<b>trace.ndjson"
        hostile = [json.dumps(line).replace('"counter/', f'"{EVIL}/') for line in lines]
        trace.write_text("\n".join([*hostile, ""]))
        toolbox = find_toolbox()
        explanation = await explain(toolbox, (trace,), None, SPECIFICATIONS)
        assert not explanation.accepted
        return await explanation.page(toolbox, SPECIFICATIONS)

    page = folder / "page.html"
    with ThreadPoolExecutor() as elsewhere:  # The browser's driver has an event loop in this thread.
        page.write_text(elsewhere.submit(lambda: asyncio.run(text())).result(), encoding="utf-8")
    return page.as_uri()


def step(page: Page) -> str:
    said: str = page.locator("#step").inner_text()
    return said


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [PHONE, DESK])
def test_the_page_is_whole_fits_and_asks_for_nothing(browser: Browser, address: str, width: int, dark: bool) -> None:
    with visit(browser, dark=dark, width=width) as seen:
        asked: list[str] = []
        seen.page.on("request", lambda request: asked.append(request.url))
        seen.open(address)
        for _ in range(seen.page.locator("svg .number").count()):
            assert seen.overflow() == []
            seen.page.keyboard.press("ArrowRight")
        assert seen.faults == []
        assert asked == [address]


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_all_of_it_can_be_read(browser: Browser, address: str, dark: bool) -> None:
    with visit(browser, dark=dark, width=DESK) as seen:
        seen.open(address)
        kinds = set()
        for _ in range(seen.page.locator("svg .number").count()):
            contrasts: list[float] = seen.page.evaluate(CONTRASTS, "h1, h2, pre, p, button, th, td, svg text")
            assert min(contrasts) >= CONTRAST
            kinds |= {kind for kind in ("changed", "new", "gone") if seen.page.locator(f"tr.{kind}").count()}
            seen.page.keyboard.press("ArrowRight")
        assert kinds == {"changed", "new", "gone"}
        luminance = seen.page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0]")
        assert (int(luminance) < 64) == dark


def test_arrow_keys_home_and_end_move(browser: Browser, address: str) -> None:
    with visit(browser) as seen:
        seen.open(address)
        keyboard = seen.page.keyboard
        assert step(seen.page) == "Before the first step"
        keyboard.press("ArrowLeft")
        assert step(seen.page) == "Before the first step"
        keyboard.press("ArrowRight")
        keyboard.press("ArrowRight")
        assert step(seen.page).startswith("Step 2 of 18: ")
        expect(seen.page.locator("svg .number.current")).to_have_text("2")
        keyboard.press("ArrowLeft")
        assert step(seen.page).startswith("Step 1 of 18: ")
        keyboard.press("End")
        assert step(seen.page).startswith("Step 18 of 18: P2 commits version 5")
        expect(seen.page.locator("caption")).to_contain_text("There is no state after this step: it can't happen")
        assert seen.page.locator("tbody tr").count() > 10
        keyboard.press("Home")
        assert step(seen.page) == "Before the first step"


def test_the_buttons_move_and_are_reached_by_tab(browser: Browser, address: str) -> None:
    with visit(browser) as seen:
        seen.open(address)
        focused = []
        for _ in range(5):
            seen.page.keyboard.press("Tab")
            focused.append(seen.page.evaluate("document.activeElement.id || document.activeElement.className"))
        assert focused == ["diagram", "first", "back", "forward", "last"]
        seen.page.keyboard.press("Enter")
        assert step(seen.page).startswith("Step 18 of 18")
        seen.page.get_by_role("button", name="Back").click()
        assert step(seen.page).startswith("Step 17 of 18")
        seen.page.get_by_role("button", name="First").click()
        seen.page.get_by_role("button", name="Forward").click()
        assert step(seen.page).startswith("Step 1 of 18")


def test_in_the_diagram_the_arrow_keys_scroll(browser: Browser, address: str) -> None:
    with visit(browser, width=PHONE) as seen:
        seen.open(address)
        seen.page.keyboard.press("Tab")
        seen.page.keyboard.press("ArrowRight")
        assert step(seen.page) == "Before the first step"
        seen.page.wait_for_function("document.querySelector('.diagram').scrollLeft > 0")


def test_what_differs_from_the_step_before_is_marked(browser: Browser, address: str) -> None:
    with visit(browser) as seen:
        seen.open(address)
        for _ in range(16):
            seen.page.keyboard.press("ArrowRight")
        assert "commits version 4" in step(seen.page)
        changed = seen.page.locator("tr.changed").filter(has_text="version").first
        expect(changed.locator("td")).to_have_text(["4", "was 3"])
        seen.page.keyboard.press("ArrowRight")
        assert "releases the lease" in step(seen.page)
        seen.page.keyboard.press("ArrowRight")
        expect(seen.page.locator("tr.changed, tr.new, tr.gone")).to_have_count(0)


def test_nothing_in_a_trace_becomes_markup(browser: Browser, address: str) -> None:
    with visit(browser) as seen:
        seen.open(address)
        for _ in range(17):
            seen.page.keyboard.press("ArrowRight")
        assert seen.page.title().startswith("Traces of the store ")
        assert seen.page.evaluate("document.scripts.length") == 2
        assert seen.page.locator("img, b").count() == 0
        assert seen.page.locator("tbody th").filter(has_text=EVIL).count() > 0
        assert seen.page.locator("svg .note").filter(has_text="<b>trace.ndjson").count() > 0
