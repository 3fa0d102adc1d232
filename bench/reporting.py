"""Write results as Markdown tables of medians and quartiles, with the targets.

This module draws no plots, since the peers' environment imports it and has no matplotlib.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeAlias

from bench.measuring import Results, Spread, Target

_UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))


def head(measured: Mapping[str, Results]) -> str:
    """Return the introduction of the report, with the computer of the results. ``measured`` has them by program."""
    noted = next(iter(measured.values())).suite.get_metadata()
    loads = {f"load average meanwhile, {module.rpartition('.')[2]}": _load(each) for module, each in measured.items()}
    machine = {
        "processors": f"{noted['cpu_count']} of {noted['cpu_model_name']}",
        "system": noted["platform"],
        "Python": noted["python_version"].partition(" (")[0],
        **{name.removesuffix(" version"): noted[name] for name in sorted(noted) if name.endswith(" version")},
        **loads,
    }
    return f"""\
# How fast, against what

Each figure is given with a baseline. Both are measured in the same process, in alternating samples of a tenth of a
second, so that other load on the machine affects both. A ratio is the median over several such processes. Its quartiles
follow in brackets. Where there is a target, the table says whether it was met.

```console
$ make bench
```

measures everything again in about 35 minutes, and rewrites this file and its plots.
`make bench BENCH="--fast transactions"` measures one topic faster, and prints its section.
`make bench BENCH=--rigorous` takes three times as long. The raw results are in the format of pyperf:

```console
$ .venv/bin/python -m pyperf stats build/benchmarks/transactions.json
```

What these figures do not say:

- how fast another machine is, such as a phone. Most of the time of a durable transaction is spent waiting for the disk,
  and the latency of disks differs by a factor of a hundred. Ratios depend less on the machine. But a slower disk makes
  them better, and a disk that confirms writes too early makes them worse;
- the cost of waiting for another process, or for the event loop of a busy program;
- anything about safety, which is shown by the models and the tests. No test depends on durations.

{table(("measured on", ""), machine.items())}

A load average well above 1 means that other programs used the machine, so that the figures are provisional.
"""


def _load(results: Results) -> str:
    loads = [run.get_metadata()["load_avg_1min"] for bench in results.suite for run in bench.get_runs()]
    return f"{Spread.of(loads).median:.1f}"


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table. All columns but the first are numbers."""
    lines = [headings, ["---", *("---:" for _ in headings[1:])], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def duration(seconds: float) -> str:
    """Return a duration with a unit, with three digits."""
    scale, unit = next((scale, unit) for scale, unit in _UNITS if abs(seconds) >= scale or unit == "µs")
    return f"{digits(seconds / scale)} {unit}"


def digits(number: float) -> str:
    """Return a number with three digits, or with all digits before the point."""
    return f"{number:,.0f}" if abs(number) >= 100 else f"{number:.3g}"


def spread(values: Spread, write: Callable[[float], str]) -> str:
    """Return a median with its quartiles."""
    return f"**{write(values.median)}** ({write(values.low)} to {write(values.high)})"


Pair: TypeAlias = "tuple[str, str, float | None]"
"""A subject, its baseline, and the largest ratio that meets the target, if there is a target."""


def targets_of(results: Results, *pairs: Pair) -> list[Target]:
    """Return the ratios that have a target."""
    return [
        Target(f"{subject} / {baseline}", results.ratio(subject, baseline), most)
        for subject, baseline, most in pairs
        if most is not None
    ]


def compared(results: Results, *pairs: Pair) -> str:
    """Return a table of subjects and their baselines."""
    return table(
        ("", "takes", "compared with", "takes", "ratio", "target", ""),
        [_comparison(results, *pair) for pair in pairs],
    )


def _comparison(results: Results, subject: str, baseline: str, most: float | None) -> tuple[str, ...]:
    found = results.ratio(subject, baseline)
    return (
        subject,
        duration(results.of(subject).median),
        baseline,
        duration(results.of(baseline).median),
        spread(found, digits),
        "" if most is None else f"at most {most:g}",
        "" if most is None else "met" if found.median <= most else "**missed**",
    )


def layers(results: Results, least: str, added: Mapping[str, str]) -> str:
    """Return a table of the time that each layer adds to the one before it."""
    rows = [(least, duration(results.of(least).median), "")]
    for below, (subject, what) in zip((least, *added), added.items(), strict=False):
        adds = results.difference(subject, below)
        rows.append((f"{subject}: {what}", duration(results.of(subject).median), spread(adds, duration)))
    return table(("", "takes", "adds"), rows)
