"""Conditions are found in the specification, removed one at a time, and TLC's result is compared with the list."""

from __future__ import annotations

import pytest

from checking.models.conditions import (
    MODULES,
    Condition,
    ConditionList,
    Fall,
    Needed,
    Unneeded,
    all_conditions,
    discrepancies,
    find_conditions,
    read_condition_list,
    what_falls,
    without,
)
from checking.models.manifest import Manifest
from checking.tlc.toolbox import Toolbox

MODULE = r"""
---- MODULE LeaseLock ----
Steps(p) == x' = [x EXCEPT ![p] = 1]

Plain(p) ==
    /\ x[p] = 0 /\ y \in {1, 2}  \* not a /\ condition
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

Fairness ==
    /\ WF_vars(Indirect(p))
    /\ \A p \in P :
        /\ WF_vars(Plain(p)) /\ SF_vars(Nested(p) \/ (y = 1 /\ Steps(p)))
        /\ WF_vars(y = 1 /\ Plain(p))

Next == \E p \in P : Plain(p) \/ Nested(p) \/ Indirect(p) \/ OfTheFault(p)

-----
Unused(p) == /\ y = 7 /\ y' = 8
====
"""


def condition(manifest: Manifest, name: str) -> Condition:
    [found] = [condition for condition in all_conditions(manifest) if str(condition) == name]
    return found


def test_a_condition_is_a_conjunct_that_does_not_mention_the_next_state() -> None:
    assert [(found.action, found.text) for found in find_conditions("LeaseLock", MODULE)] == [
        ("Plain", "x[p] = 0"),
        ("Plain", r"y \in {1, 2}"),
        ("Plain", r"\A q \in P : x[q] = 0 /\ y = 1"),
        ("Nested", "z = 2"),
        ("Nested", r"\/ y = 3 \/ y = 4"),
        ("Indirect", "y = 5"),
        ("Fairness", "WF_vars(Indirect(p))"),
        ("Fairness", "WF_vars(Plain(p))"),
        ("Fairness", r"SF_vars(Nested(p) \/ (y = 1 /\ Steps(p)))"),
        ("Fairness", r"WF_vars(y = 1 /\ Plain(p))"),
    ]


def test_one_condition_is_removed_and_the_others_stay() -> None:
    for number, found in enumerate(find_conditions("LeaseLock", MODULE)):
        left = without(found, MODULE)
        others = [other.text for other in find_conditions("LeaseLock", left)]
        assert others[number] == "TRUE"
        others[number] = found.text
        assert others == [other.text for other in find_conditions("LeaseLock", MODULE)]


@pytest.mark.parametrize("module", MODULES)
def test_every_action_has_conditions(manifest: Manifest, module: str) -> None:
    conditions = [found for found in all_conditions(manifest) if found.module == module]
    assert len({found.action for found in conditions}) > 5
    assert len({(found.action, found.text) for found in conditions}) == len(conditions)


async def test_a_needed_condition_is_reported_with_what_falls(toolbox: Toolbox, manifest: Manifest) -> None:
    needed = condition(manifest, "LeaseLock!Release: FencePasses(lease, guard[p].epoch)")
    fall = await what_falls(toolbox, manifest, needed)
    assert (fall.condition, fall.model) == (needed, "LeaseLock")
    assert fall.falls in ("OneFencedHolder", "GuardIsHonest", "HolderNotAborted")


async def test_a_condition_that_no_property_needs_is_reported(toolbox: Toolbox, manifest: Manifest) -> None:
    unneeded = condition(manifest, "LeaseLock!Want: ~lease.wanted")
    assert await what_falls(toolbox, manifest, unneeded) == Fall(unneeded, "", "")


async def test_a_needed_fairness_assumption_is_reported(toolbox: Toolbox, manifest: Manifest) -> None:
    needed = condition(manifest, "LeaseLock!Fairness: SF_vars(Begin(p))")
    fall = await what_falls(toolbox, manifest, needed)
    assert (fall.falls, fall.model) == ("one of its properties", "LeaseLockProgress")


async def test_a_model_that_was_ended_is_no_answer(
    toolbox: Toolbox, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    unneeded = condition(manifest, "LeaseLock!Want: ~lease.wanted")
    monkeypatch.setattr("checking.models.conditions.STATES_FACTOR_WITHOUT_CONDITION", 0.01)
    fall = await what_falls(toolbox, manifest, unneeded)
    assert (fall.falls, set(fall.unfinished)) == ("", {"LeaseLock", "LeaseLockProgress"})


def test_what_is_not_as_listed_is_reported(manifest: Manifest) -> None:
    conditions = all_conditions(manifest)[:6]
    first, second, third, fourth, fifth, sixth = conditions
    falls = [
        Fall(first, "", ""),
        Fall(second, "HolderNotAborted", "LeaseLock"),
        Fall(third, "", ""),
        Fall(fourth, "", ""),
        Fall(fifth, "HolderNotAborted", "LeaseLock"),
        Fall(sixth, "", "", ("LeaseLock",)),
    ]
    places = [(f"{found.module}!{found.action}", found.text) for found in conditions]
    listed = ConditionList(
        needed=[Needed(*places[3], "HolderNotAborted", "LeaseLock")],
        unneeded=[Unneeded(*place, "so") for place in (places[1], places[2], places[5], ("LeaseLock!Call", "is gone"))],
    )
    told = discrepancies(falls, listed, conditions)
    about = (first, second, fourth, fifth, sixth, "LeaseLock!Call")
    assert [line.removeprefix(f"{what}: ") for line, what in zip(told, about, strict=True)] == [
        "no property needs it, but conditions.toml does not say why it stays",
        "HolderNotAborted needs it, but conditions.toml says that nothing does",
        "no property needs it, but conditions.toml says that one does",
        "HolderNotAborted needs it, but conditions.toml does not list it",
        "not decided, because TLC was stopped in these models: LeaseLock",
        "is gone: conditions.toml lists it, but no module has it",
    ]


def test_each_is_listed_once_with_what_falls_or_why_it_stays(manifest: Manifest) -> None:
    listed = read_condition_list(manifest)
    places = [(entry.action, entry.condition) for entry in listed.needed]
    places += [(entry.action, entry.condition) for entry in listed.unneeded]
    assert len(set(places)) == len(places)
    assert set(places) == {(f"{found.module}!{found.action}", found.text) for found in all_conditions(manifest)}
    assert all(entry.falls and manifest.model(entry.model) for entry in listed.needed)
    assert all(entry.why for entry in listed.unneeded)
