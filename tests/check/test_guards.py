"""Guards are found in the specification's text, taken out, and what then falls is what TLC says."""

from __future__ import annotations

from pathlib import Path

import pytest

from unwedged.check.guards import (
    MODULES,
    Fall,
    Guard,
    all_guards,
    find_guards,
    read_unneeded,
    surprises,
    what_falls,
    without,
)
from unwedged.check.manifest import Manifest, find_manifest, read_manifest
from unwedged.check.toolbox import Toolbox

MODULE = r"""
---- MODULE LeaseLock ----
Steps(p) == x' = [x EXCEPT ![p] = 1]

Plain(p) ==
    /\ x[p] = 0 /\ y \in {1, 2}  \* not a /\ guard
    /\ \A q \in P : x[q] = 0 /\ y = 1
    /\ y < MaxEpoch /\ ~Broken("some-fault")
    /\ x' = [x EXCEPT ![p] = 1]
    /\ UNCHANGED y

Nested(p) ==
    LET z == y + 1 IN
    /\ IF y = 1
       THEN x' = x
       ELSE /\ z = 2
            /\ \/ y = 3
               \/ y = 4
            /\ x' = [x EXCEPT ![p] = z]
    /\ UNCHANGED y

Indirect(p) ==
    /\ y = 5
    /\ Steps(p)

OfTheFault(p) ==
    /\ Broken("some-fault") /\ y = 6
    /\ UNCHANGED <<x, y>>

Next == \E p \in P : Plain(p) \/ Nested(p) \/ Indirect(p) \/ OfTheFault(p)

-----
Unused(p) == /\ y = 7 /\ y' = 8
====
"""


@pytest.fixture(scope="module")
def manifest() -> Manifest:
    return read_manifest(find_manifest(Path(__file__)))


def guard(manifest: Manifest, name: str) -> Guard:
    [found] = [guard for guard in all_guards(manifest) if str(guard) == name]
    return found


def test_guards_are_what_says_nothing_of_the_next_state() -> None:
    assert [(found.action, found.text) for found in find_guards("LeaseLock", MODULE)] == [
        ("Plain", "x[p] = 0"),
        ("Plain", r"y \in {1, 2}"),
        ("Plain", r"\A q \in P : x[q] = 0 /\ y = 1"),
        ("Nested", "z = 2"),
        ("Nested", r"\/ y = 3 \/ y = 4"),
        ("Indirect", "y = 5"),
    ]


def test_one_is_taken_out_and_the_rest_stays() -> None:
    for number, found in enumerate(find_guards("LeaseLock", MODULE)):
        left = without(found, MODULE)
        others = [other.text for other in find_guards("LeaseLock", left)]
        assert others[number] == "TRUE"
        others[number] = found.text
        assert others == [other.text for other in find_guards("LeaseLock", MODULE)]


@pytest.mark.parametrize("module", MODULES)
def test_every_action_has_guards(manifest: Manifest, module: str) -> None:
    guards = [found for found in all_guards(manifest) if found.module == module]
    assert len({found.action for found in guards}) > 10
    assert len({(found.action, found.text) for found in guards}) == len(guards)


async def test_what_a_property_needs_is_told(toolbox: Toolbox, manifest: Manifest) -> None:
    needed = guard(manifest, "LeaseLock!Release: FencePasses(lease, guard[p].epoch)")
    fall = await what_falls(toolbox, manifest, needed)
    assert (fall.guard, fall.model) == (needed, "LeaseLock")
    assert fall.falls in ("OneFencedHolder", "GuardIsHonest", "HolderNotAborted")


async def test_what_no_property_needs_is_told(toolbox: Toolbox, manifest: Manifest) -> None:
    unneeded = guard(manifest, "LeaseLock!Want: ~lease.wanted")
    assert await what_falls(toolbox, manifest, unneeded) == Fall(unneeded, "", "")


def test_what_is_not_as_listed_is_told(manifest: Manifest) -> None:
    first, second, third = all_guards(manifest)[:3]
    falls = [Fall(first, "", ""), Fall(second, "HolderNotAborted", "LeaseLock"), Fall(third, "", "")]
    listed = {(f"{found.module}!{found.action}", found.text): "so" for found in (second, third)}
    listed["LeaseLock!Call", "is gone"] = "so"
    told = surprises(falls, listed, [first, second, third])
    assert [
        line.removeprefix(f"{about}: ") for line, about in zip(told, (first, second, "LeaseLock!Call"), strict=True)
    ] == [
        "no property needs it, and guards.toml does not say why it stays",
        "HolderNotAborted needs it, but guards.toml says that nothing does",
        "is gone: guards.toml has it, and it is not there",
    ]


def test_what_is_listed_is_there_and_says_why(manifest: Manifest) -> None:
    listed = read_unneeded(manifest)
    there = {(f"{found.module}!{found.action}", found.text) for found in all_guards(manifest)}
    assert listed.keys() <= there
    assert all(listed.values())
