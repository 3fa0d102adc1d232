"""A headless browser with fonts of its own, from packages: nothing that is installed on the machine is used.

``make browser`` puts it into ``.venv/browser``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from xml.sax.saxutils import escape

from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

UNPACKED: Final = Path(__file__).parents[2] / ".venv" / "browser"
FONTS: Final = """<?xml version="1.0"?>
<!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig>
  <dir>{fonts}</dir>
  <cachedir>{cache}</cachedir>
  <alias><family>sans-serif</family><prefer><family>DejaVu Sans</family></prefer></alias>
  <match><edit name="family" mode="append_last"><string>DejaVu Sans</string></edit></match>
  <alias><family>monospace</family><prefer><family>DejaVu Sans Mono</family></prefer></alias>
</fontconfig>
"""


@contextmanager
def chromium(folder: Path) -> Iterator[Browser]:
    """Run the browser; it keeps its files in ``folder``."""
    fonts = UNPACKED / "node_modules" / "dejavu-fonts-ttf" / "ttf"
    settings = FONTS.format(fonts=escape(str(fonts)), cache=escape(str(folder / "cache")))
    (folder / "fonts.conf").write_text(settings, encoding="utf-8")
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "FONTCONFIG_FILE": str(folder / "fonts.conf"),
        "LD_LIBRARY_PATH": str(UNPACKED / "al2023" / "lib"),
    }
    with sync_playwright() as playwright:
        # Without its sandbox it also runs where the user is root. It opens nothing but this project's own pages.
        browser = playwright.chromium.launch(
            executable_path=UNPACKED / "chromium", args=["--no-sandbox"], env=environment
        )
        try:
            yield browser
        finally:
            browser.close()


class Visit:
    """A page in a window of its own, and all that goes wrong while it is open."""

    def __init__(self, context: BrowserContext) -> None:
        self.page: Page = context.new_page()
        self.faults: list[str] = []
        self.page.on("console", lambda said: self._note(said.text) if said.type in ("error", "warning") else None)
        self.page.on("pageerror", lambda error: self._note(str(error)))
        self.page.on("requestfailed", lambda request: self._note(f"{request.url}: {request.failure}"))
        self.page.on("response", lambda got: self._note(f"{got.url}: {got.status}") if got.status >= 400 else None)

    def _note(self, fault: str) -> None:
        self.faults.append(fault)

    def open(self, address: str) -> None:
        """Go to an address, and wait until all that belongs to the page is there."""
        self.page.goto(address, wait_until="load")

    def broken_pictures(self) -> list[str]:
        """Return the pictures that show nothing."""
        broken: list[str] = self.page.evaluate(
            """async () => {
                const pictures = [...document.images];
                pictures.forEach((picture) => { picture.loading = "eager"; });
                await Promise.allSettled(pictures.map((picture) => picture.decode()));
                return pictures.filter((picture) => !picture.naturalWidth).map((picture) => picture.src);
            }"""
        )
        return broken

    def overflow(self) -> list[str]:
        """Return what reaches out of the window, unless it is in a part of the page that can be scrolled; at most five.

        Where all of the page, its heading included, has to be scrolled sideways, the page does not fit.
        """
        wide: list[str] = self.page.evaluate(
            """() => {
                const width = document.documentElement.clientWidth;
                const reached = (element) => {
                    for (let each = element; each && each !== document.body; each = each.parentElement) {
                        const style = getComputedStyle(each);
                        if (style.position === "fixed" || style.visibility === "hidden") return true;
                        const scrolls = each !== element && ["auto", "scroll"].includes(style.overflowX);
                        if (scrolls && !each.querySelector("h1")) return true;
                    }
                    return false;
                };
                return [...document.body.querySelectorAll("*")]
                    .filter((element) => element.getBoundingClientRect().right > width + 1 && !reached(element))
                    .slice(0, 5).map((element) => element.outerHTML.slice(0, 150));
            }"""
        )
        return wide


@contextmanager
def visit(browser: Browser, *, dark: bool = False, width: int = 1280, height: int = 900) -> Iterator[Visit]:
    """Open a window in dark or light, so many pixels wide."""
    context = browser.new_context(
        color_scheme="dark" if dark else "light", viewport={"width": width, "height": height}, reduced_motion="reduce"
    )
    try:
        yield Visit(context)
    finally:
        context.close()
