"""The code's pure core does what the specification says: compared with what TLC makes of the same inputs.

Run `python -m proofs.agreement`. TLC dumps the graph of all states of a model; then each function of `protocol` is
called with what was there before a step, and must give what was there after it. A difference, a function or an action
that was never compared, or a model that TLC does not finish as expected, fails and is named.
"""

import asyncio
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from proofs import actions, functions
from proofs.translation import constants
from unwedged.check import tlc
from unwedged.check.errors import CheckError
from unwedged.check.graph import Graph, read_graph
from unwedged.check.manifest import Manifest, differences, find_manifest, read_manifest
from unwedged.check.toolbox import find_toolbox

Say = Callable[[str], None]
Comparisons = Iterable[tuple[str, str | None]]
"""What was compared and, where it differs, how."""


@dataclass(frozen=True, slots=True)
class Failure:
    """What does not agree, or was not compared."""

    name: str
    what: str


def dump(manifest: Manifest, name: str, folder: Path) -> Graph:
    """Have TLC dump the graph of a model; raise `CheckError` if what it finds is not what the manifest expects."""
    model = manifest.model(name)
    path = folder / f"{name}.dot"
    result = asyncio.run(tlc.run(find_toolbox(), replace(manifest.job(model, path), brief=True)))
    if wrong := differences(model, result):
        raise CheckError(f"model {name}: {'; '.join(wrong)} {result.detail}")
    graph = read_graph(path)
    if len(graph.states) != result.distinct_states:
        raise CheckError(f"model {name}: of {result.distinct_states} states, {len(graph.states)} are in the graph")
    return graph


def tally(names: Iterable[str], comparisons: Comparisons, say: Say) -> list[Failure]:
    """Count the comparisons of each name. None at all is a failure, as is any that differs."""
    compared, differing = Counter[str](), Counter[str]()
    first: dict[str, str] = {}
    for name, difference in comparisons:
        compared[name] += 1
        if difference is not None:
            differing[name] += 1
            first.setdefault(name, difference)
    failures: list[Failure] = []
    for name in dict.fromkeys((*names, *compared)):
        agrees = compared[name] and not differing[name]
        say(f"  {name:<36}{compared[name]:>7} {'agree' if agrees else 'FAILED'}")
        if not compared[name]:
            failures.append(Failure(name, "nothing was compared"))
        elif differing[name]:
            failures.append(Failure(name, f"{differing[name]} of {compared[name]} differ; the first: {first[name]}"))
    return failures


def functions_agree(manifest: Manifest, folder: Path, say: Say) -> list[Failure]:
    """Compare each function of `protocol` with its tables."""
    say("Each function, on every input of its table:")
    missing = functions.public_functions() - {function for function, _ in functions.TABLES.values()}
    graph, numbers = dump(manifest, functions.MODEL, folder), constants(manifest.folder / f"{functions.MODEL}.cfg")
    return [
        *(Failure(function, "no table has its inputs") for function in sorted(missing)),
        *tally(map(functions.label, functions.TABLES), functions.compare(graph, numbers["LeaseTime"]), say),
    ]


def actions_agree(manifest: Manifest, folder: Path, say: Say) -> list[Failure]:
    """Compare each action, as the functions decide it, with all of its transitions."""
    say("Each action, in every state of its models:")
    deciding = frozenset[str]().union(*(decided_by for _, decided_by in actions.ACTIONS.values()))

    def comparisons() -> Iterator[tuple[str, str | None]]:
        for name in actions.MODELS:
            yield from actions.compare(actions.explored(dump(manifest, name, folder), manifest.folder / f"{name}.cfg"))

    return [
        *(Failure(function, "decides no action") for function in sorted(functions.public_functions() - deciding)),
        *tally(("Init", *actions.ACTIONS), comparisons(), say),
    ]


def main() -> int:
    """Compare everything; the exit code is 1 if anything is missing."""

    def say(line: str) -> None:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()

    began = time.monotonic()
    manifest = read_manifest(find_manifest(Path(__file__).parent))
    failures: list[Failure] = []
    with tempfile.TemporaryDirectory() as scratch:
        for agree in (functions_agree, actions_agree):
            try:
                failures += agree(manifest, Path(scratch), say)
            except CheckError as error:
                failures.append(Failure(agree.__name__, str(error)))
    say(f"{time.monotonic() - began:.0f} s")
    for failure in failures:
        say(f"FAILED: {failure.name}: {failure.what}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
