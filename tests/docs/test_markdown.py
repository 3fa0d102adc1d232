"""A page says on the site what its file says, and its links lead to pages."""

from __future__ import annotations

from pathlib import PurePosixPath

import pytest

from docs.markdown import LinkLeadsNowhere, Places, Rewriting, Targets, note_places

PROTOCOL = PurePosixPath("spec/protocol.md")
BUG = PurePosixPath("spec/track-record/stale-write.md")
FILES = {PurePosixPath(name) for name in ("README.md", "spec/protocol.md", "spec/plot.svg", "spec/report.json", "tla")}
PROTOCOL_TEXT = """# The protocol

| Number | Section |
| --- | --- |
| P4 | [Rule 4. Fence every access](#rule-4-fence-every-access) |
| P12 | [Cancellation](#cancellation) |

### Rule 4. Fence every access

**P4.1** An access MUST be fenced.

- **P4.2** So must a look.

## T1 Lines

```text
**P9.9** no clause
```
"""


def rewriting(source: PurePosixPath = PROTOCOL) -> Rewriting:
    places = Places()
    note_places(PROTOCOL, PROTOCOL_TEXT, places)
    shown = {
        PurePosixPath("README.md"): "/index.md",
        PROTOCOL: "/spec/protocol.md",
        PurePosixPath("tla"): "/tla/index.md",
    }
    names = {"stale-write": f"/{BUG}", "Lease": "#model-Lease", "Lease!Held": "/tla/Lease.md"}
    targets = Targets(shown, names, {"unwedged.a.b.C": "unwedged.a.C"}, places, FILES.__contains__)
    return Rewriting(source, targets, {"mermaid": lambda text: f"```{{raw}}\n{text}```"})


def test_clauses_are_found_where_they_are_stated() -> None:
    places = rewriting().targets.places
    assert set(places.clauses) == {"P4", "P4.1", "P4.2", "T1"}
    assert set(places.sections) == {"P4", "P12"}


def test_a_clause_gets_its_anchor_where_it_is_stated() -> None:
    page = rewriting().page(PROTOCOL_TEXT)
    assert "(p4)=\n### Rule 4. Fence every access\n" in page
    assert "\n[**P4.1**]{#p4-1 .clause} An access" in page
    assert "\n- [**P4.2**]{#p4-2 .clause} So must" in page
    assert "```text\n**P9.9** no clause\n```" in page


@pytest.mark.parametrize(
    ("text", "rewritten"),
    [
        pytest.param("as P4.1 says", "as [P4.1](#p4-1) says", id="a clause"),
        pytest.param("(P4.2, P4)", "([P4.2](#p4-2), [P4](#p4))", id="two clauses"),
        pytest.param("by P12.", "by [P12](/spec/protocol.md#cancellation).", id="a section"),
        pytest.param("P4.7, S256 and MP4.1", "P4.7, S256 and MP4.1", id="no clauses"),
        pytest.param("`P4.1`", "[`P4.1`](#p4-1)", id="a clause as code"),
        pytest.param("`stale-write`", "[`stale-write`](/spec/track-record/stale-write.md)", id="a bug"),
        pytest.param("`Lease`", "[`Lease`](#model-Lease)", id="a model"),
        pytest.param("`Lease!Held`", "[`Lease!Held`](/tla/Lease.md)", id="a property"),
        pytest.param("`unwedged.store.CryptoStore`", "{py:obj}`unwedged.store.CryptoStore`", id="a function"),
        pytest.param("`unwedged.a.b.C.d`", "{py:obj}`unwedged.a.b.C.d <unwedged.a.C.d>`", id="a method"),
        pytest.param("`unwedged`, ``a`b``, `tests/x.py`", "`unwedged`, ``a`b``, `tests/x.py`", id="other code"),
        pytest.param("`spec/protocol.md`", "[`spec/protocol.md`](/spec/protocol.md)", id="the path of a page"),
        pytest.param("[the\nstart](../README.md#a-b)", "[the\nstart](/index.md#a-b)", id="a link to a page"),
        pytest.param("[`tla/`](../tla/)", "[`tla/`](/tla/index.md)", id="a link to a folder"),
        pytest.param("[a report](report.json)", "a report", id="a link to what is no page"),
        pytest.param("[P4.1](#rules)", "[P4.1](#rules)", id="a link within the page"),
        pytest.param("[z3](https://example.org/P4.1)", "[z3](https://example.org/P4.1)", id="a link elsewhere"),
        pytest.param("![A plot of P4.1](plot.svg)", "![A plot of P4.1](/spec/plot.svg)", id="a picture"),
        pytest.param("```mermaid\nA\n```", "```{raw}\nA\n```", id="a diagram"),
        pytest.param("```python\n`stale-write` # P4.1\n```", "```python\n`stale-write` # P4.1\n```", id="a program"),
        pytest.param("## On P4.1 and `stale-write`", "## On P4.1 and `stale-write`", id="a heading"),
    ],
)  # fmt: skip
def test_names_become_links(text: str, rewritten: str) -> None:
    assert rewriting().page(f"\n{text}\n") == f"\n{rewritten}\n"


def test_a_page_does_not_lead_to_itself() -> None:
    assert rewriting(BUG).page("`stale-write`, a bug\n") == "`stale-write`, a bug\n"


@pytest.mark.parametrize("link", ["[a](missing.md)", "![a](missing.svg)", "[a](../../README.md)"])
def test_a_link_that_leads_nowhere_is_refused(link: str) -> None:
    with pytest.raises(LinkLeadsNowhere, match="protocol"):
        rewriting().page(link)
