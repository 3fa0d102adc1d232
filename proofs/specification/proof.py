"""Let TLC start from every state that satisfies the invariant, and check that no step leaves it."""

from pathlib import Path

from checking.models.manifest import find_manifest, read_manifest
from proofs.report import Examined, Failure, Say
from proofs.tlc import check

INDUCTIVE = ("Inductive", "InductiveViews")


def prove(say: Say, examined: Examined) -> list[Failure]:
    """Check within bounds that each step from a state with the invariant leads to a state with the invariant."""
    say("The specification itself, from every state that satisfies the invariant (this takes minutes):")
    failures: list[Failure] = []
    manifest = read_manifest(find_manifest(Path.cwd()))
    for name in INDUCTIVE:
        result, wrong = check(manifest, name)
        failures += wrong
        examined[f"states of {name}"] += result.distinct_states
        outcome = "FAILED" if wrong else "proved"
        say(f"{name:<26} {result.distinct_states:>9,} states  {outcome}  {result.seconds:5.1f} s")
    return failures
