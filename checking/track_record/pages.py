"""Make the pages and drawings of the track record from the bugs and the counterexamples. Reads and writes no file."""

from __future__ import annotations

import re
import textwrap
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Final

from checking.errors import TrackRecordInvalid
from checking.explain.page import Frame, page
from checking.machine_replay.counterparts import COUNTERPARTS, faults_of
from checking.replay.faults import FAULTS
from checking.tlc.run import TraceStep
from checking.track_record.bugs import Area, Bug, Source
from checking.track_record.counterexamples import Counterexample, Taken
from unwedged.tools.sequence import Sequence as Drawing
from unwedged.tools.sequence import Step, svg_of, text_of

AREAS: Final = {
    Area.LOCK: "L: the lock",
    Area.STORE: "S: the store and its cache",
    Area.MACHINE: "M: the Matrix device",
    Area.SYSTEM: "O: the operating system and the storage",
}

DOCUMENTS: Final = {"P": "protocol.md", "M": "machine.md", "S": "state.md", "T": "trace.md"}
"""The documents with the clauses, by the first letter of the clauses."""

_ORDER: Final = ("p1", "store", "p2", "p3", "homeserver", "peer", "person")
"""The actors of the models, from left to right in a drawing."""

_MADE: Final = "<!-- Made by `python -m checking track-record` from bugs.toml and counterexamples.json. -->\n"
_WIDTH: Final = 120
_MONTHS: Final = (
    "", "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Surroundings:
    """The headings of other documents that the pages link to."""

    guarantees: Mapping[str, str]
    """The heading of the guarantee, by property."""
    rules: Mapping[str, str]
    """The heading above a rule, such as P4 or M2, or above a clause, such as P0.4."""


def surroundings(guarantees: str, *documents: str) -> Surroundings:
    """Find the headings in the text of ``guarantees.md`` and in the texts of the documents with rules."""
    by_property: dict[str, str] = {}
    for section in re.split(r"^#### ", guarantees, flags=re.MULTILINE)[1:]:
        named = re.search(r"^- \*\*Property\*\*: (.*?)(?=^- )", section, re.MULTILINE | re.DOTALL)
        for name in re.findall(r"`(\w+!\w+)`", named[1]) if named else ():
            by_property.setdefault(name, section.partition("\n")[0])
    rules: dict[str, str] = {}
    for document in documents:
        heading = ""
        for line in document.splitlines():
            if line.startswith("#"):
                heading = line.lstrip("# ")
                number = re.match(r"Rule (\d+)\.|(M\d+)\.", heading)
                if number:
                    rules[number[2] or f"P{number[1]}"] = heading
            elif numbered := re.match(r" *(?:[-*] |\d+\. )?\*\*(([A-Z]\d+)\.\d+)\*\*", line):
                rules.setdefault(numbered[2], heading)
                rules[numbered[1]] = heading
    return Surroundings(by_property, rules)


def contents(bugs: Sequence[Bug], counterexamples: Sequence[Counterexample], around: Surroundings) -> dict[str, str]:
    """Return the content of each file, by its name. Raises ``TrackRecordInvalid``."""
    slugs = {bug.slug for bug in bugs}
    unknown = sorted({each.slug for each in counterexamples} - slugs)
    if unknown:
        raise TrackRecordInvalid(f"counterexamples.json has bugs that bugs.toml does not have: {', '.join(unknown)}")
    files = {"README.md": _index(bugs)}
    for bug in bugs:
        mine = [each for each in counterexamples if each.slug == bug.slug]
        drawings = {
            **({f"{bug.slug}-in-short.svg" if mine else f"{bug.slug}.svg": _drawing_of_acts(bug)} if bug.acts else {}),
            **{_file_of(each): drawing_of(bug.title, each) for each in mine},
        }
        if not drawings:
            raise TrackRecordInvalid(f"the bug {bug.slug} has neither a counterexample nor acts")
        files |= {name: svg_of(drawing) for name, drawing in drawings.items()}
        files[f"{bug.slug}.md"] = _page(bug, mine, drawings, around)
    return files


# Drawings


def page_of_states(found: Counterexample, trace: Sequence[TraceStep], bugs: Sequence[Bug]) -> str:
    """Return a page with the drawing of a counterexample and with each of its states."""
    title = next((bug.title for bug in bugs if bug.slug == found.slug), found.model)
    drawing = drawing_of(title, found)
    names = ["The initial state", *(f"{step.actor} {step.action}" for step in drawing.steps)]
    frames = [Frame(name, step.state) for name, step in zip(names, trace, strict=True)]
    return page(title, f"{found.model}: {drawing.ending}", drawing, frames)


def drawing_of(title: str, found: Counterexample) -> Drawing:
    """Return the drawing of a counterexample."""
    steps = tuple(_step(found.module, taken) for taken in found.steps)
    names = {name for step in steps for name in (step.actor, step.target)}
    actors = tuple(name for name in _ORDER if name in names or name == "store")
    return Drawing(title, actors, steps, f"{found.violated.partition('!')[2]} is violated{_for_ever(found)}")


def _for_ever(found: Counterexample) -> str:
    if found.back_to is None:
        return ""
    if found.back_to == len(found.steps):
        return ": after this nothing happens any more"
    return f": steps {found.back_to + 1} to {len(found.steps)} repeat for ever"


def _step(module: str, taken: Taken) -> Step:
    phrases = PHRASES.get(module, {})
    if taken.action not in phrases:
        raise TrackRecordInvalid(f"actions.toml has no words for {module}!{taken.action}")
    actors, _, phrase = phrases[taken.action].partition(": ")
    actor, _, target = actors.partition(" > ")
    if "process" in (actor, target) and not taken.process:
        return Step("store", f"a process {phrase}", "", taken.changes)
    who = {"process": taken.process, "": ""}
    return Step(who.get(actor, actor), phrase.format(operation=taken.operation), who.get(target, target), taken.changes)


PHRASES: Final[Mapping[str, Mapping[str, str]]] = tomllib.loads(
    (resources.files(__package__) / "actions.toml").read_text(encoding="utf-8")
)
"""The words for each action: the actor, the target, and what the actor does."""


def _drawing_of_acts(bug: Bug) -> Drawing:
    actors = dict.fromkeys(name for act in bug.acts for name in (act.who, act.to) if name)
    steps = tuple(Step(act.who, act.does, act.to) for act in bug.acts)
    return Drawing(bug.title, tuple(actors), steps, bug.ending)


def _file_of(found: Counterexample) -> str:
    return f"{found.model.removeprefix('fault-')}.svg"


# Pages


def _page(bug: Bug, found: Sequence[Counterexample], drawings: Mapping[str, Drawing], around: Surroundings) -> str:
    return "\n".join(
        (
            f"# `{bug.slug}`\n",
            _MADE,
            _filled(f"**{bug.title}.** A bug of layer {AREAS[bug.layer]}."),
            f"## What users {'saw' if bug.is_met else 'would see'}\n",
            _filled(bug.seen),
            "## How it happens\n",
            _filled(bug.story),
            *_interleavings(bug, found, drawings),
            "## Where it is from\n",
            *map(_source, bug.sources),
            "",
            "## What prevents it\n",
            *_prevention(bug, around),
            *_evidence(bug, found, around),
        )
    )


def _interleavings(bug: Bug, found: Sequence[Counterexample], drawings: Mapping[str, Drawing]) -> Iterator[str]:
    in_short = len(drawings) - len(found)
    for number, (name, drawing) in enumerate(drawings.items()):
        if number < in_short:
            yield "## In short\n" if found else "## Step by step\n"
        elif number == in_short:
            yield "## Step by step\n"
            these = "this counterexample" if len(found) == 1 else "these counterexamples"
            yield _filled(
                f"With this bug in the specification, TLC finds {these}, as short as possible. "
                "[How to read the steps](README.md#how-to-read-the-pages)."
            )
        if number >= in_short and len(found) > 1:
            yield f"### {drawing.ending.partition(' ')[0]}\n"
        yield f"![{bug.title}: the same steps as in the text below]({name})\n"
        yield f"```text\n{text_of(drawing)}```\n"


def _source(source: Source) -> str:
    said = f"[{source.at}]({source.link})" if source.link else source.at
    shown = f" ({source.shown_by})" if source.shown_by else ""
    return _item(f"{said}, {_when(source)}{shown}")


def _when(source: Source) -> str:
    if not source.until:
        return _date(source.date)
    latest = _date(source.until)
    return f"between {_date(source.date)} and {latest}" if source.date else f"by {latest}"


def _date(date: str) -> str:
    year, *rest = date.split("-")
    month = _MONTHS[int(rest[0])] if rest else ""
    return " ".join((*((str(int(rest[1])),) if len(rest) > 1 else ()), *((month,) if month else ()), year))


def _prevention(bug: Bug, around: Surroundings) -> Iterator[str]:
    for clause in bug.clauses:
        rule = clause.partition(".")[0]
        if rule not in around.rules:
            raise TrackRecordInvalid(f"{bug.slug} cites {clause}, and there is no {rule}")
        heading = around.rules.get(clause, around.rules[rule])
        yield f"- {clause}, in [{heading}](../{DOCUMENTS[clause[0]]}#{anchor(heading)})"
    yield ""
    if bug.instead:
        yield _filled(f"What happens instead: {bug.instead}.")


def _evidence(bug: Bug, found: Sequence[Counterexample], around: Surroundings) -> Iterator[str]:
    yield "## See it fail\n"
    if found:
        yield "```console"
        yield from (f"$ .venv/bin/python -m checking model {each.model}" for each in found)
        yield "```\n"
    for each in found:
        guarantee = around.guarantees.get(each.violated)
        linked = f", which is part of [{guarantee}](../guarantees.md#{anchor(guarantee)})" if guarantee else ""
        yield _item(f"`{each.model}` violates `{each.violated}`{linked}.")
    injected = _injection(bug, found)
    if injected:
        yield _item(
            f"{injected} puts the bug into the reference. The counterexample is replayed there: "
            "with the bug the same property is violated, and without the bug no property is."
        )
    if bug.tests:
        yield "- Tests that reproduce it in the reference:" if not found else "- Tests:"
        yield from (f"  - `{test}`" for test in bug.tests)
    yield ""


def _injection(bug: Bug, found: Sequence[Counterexample]) -> str:
    if bug.slug in FAULTS:
        return f'`FAULTS["{bug.slug}"]` of `checking.replay.faults`'
    modules = {f"MC{each.module}.tla" for each in found} & COUNTERPARTS.keys()
    for module in modules:
        if bug.slug in faults_of(module):
            name = module.removeprefix("MC").removesuffix(".tla").lower()
            return f'`FAULTS["{bug.slug}"]` of `checking.machine_replay.{name}_faults`'
    return ""


def _index(bugs: Sequence[Bug]) -> str:
    lines = [
        "# The track record\n",
        _MADE,
        _filled(
            "This is a list of real bugs in crypto stores that several processes or tasks share, and of bugs that were "
            "found during the work on this project. Each bug has a page: what users saw, how it happens step by step, "
            "where it was reported, which clauses prevent it, and how to see it fail."
        ),
        "## How to read the pages\n",
        _filled(
            "Most steps are those of a counterexample that TLC has found. Below each step is what it changes of the "
            "state of the model, under the names that the model in `tla/` has:"
        ),
        _item("p1 and p2 are processes, and o1, o2 and o3 are operations in them;"),
        _item("`guard[p1]`, `cache[p1]` and the like are what the process p1 has in memory;"),
        _item("`flight[p1]` is a request or a response that p1 has in hand, or that is on its way;"),
        _item("`a -> b` is a value before and after the step;"),
        _item("`+` and `-` stand before what is added to a set, or taken out of it;"),
        _item("`new` and `gone` mark a part that was not there before the step, or is not there after it."),
        "",
        _filled(
            "A drawing shows only the first changes of each step, and the text below it shows all of them. If the day "
            "of a report is not known, the page says between which days it was made, and how that is known: a project "
            "numbers its issues in order."
        ),
        _filled(f"There are {len(bugs)} bugs, {sum(bug.is_reported for bug in bugs)} of them with a public report."),
    ]
    for area, name in AREAS.items():
        lines += [f"## {name}\n", "| Bug | Name | Reported |", "| --- | --- | --- |"]
        for bug in bugs:
            if bug.layer is area:
                reported = ", ".join(source.at for source in bug.sources if source.is_report) or bug.sources[0].at
                lines.append(f"| [{bug.title}]({bug.slug}.md) | `{bug.slug}` | {reported} |")
        lines.append("")
    return "\n".join(lines)


def _filled(text: str) -> str:
    return textwrap.fill(text, _WIDTH, break_long_words=False, break_on_hyphens=False) + "\n"


def _item(text: str) -> str:
    return _filled(f"- {text}").rstrip("\n").replace("\n", "\n  ")


def anchor(heading: str) -> str:
    """Return the anchor of a Markdown heading."""
    return re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-")
