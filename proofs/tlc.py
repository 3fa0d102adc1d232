"""Run TLC on the models of the band `proof`, and read their configurations and state graphs."""

import asyncio
import re
import tempfile
from dataclasses import replace
from pathlib import Path

from checking.errors import CheckError
from checking.models.manifest import Manifest, differences
from checking.tlc.graph import Graph, read_graph
from checking.tlc.run import Result, Verdict, run
from checking.tlc.toolbox import find_toolbox
from proofs.report import Failure

FUNCTIONS = "Functions"
"""The model with the table of each function of the specification: a step from each input to its output."""


def constants(configuration: Path) -> dict[str, int]:
    """Return the constants of a configuration file that are numbers."""
    text = configuration.read_text(encoding="utf-8")
    return {name: int(number) for name, number in re.findall(r"^ *(\w+) *= *(\d+)$", text, re.MULTILINE)}


def replaced(configuration: Path) -> frozenset[str]:
    """Return the definitions that a configuration file replaces by others."""
    return frozenset(re.findall(r"^ *(\w+) *<- *\w+$", configuration.read_text(encoding="utf-8"), re.MULTILINE))


def check(manifest: Manifest, name: str, dump: Path | None = None) -> tuple[Result, list[Failure]]:
    """Let TLC check a model, and write its graph to ``dump``.

    Return the result, and how it differs from the manifest.
    """
    model = manifest.model(name)
    job = replace(manifest.job(model, dump), brief=dump is not None)
    result = asyncio.run(run(find_toolbox(), job))
    named = f"{name}: {result.property}" if result.property else name
    return result, [Failure(named, difference) for difference in differences(model, result)]


def graph_of(manifest: Manifest, name: str) -> tuple[Graph, list[Failure]]:
    """Have TLC check a model; return its graph, and what is not as the manifest expects.

    Raises ``CheckError`` where TLC does not get to the end of the graph.
    """
    with tempfile.TemporaryDirectory() as scratch:
        dump = Path(scratch) / "graph.dot"
        result, failures = check(manifest, name, dump)
        if result.verdict is not Verdict.PASS:
            raise CheckError(f"TLC says {result.verdict.value} of model {name}: {result.detail}")
        graph = read_graph(dump)
    if len(graph.states) != result.distinct_states:
        raise CheckError(f"of {result.distinct_states} states of model {name}, {len(graph.states)} are in its graph")
    return graph, failures
