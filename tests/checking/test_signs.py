"""Which bug the traces are a sign of: what a process had done before the impossible step."""

from __future__ import annotations

from typing import Final

import pytest

from checking.explain.merging import merge
from checking.explain.signs import named_by_signs
from tests.checking.test_trace_conditions import Rows, lines_of_store, logs_of

OPEN: Final = "A open version=0\nB open version=0"
FIRST: Final = "A acquire epoch=1\nA sync epoch=1 since=0 version=0"
OVERTAKEN: Final = f"{OPEN}\n{FIRST}\nB acquire epoch=2\nB sync epoch=2 since=0 version=0"
AGAIN: Final = "A release epoch=1\nA acquire epoch=2"


def commit(process: str, number: int, epoch: int, version: int, based_on: str, *more: str) -> str:
    """Return the row of a commit of one record: it makes the value of its version."""
    of = f"operation={number} epoch={epoch} snapshot={version - 1} version={version}"
    return f"{process} commit {of} records=[counter#1] based_on=[{based_on}] made=[#{version}] {' '.join(more)}"


def handed_over(sync: str, *, had: bool = True) -> str:
    """Let A have the lease, then B, and then A again, which writes the record from an older value than the newest."""
    return "\n".join(
        [
            *(OPEN, FIRST, commit("A", 1, 1, 1, "absent") if had else "", "A release epoch=1"),
            *("B acquire epoch=2", f"B sync epoch=2 since=0 version={int(had)}"),
            *(() if had else (commit("B", 1, 2, 1, "absent"),)),
            *(commit("B", 2, 2, 2, "#1"), "B release epoch=2"),
            *("A acquire epoch=3", f"A sync epoch=3 since={int(had)} version=2 {sync}"),
            commit("A", 2, 3, 3, "#1"),
        ]
    )


OLD: Final = {"older_value"}
CHANGED: Final = "changed=[counter#1] changed_in=[2]"
LOADED: Final = "A load operation=7 epoch=1 snapshot=0 mode=view record=counter#1 found=false version=0"
OTHER_RECORD: Final = "\n".join(
    [
        handed_over(CHANGED).rpartition("\n")[0],
        "A commit operation=3 epoch=3 snapshot=2 version=3 records=[other#1] based_on=[absent] made=[#3]",
        commit("A", 4, 3, 4, "#1"),
    ]
)
LATE_LINE: Final = "\n".join(
    [
        *(OPEN, FIRST, "A release epoch=1", "B acquire epoch=2", "B sync epoch=2 since=0 version=1"),
        *(commit("B", 2, 2, 2, "#1"), "B release epoch=2", "A acquire epoch=3"),
        *(f"A sync epoch=3 since=1 version=2 {CHANGED}", commit("A", 1, 1, 1, "absent"), commit("A", 2, 3, 3, "#1")),
    ]
)
"""The line of the first commit came after the lease was taken again."""


@pytest.mark.parametrize(
    ("rows", "impossible", "reasons", "bugs"),
    [
        (f"{OPEN}\nA open version=0", "open", set(), ["holder-name-reuse"]),
        (
            f"{OPEN}\n{FIRST}\n{commit('A', 1, 0, 1, 'absent')}",
            "begin",
            {"began_unguarded"},
            ["save-without-lock"],
        ),
        (
            f"{OVERTAKEN}\n{commit('A', 1, 1, 1, 'absent')}",
            "commit",
            {"commit_unfenced"},
            ["lease-lapses-unfenced"],
        ),
        (
            f"{OVERTAKEN}\nA lose_guard epoch=1 why=expired\nA acquire epoch=3\n{commit('A', 1, 1, 1, 'absent')}",
            "commit",
            {"commit_unfenced"},
            ["live-reference-survives"],
        ),
        (
            f"{OVERTAKEN}\nA lose operation=1 epoch=1 snapshot=0 mode=view why=fenced\nA release epoch=1",
            "release",
            {"release_unfenced"},
            ["renew-ignores-loss"],
        ),
        (f"{OPEN}\n{FIRST}\n{AGAIN}\nA release epoch=1", "release", {"release_unfenced"}, ["guard-outlives-release"]),
        (f"{OPEN}\n{FIRST}\nB release epoch=1", "release", {"release_unfenced"}, ["renew-ignores-loss"]),
        *(
            (
                f"{OVERTAKEN}\nA validate operation=1 epoch=1 snapshot=0 mode=view row_epoch=2 {failure}",
                "validate",
                {"answer_unfenced"},
                [bug],
            )
            for failure, bug in (("", "unvalidated-view"), ("failure=KeyError", "stale-failure-believed"))
        ),
        (
            f"{OPEN}\n{FIRST}\n{commit('A', 1, 1, 3, 'absent')}",
            "commit",
            {"version_not_next"},
            ["cancelled-commit"],
        ),
        *(
            (f"{OPEN}\n{FIRST}\n{before}\nA acquire epoch=2\nA sync epoch=2 since=7 version=1", "sync", reasons, bugs)
            for reasons in ({"cache_version"},)
            for before, bugs in (
                (f"{commit('A', 1, 1, 1, 'absent')}\nA release epoch=1", ["late-version"]),
                ("A lose_guard epoch=1 why=sync_failed", ["reload-failure-swallowed"]),
                ("A release epoch=1", []),
            )
        ),
        (handed_over(CHANGED), "commit", OLD, ["session-cache-survives"]),
        (handed_over(f"{CHANGED} dropped=[counter#1]"), "commit", OLD, ["stale-account-overwrite"]),
        (handed_over("floor=2"), "commit", OLD, ["floor-ignored-at-sync"]),
        (handed_over(CHANGED, had=False), "commit", OLD, ["first-acquire-is-clean"]),
        (handed_over("", had=False), "commit", OLD, ["first-acquire-is-clean"]),
        (
            handed_over(f"{CHANGED} dropped=[counter#1]").replace("made=[#3]", "made=[#3] began_after=3"),
            "commit",
            OLD,
            ["live-reference-survives"],
        ),
        (
            "\n".join(
                [OPEN, FIRST, commit("A", 1, 1, 1, "absent"), commit("A", 2, 1, 2, "#1"), commit("A", 3, 1, 3, "#1")]
            ),
            "commit",
            OLD,
            ["partial-list"],
        ),
        (f"{OPEN}\n{FIRST}\n{commit('A', 1, 1, 1, '#9')}", "commit", OLD, ["cache-before-commit"]),
        *(
            (f"{OPEN}\nA acquire epoch=1\n{commit('A', 1, 1, version, 'absent')}", "begin", {"began_unguarded"}, bugs)
            for version, bugs in (
                (1, ["dirty-hidden-from-reentrant", "reload-race"]),
                (2, ["reload-race"]),
            )
        ),
        (
            "\n".join(
                [
                    *(OPEN, "B acquire epoch=1", "B sync epoch=1 since=0 version=0", commit("B", 1, 1, 1, "absent")),
                    *("B release epoch=1", "A acquire epoch=2"),
                    "A load operation=1 epoch=2 snapshot=0 mode=view record=counter#1 found=true version=1",
                ]
            ),
            "begin",
            {"began_unguarded"},
            ["dirty-hidden-from-reentrant"],
        ),
        (
            f"{OPEN}\n{FIRST}\n{commit('A', 1, 1, 1, 'absent')}\n{AGAIN}\nA sync epoch=2 since=1 version=1 kept=0",
            "",
            set(),
            ["generation-in-machine"],
        ),
        (
            f"{OPEN}\n{FIRST}\n{commit('A', 1, 1, 1, 'absent')}\n{AGAIN}\nA sync epoch=2 since=1 version=1 kept=1",
            "",
            set(),
            [],
        ),
        (f"{OPEN}\n{FIRST}\n{AGAIN}\nA sync epoch=2 since=0 version=0 kept=0", "", set(), []),
        # What another epoch, another reason or another record says is no sign.
        (f"{OVERTAKEN}\nA release epoch=2", "release", {"release_unfenced"}, ["renew-ignores-loss"]),
        (
            f"{OPEN}\n{FIRST}\n{AGAIN}\nA sync epoch=2 since=0 version=0\nB acquire epoch=3\nA release epoch=2",
            "release",
            {"release_unfenced"},
            [],
        ),
        (
            f"{OPEN}\n{FIRST}\n{AGAIN}\n{commit('A', 1, 2, 1, 'absent')}",
            "begin",
            {"began_unguarded"},
            ["dirty-hidden-from-reentrant", "reload-race"],
        ),
        (
            "\n".join(
                [
                    *(OPEN, FIRST, commit("A", 1, 1, 1, "absent"), "A lose_guard epoch=1 why=expired"),
                    *("A acquire epoch=2", "A sync epoch=2 since=7 version=1"),
                ]
            ),
            "sync",
            {"cache_version"},
            ["late-version"],
        ),
        (OTHER_RECORD, "commit", OLD, ["session-cache-survives"]),
        (LATE_LINE, "commit", OLD, ["session-cache-survives"]),
        (
            handed_over(CHANGED, had=False).replace("A release epoch=1", f"{LOADED}\nA release epoch=1"),
            "commit",
            OLD,
            ["session-cache-survives"],
        ),
        (
            handed_over(f"{CHANGED} kept=0").rpartition("\n")[0],
            "",
            set(),
            [],
        ),
    ],
)
def test_a_sign_names_a_bug(rows: str, impossible: str, reasons: set[str], bugs: list[str]) -> None:
    """``impossible`` is the name of the step that is; the last one of that name. Empty if all steps are possible."""
    logs = logs_of(lines_of_store(Rows("", rows)))
    merged = merge(logs)
    places = [number for number, step in enumerate(merged.steps) if step.name == impossible]
    followed = places[-1] if impossible else len(merged.steps)
    assert named_by_signs(logs, merged, followed, frozenset(reasons)) == tuple(bugs)
