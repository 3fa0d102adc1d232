"""What TLC says of the specification itself: the graphs that the proofs are compared with; the invariant is inductive.

The models are in the manifest, in the band that only proofs check.
"""

import asyncio
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from checking.errors import CheckError
from checking.models.manifest import Manifest, differences, find_manifest, read_manifest
from checking.tlc.graph import Graph, read_graph
from checking.tlc.run import Result, Verdict, run
from checking.tlc.toolbox import find_toolbox
from proofs.report import Examined, Failure, Say
from proofs.report import run as run_proofs

INDUCTIVE = ("Inductive", "InductiveViews")


def graph_of(manifest: Manifest, name: str) -> tuple[Graph, list[Failure]]:
    """Have TLC check a model; return its graph, and what is not as the manifest expects.

    Raises ``CheckError`` where TLC does not get to the end of the graph.
    """
    with tempfile.TemporaryDirectory() as scratch:
        dump = Path(scratch) / "graph.dot"
        result, failures = _check(manifest, name, dump)
        if result.verdict is not Verdict.PASS:
            raise CheckError(f"TLC says {result.verdict.value} of model {name}: {result.detail}")
        graph = read_graph(dump)
    if len(graph.states) != result.distinct_states:
        raise CheckError(f"of {result.distinct_states} states of model {name}, {len(graph.states)} are in its graph")
    return graph, failures


def prove(say: Say, examined: Examined) -> list[Failure]:
    """Start from every state, within bounds, that satisfies the invariant: no step may lead to one that does not."""
    say("The specification itself, from every state that satisfies the invariant (this takes minutes):")
    failures: list[Failure] = []
    manifest = read_manifest(find_manifest(Path.cwd()))
    for name in INDUCTIVE:
        result, wrong = _check(manifest, name, None)
        failures += wrong
        examined[f"states of {name}"] += result.distinct_states
        outcome = "FAILED" if wrong else "proved"
        say(f"{name:<26} {result.distinct_states:>9,} states  {outcome}  {result.seconds:5.1f} s")
    return failures


def _check(manifest: Manifest, name: str, dump: Path | None) -> tuple[Result, list[Failure]]:
    model = manifest.model(name)
    job = replace(manifest.job(model, dump), brief=dump is not None)
    result = asyncio.run(run(find_toolbox(), job))
    named = f"{name}: {result.property}" if result.property else name
    return result, [Failure(named, difference) for difference in differences(model, result)]


if __name__ == "__main__":
    sys.exit(run_proofs({"specification": prove}))
