"""The pages that the site is built of, and how its links are followed."""

from __future__ import annotations

import re
import sys
from pathlib import Path, PurePosixPath

import pytest

from docs import __main__ as site
from docs import api_blocks, docstrings, links, models, pages
from docs.staging import stage

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def staged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pages")
    stage(ROOT, folder)
    return folder


def test_help_is_given_and_nothing_is_built(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["docs", "--help"])
    monkeypatch.setattr(site, "build", lambda: pytest.fail("it builds"))
    with pytest.raises(SystemExit):
        site.main()
    assert "usage: python -m docs" in capsys.readouterr().out


def test_every_file_of_the_specification_is_a_page() -> None:
    shown = {page.source for page in pages.find(ROOT).pages()}
    for folder in ("spec", "tla", "proofs", "docs"):
        for path in (ROOT / folder).rglob("*.md"):
            assert PurePosixPath(path.relative_to(ROOT)) in shown
    assert {PurePosixPath(path.relative_to(ROOT)) for path in (ROOT / "tla").rglob("*.tla")} <= shown


def test_no_page_is_listed_twice() -> None:
    names = [page.name for page in pages.find(ROOT).pages()]
    assert len(names) == len(set(names))


def test_a_page_that_the_navigation_names_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(pages.PageMissing, match=r"docs/applications\.md"):
        pages.find(tmp_path)


def test_every_page_is_written_and_every_model_is_on_one(staged: Path) -> None:
    for page in pages.find(ROOT).pages():
        assert re.search(r"^# ", (staged / page.file).read_text(encoding="utf-8"), re.MULTILINE)
    text = "".join(path.read_text(encoding="utf-8") for path in (staged / "tla").rglob("*.md"))
    for configuration in (ROOT / "tla" / "models").glob("*.cfg"):
        assert f"[`{configuration.stem}`]{{#model-{configuration.stem}}}" in text


def test_names_lead_to_what_they_name(staged: Path) -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in staged.rglob("*.md"))
    anchors = set(re.findall(r"^\(([\w-]+)\)=$", text, re.MULTILINE)) | set(re.findall(r"\]\{#([\w-]+)", text))
    for prefix in ("model-", "p", "m"):
        named = set(re.findall(rf"\]\(#({prefix}[\w-]*)\)", text))
        assert len(named & anchors) > 5, prefix
    for bug in (ROOT / "spec" / "track-record").glob("*-*.md"):
        assert f"[`{bug.stem}`](/spec/track-record/{bug.name})" in text


def headings(text: str) -> set[str]:
    """Return the anchors of the headings of a page, made as MyST and others make them."""
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    return {
        re.sub(r"[^\w -]", "", each).strip().lower().replace(" ", "-")
        for each in re.findall(r"^#+ (.+)$", prose, re.MULTILINE)
    }


def test_links_to_headings_lead_to_headings(staged: Path) -> None:
    texts = {path.relative_to(staged).as_posix(): path.read_text(encoding="utf-8") for path in staged.rglob("*.md")}
    marked = {
        anchor for text in texts.values() for anchor in re.findall(r"^\(([\w-]+)\)=$|\]\{#([\w-]+)", text, re.MULTILINE)
    }
    named = {name for pair in marked for name in pair}
    followed = 0
    for page, text in texts.items():
        for target, anchor in re.findall(r"\]\(/?([\w/.-]*)#([\w-]+)\)", text):
            assert anchor in named or anchor in headings(texts[target or page]), f"{page}: {target}#{anchor}"
            followed += 1
    assert followed > 100


def test_pictures_are_within_their_pages(staged: Path) -> None:
    for page in ("index.md", "spec/machine.md", "docs/implementers.md"):
        assert "<svg" in (staged / page).read_text(encoding="utf-8")
    assert not any("```mermaid" in path.read_text(encoding="utf-8") for path in staged.rglob("*.md"))


def test_the_comment_of_a_module_becomes_prose() -> None:
    comment = "(* Two *of* them:  *)\n(*                 *)\n(*   One  first    *)\n(*   Two  second   *)\n"
    text = f"---- MODULE Two ----\n{comment}EXTENDS One\nA == 1\n"
    page = models.module_page("Two", {"One": "", "Two": text, "Six": "EXTENDS Naturals, Two\n"}, [], {})
    told = "Two \\*of\\* them:\n\n```text\n  One  first\n  Two  second\n```\n"
    modules = "It extends [`One`](/tla/One.md).\n\nIt is extended by [`Six`](/tla/Six.md).\n"
    assert page.startswith(f"# Two\n\n{told}\n{modules}\n")
    assert page.endswith(f"```text\n{text.strip()}\n```\n")
    assert models.definitions(text) == ["A"]


def test_the_page_of_a_module_without_models_of_its_own_leads_to_them() -> None:
    page = models.module_page("Two", {"Two": "A == 1\n", "MCTwo": "EXTENDS Two\n"}, [], {})
    assert "## Models\n\nThe models of this module are on the page of [`MCTwo`](/tla/models/MCTwo.md).\n" in page


def test_contracts_become_a_list() -> None:
    docstring = ["Take it.", "", "It may.", "pre: x > 0  # it is there", "post: _ or y", ""]
    assert docstrings.rewritten("unwedged.protocol.lease.acquire", docstring) == [
        "Take it.", "", "It may.", "", "* *pre*: it is there: ``x > 0``", "* *post*: ``_ or y``", "",
    ]  # fmt: skip


def test_what_says_nothing_of_its_own_is_left_out() -> None:
    assert docstrings.rewritten("unwedged.machine.identifiers.Device.user", ["Alias for field number 0", ""]) == []
    assert docstrings.rewritten("unwedged.machine.WrongKey.code", ["What a program compares."]) == []
    assert docstrings.rewritten("unwedged.machine.MachineError.code", ["What it is."]) == ["What it is."]


@pytest.mark.parametrize("module", api_blocks.PACKAGES)
def test_every_public_name_is_in_the_api(module: str) -> None:
    text = (ROOT / "docs" / "api" / f"{module.rpartition('.')[2]}.md").read_text(encoding="utf-8")
    listed = " ".join(re.findall(r"^```api\n(.*?)^```", text, re.MULTILINE | re.DOTALL)).split()
    for shown in re.findall(r"^```exceptions\n(.*?)\n```", text, re.MULTILINE):
        listed += re.findall(r"^\.\. autoexception:: (.+)$", api_blocks.exceptions(shown), re.MULTILINE)
    listed += [f"{module}.{name}" for name in re.findall(r"`unwedged\.protocol\.\w+\.(\w+)`", text)]
    # Modules that are public themselves are listed beside, and what is no class or function where it is defined.
    own = [name for name in listed if re.fullmatch(rf"{module}\.((records|lines)\.)?\w+", name)]
    assert sorted(name.rpartition(".")[2] for name in own) == sorted(api_blocks.public(module))


class TestLinks:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        (tmp_path / "sub").mkdir()
        (tmp_path / "sub" / "page.html").write_text('<h1 id="top">A</h1>')
        (tmp_path / "style.css").write_text("")
        return tmp_path

    @pytest.mark.parametrize(
        "link",
        [
            "sub/page.html",
            "sub/page.html#top",
            "#here",
            "style.css?v=1",
            "https://example.org/x#y",
            "#",
            "./sub/../index.html",
        ],
    )
    def test_that_lead_somewhere(self, folder: Path, link: str) -> None:
        (folder / "index.html").write_text(f'<a id="here" href="{link}">A</a>')
        assert list(links.broken(folder)) == []

    @pytest.mark.parametrize(
        "link",
        [
            "page.html",
            "sub/page.html#absent",
            "#absent",
            "absent.css",
            "style.css#top",
            "sub",
            "javascript:x",
            "/etc/hosts",
        ],
    )
    @pytest.mark.parametrize("element", ['<a href="{}">A</a>', '<img src="{}">'])
    def test_that_lead_nowhere(self, folder: Path, link: str, element: str) -> None:
        (folder / "index.html").write_text(element.format(link))
        assert list(links.broken(folder)) == [f"index.html: {link}"]

    def test_a_page_that_names_the_checkout(self, folder: Path) -> None:
        (folder / "index.html").write_text("in /home/somebody/unwedged")
        assert list(links.naming(folder, "/home/somebody")) == ["index.html: /home/somebody"]
        assert list(links.naming(folder, "/home/nobody")) == []
