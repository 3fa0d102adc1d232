"""The test vectors for other implementations agree with the reference, and find the bugs that they are meant for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from checking.citations import Specification
from checking.conformance import files, kit, rows, sealing
from checking.conformance.cases import Case, Vectors
from unwedged.store import sealer, statements

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / kit.FOLDER


def row_cases() -> list[rows.RowCase]:
    return msgspec.json.decode((FOLDER / "rows.json").read_bytes(), type=Vectors[rows.RowCase]).cases


def file_cases() -> list[files.FileCase]:
    return msgspec.json.decode((FOLDER / "files.json").read_bytes(), type=Vectors[files.FileCase]).cases


def sealing_cases() -> list[sealing.SealingCase]:
    return msgspec.json.decode((FOLDER / "sealing.json").read_bytes(), type=Vectors[sealing.SealingCase]).cases


def all_cases() -> list[Case]:
    return [*sealing_cases(), *row_cases(), *file_cases()]


def test_the_files_are_what_the_reference_makes() -> None:
    for name, content in kit.contents().items():
        assert (FOLDER / name).read_bytes() == content, f"{name} is old: python -m checking vectors writes it anew"


def test_the_folder_has_no_other_files() -> None:
    assert {path.name for path in FOLDER.iterdir()} == {*kit.contents(), "README.md"}


def test_each_case_names_a_clause_and_a_known_bug() -> None:
    clauses = Specification.read(ROOT).clauses
    for case in all_cases():
        assert case.clause in clauses, case.id
        assert case.bug is None or (ROOT / "spec" / "track-record" / f"{case.bug}.md").is_file(), case.id


def test_a_case_that_is_refused_has_an_error_and_any_other_an_answer() -> None:
    for case in all_cases():
        assert case.valid == (case.error is None), case.id


UNFENCED_SYNC = statements.CHANGES.replace(statements.FENCE, "true")
OWN_LEASE_NOT_TAKEABLE = statements.ACQUIRE.replace(" OR holder = :instance", "")
EPOCH_KEPT_ON_RETAKING = statements.ACQUIRE.replace(
    "epoch = epoch + free", "epoch = epoch + (free AND holder IS NOT :instance)"
)
LOAD_DISTRUSTS_THE_FLOOR = statements.LOAD.replace("floor > :since", "floor >= :since")
KEYS_DISTRUST_THE_FLOOR = statements.KEYS.replace("floor > :since", "floor >= :since")
RENEWAL_NEVER_SHORTENS = statements.RENEW.replace(
    "expires = :now + :duration + late(:began, :duration)", "expires = max(expires, :now + :duration)"
)
NUMBERS_ARE_ROUNDED = statements.ACQUIRE.replace(
    "holder = :instance OR", "CAST(holder AS REAL) = CAST(:instance AS REAL) OR"
)


@pytest.mark.parametrize(
    ("name", "broken", "found"),
    [
        (
            "CHANGES",
            UNFENCED_SYNC,
            {"sync-after-another-epoch", "sync-after-the-own-next-epoch", "sync-after-release", "sync-newer-schema"},
        ),
        ("ACQUIRE", OWN_LEASE_NOT_TAKEABLE, {"acquire-own", "acquire-own-largest"}),
        ("ACQUIRE", EPOCH_KEPT_ON_RETAKING, {"acquire-own", "acquire-own-expired", "acquire-own-largest"}),
        ("LOAD", LOAD_DISTRUSTS_THE_FLOOR, {"load-at-the-floor"}),
        ("KEYS", KEYS_DISTRUST_THE_FLOOR, {"list-at-the-floor"}),
        ("RENEW", RENEWAL_NEVER_SHORTENS, {"renew-sooner", "renew-late"}),
        ("ACQUIRE", NUMBERS_ARE_ROUNDED, {"acquire-next-to-largest"}),
    ],
    ids=[
        "sync read is not fenced",
        "own lease can't be taken",
        "epoch is kept on retaking",
        "load distrusts the floor",
        "listing distrusts the floor",
        "renewal never shortens",
        "numbers are rounded",
    ],
)
async def test_a_broken_access_fails_by_name(
    monkeypatch: pytest.MonkeyPatch, name: str, broken: str, found: set[str]
) -> None:
    assert broken != getattr(statements, name)
    monkeypatch.setattr(statements, name, broken)
    cases = row_cases()
    made = await rows.run_all(cases)
    failed = {meant.id for meant, case in zip(cases, made, strict=True) if meant != case}
    assert failed == found


async def test_a_file_whose_log_was_truncated_is_noticed_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statements, "CHANGES", statements.CHANGES.replace("version, floor,", "version, 0 AS floor,"))
    failed = {case.id for case in file_cases() if await files.run(case) != case}
    assert failed == {"log-truncated"}


@pytest.mark.parametrize(
    ("longest", "found"),
    [(500, {"unlock-1000-bytes"}), (999, {"unlock-1000-bytes"}), (1001, {"unlock-1001-bytes"})],
)
def test_another_bound_of_the_header_is_noticed_by_name(
    monkeypatch: pytest.MonkeyPatch, longest: int, found: set[str]
) -> None:
    monkeypatch.setattr(sealer, "_LONGEST_HEADER", longest)
    assert failed_headers() == found


def test_a_header_that_only_python_takes_for_json_is_noticed_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealer, "_refuse_constant", float)
    assert failed_headers() == {"unlock-header-nan", "unlock-header-infinity"}


@pytest.mark.parametrize(
    ("bound", "found"),
    [
        (lambda cost: cost.n * cost.r < 2**21, {"n-times-r", "n-times-r-times-p"}),
        (lambda cost: cost.n * cost.r * cost.p < 2**23, {"n-times-r-times-p", "p"}),
        (lambda cost: cost.n < 2**16, {"n-above-2-to-16", "n-times-r", "n-times-r-times-p"}),
        (lambda cost: cost.n < 2 ** (15 * cost.r), {"n-and-r"}),
        (lambda cost: cost.n > 2, {"least", "p"}),
    ],
    ids=["n times r", "n times r times p", "n", "n by r", "least n"],
)
def test_a_tighter_bound_of_the_cost_is_noticed_by_name(
    monkeypatch: pytest.MonkeyPatch, bound: Callable[[sealer.Cost], bool], found: set[str]
) -> None:
    acceptable = sealer.Cost.acceptable
    monkeypatch.setattr(sealer.Cost, "acceptable", lambda cost: acceptable(cost) and bound(cost))
    at_bound = {name for name in failed_headers() if name.startswith("unlock-cost-at-bound-")}
    assert at_bound == {f"unlock-cost-at-bound-{name}" for name in found}


def failed_headers() -> set[str]:
    """Return the header cases whose results differ now, without the expensive case."""
    cases = [case for case in sealing_cases() if case.id.startswith("unlock-") and "usual-cost" not in case.id]
    return {case.id for case in cases if sealing.run(case) != case}
