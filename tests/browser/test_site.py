"""Every page of the site, as somebody sees it who opens it: in dark and light, on a desk and on a phone."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from docs import pages
from tests.browser.chromium import Visit, visit

ROOT = Path(__file__).parents[2]
BUILT = ROOT / "build" / "site"
PAGES = [page.name for page in pages.find(ROOT).pages()]
PHONE, DESK = 390, 1280
CONTRAST = 4.5
"""What the Web Content Accessibility Guidelines ask of text (level AA)."""

CONTRASTS = """(selector) => {
    const linear = (part) => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
    const luminance = (colour) => {
        const parts = colour.match(/[\\d.]+/g).slice(0, 3).map((part) => linear(part / 255));
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
    };
    const ground = luminance(getComputedStyle(document.body).backgroundColor);
    return [...document.querySelectorAll(selector)].map((element) => {
        const style = getComputedStyle(element);
        const own = luminance(element instanceof SVGElement ? style.fill : style.color);
        return (Math.max(own, ground) + 0.05) / (Math.min(own, ground) + 0.05);
    });
}"""


class Quiet(SimpleHTTPRequestHandler):
    """Serves files, and says nothing about it."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the library's name)
        pass


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    """Serve the site that ``make site`` has built."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=BUILT)) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        serving.join()


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("name", [*PAGES, "search"])
def test_a_page_is_whole_and_fits_a_phone(browser: Browser, site: str, name: str, dark: bool) -> None:
    with visit(browser, dark=dark, width=PHONE) as seen:
        seen.open(f"{site}/{name}.html")
        assert seen.overflow() == []
        assert seen.broken_pictures() == []
        assert seen.faults == []


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("name", ["index", "spec/machine", "docs/implementers"])
def test_a_picture_and_the_text_around_it_can_be_read(browser: Browser, site: str, name: str, dark: bool) -> None:
    with visit(browser, dark=dark, width=DESK) as seen:
        seen.open(f"{site}/{name}.html")
        contrasts: list[float] = seen.page.evaluate(CONTRASTS, ".drawing text, article p, article code")
        assert len(contrasts) > 10
        assert min(contrasts) >= CONTRAST
        assert is_dark(seen) == dark


def is_dark(seen: Visit) -> bool:
    black = seen.page.evaluate(
        "() => getComputedStyle(document.body).backgroundColor.match(/\\d+/g).every((p) => p < 64)"
    )
    return bool(black)


def test_a_search_finds_the_page(browser: Browser, site: str) -> None:
    with visit(browser, width=DESK) as seen:
        seen.open(f"{site}/index.html")
        field = seen.page.get_by_role("textbox", name="Search").first
        field.fill("AES-SIV")
        field.press("Enter")
        found = seen.page.locator("ul.search li a").filter(has_text="The protocol")
        expect(found.first).to_be_visible()
        found.first.click()
        seen.page.wait_for_url("**/spec/protocol.html*")
        assert seen.faults == []


def test_a_reader_can_choose_dark(browser: Browser, site: str) -> None:
    with visit(browser, width=DESK) as seen:
        seen.open(f"{site}/index.html")
        seen.page.locator(".theme-toggle:visible").click()
        assert is_dark(seen)


def test_a_drawing_that_is_a_file_follows_what_a_reader_chooses(browser: Browser, site: str) -> None:
    shown: dict[object, bytes] = {}
    for dark in (False, True):
        with visit(browser, dark=dark, width=DESK) as seen:
            seen.open(f"{site}/spec/track-record/clock-jump.html")
            picture = seen.page.locator("img[src$='.svg']").first
            assert seen.broken_pictures() == []
            shown[dark] = picture.screenshot()
            seen.page.locator(".theme-toggle:visible").click()
            assert is_dark(seen) != dark
            shown[dark, "chosen"] = picture.screenshot()
    assert shown[False] != shown[True]
    assert shown[True] == shown[False, "chosen"]
    assert shown[False] == shown[True, "chosen"]


def test_what_is_wrong_with_a_page_is_noticed(browser: Browser, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text(
        '<!doctype html><meta name="viewport" content="width=device-width"><p style="width: 500px">Wide</p>'
        '<img src="missing.png"><script>console.error("said"); absent()</script>'
    )
    with visit(browser, width=PHONE) as seen:
        seen.open(page.as_uri())
        assert any("Wide" in what for what in seen.overflow())
        assert seen.broken_pictures() == [(tmp_path / "missing.png").as_uri()]
        for fault in ("said", "absent is not defined", "missing.png"):
            assert any(fault in noticed for noticed in seen.faults), fault
