"""Test the SQL against the functions of `protocol`, with the same examples each time. This is not a proof.

Run `python -m proofs sql`. The tests are in `tests/store/sqlite/test_rules.py` (P16.1). Each listed test must have
passed with all of its examples, and there must be no test that is not listed.
"""

import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree as ET

from proofs.report import Examined, Failure, Say

MODULE = "tests/store/sqlite/test_rules.py"
SELECTION = ("TestTheSqlIsTheRules", "test_any_calls_at_any_times_do_what_the_rules_say", "test_records_and_change_log")

TESTS = (
    "test_acquire",
    "test_renew",
    "test_release",
    "test_commit",
    "test_reads",
    "test_any_calls_at_any_times_do_what_the_rules_say",
    "test_records_and_change_log",
)

PROFILE, EXAMPLES = "prove", 400


def prove(say: Say, examined: Examined) -> list[Failure]:
    """Run the tests, and check how many examples each of them has tried."""
    say(f"The SQL against the functions, {EXAMPLES} examples for each test:")
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "report.xml"
        # Of pytest's two JUnit formats, only this one lets a test record a property.
        options = [f"--hypothesis-profile={PROFILE}", f"--junit-xml={report}", "--override-ini=junit_family=xunit1"]
        chosen = [f"{MODULE}::{name}" for name in SELECTION]
        command = [sys.executable, "-m", "pytest", "--quiet", *options, *chosen]
        result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)  # noqa: S603 (our own)
        tried = _examples_of_passed(ET.parse(report)) if report.exists() else {}  # noqa: S314 (pytest has written it)
    failures: list[Failure] = []
    if result.returncode:
        failures.append(Failure(MODULE, f"pytest ends with exit code {result.returncode}"))
        say(result.stdout)
    failures += (Failure(name, "has not passed") for name in TESTS if name not in tried)
    failures += (Failure(name, "is not listed") for name in tried if name not in TESTS)
    for name, examples in tried.items():
        say(f"  {name:<52}{examples:>5} examples")
        # Hypothesis may discard examples, and then tries more.
        examined += Examined({"tests": 1, "examples": min(examples, EXAMPLES)})
    return failures


def _examples_of_passed(report: "ET.ElementTree[ET.Element]") -> dict[str, int]:
    """Return how many examples each passed test has tried, by the name of the test."""
    return {
        case.attrib["name"]: sum(
            int(noted.attrib["value"]) for noted in case.iter("property") if noted.attrib["name"] == "examples"
        )
        for case in report.iter("testcase")
        if not {child.tag for child in case} & {"failure", "error", "skipped"}
    }
