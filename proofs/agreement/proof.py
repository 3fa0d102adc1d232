"""Compare the pure functions of the code with TLC's results for the same inputs.

Run `python -m proofs agreement`. TLC writes the state graph of a model. Each function of `protocol` is called with the
values before a step, and must return the values after it. A difference is a failure. So is a function or an action that
was never compared, and a model whose result is not the expected one.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from checking.errors import CheckError
from checking.models.manifest import Manifest, find_manifest, read_manifest
from proofs.agreement import actions, functions
from proofs.report import Examined, Failure, Say
from proofs.tlc import FUNCTIONS, constants, graph_of

Comparisons = Iterable[tuple[str, str | None]]
"""The label of a comparison, and the difference, if there is one."""


def tally(names: Iterable[str], comparisons: Comparisons, say: Say, compared: Examined) -> list[Failure]:
    """Count the comparisons by label. A label without a comparison is a failure, and so is each difference."""
    differing = Counter[str]()
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


def functions_agree(manifest: Manifest, say: Say, examined: Examined) -> list[Failure]:
    """Compare each function of `protocol` with its tables."""
    say("Each function, on every input of its table:")
    missing = functions.public_functions() - {function for function, _ in functions.TABLES.values()}
    graph, wrong = graph_of(manifest, FUNCTIONS)
    numbers = constants(manifest.folder / f"{FUNCTIONS}.cfg")
    return [
        *wrong,
        *(Failure(function, "no table has its inputs") for function in sorted(missing)),
        *tally(map(functions.label, functions.TABLES), functions.compare(graph, numbers["LeaseTime"]), say, examined),
    ]


def actions_agree(manifest: Manifest, say: Say, examined: Examined) -> list[Failure]:
    """Compare each action, as the functions decide it, with all of TLC's transitions."""
    say("Each action, in every state of its models:")
    deciding = actions.OF_THE_LOCK_ALONE.union(*(decided_by for _, decided_by in actions.ACTIONS.values()))
    failures = [Failure(function, "decides no action") for function in sorted(functions.public_functions() - deciding)]

    def comparisons() -> Iterator[tuple[str, str | None]]:
        for name in actions.MODELS:
            graph, wrong = graph_of(manifest, name)
            failures.extend(wrong)
            yield from actions.compare(actions.explored(graph, manifest.folder / f"{name}.cfg"))

    return [*tally(("Init", *actions.ACTIONS), comparisons(), say, examined), *failures]


def prove(say: Say, examined: Examined) -> list[Failure]:
    """Run all comparisons."""
    manifest = read_manifest(find_manifest(Path.cwd()))
    failures: list[Failure] = []
    for agree in (functions_agree, actions_agree):
        try:
            failures += agree(manifest, say, examined)
        except CheckError as error:
            failures.append(Failure(agree.__name__, str(error)))
    return failures
