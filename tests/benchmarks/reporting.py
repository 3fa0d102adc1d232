"""How results are written down: Markdown tables of medians and quartiles, with what was aimed at."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from tests.benchmarks.measuring import Results, Spread

HEAD = """# Benchmarks

How fast the store is, against what: each figure stands beside its baseline, which was measured in the same minutes on
the same machine. `make bench` measures everything again, in about a quarter of an hour, and rewrites this file and its
plots.
"""

_UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Lay out a table; all columns but the first are numbers."""
    lines = [headings, ["---", *("---:" for _ in headings[1:])], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def duration(seconds: float) -> str:
    """Write a length of time with three digits."""
    scale, unit = next((scale, unit) for scale, unit in _UNITS if abs(seconds) >= scale or unit == "µs")
    return f"{digits(seconds / scale)} {unit}"


def digits(number: float) -> str:
    """Write a number with three digits, or all those before the point."""
    return f"{number:,.0f}" if abs(number) >= 100 else f"{number:.3g}"


def spread(values: Spread, write: Callable[[float], str]) -> str:
    """Write a median, and its quartiles."""
    return f"**{write(values.median)}** ({write(values.low)} to {write(values.high)})"


def compared(results: Results, *pairs: tuple[str, str, float]) -> str:
    """Lay out subjects beside their baselines, with the most that each ratio may be."""
    return table(
        ("", "takes", "baseline", "ratio", "aim", ""),
        [_comparison(results, *pair) for pair in pairs],
    )


def _comparison(results: Results, subject: str, baseline: str, most: float) -> tuple[str, ...]:
    found = results.ratio(subject, baseline)
    return (
        subject,
        duration(results.seconds(subject).median),
        duration(results.seconds(baseline).median),
        spread(found, digits),
        f"at most {most:g}",
        "met" if found.median <= most else "**missed**",
    )


def layers(results: Results, least: str, added: Mapping[str, str]) -> str:
    """Lay out what each layer adds to the one before."""
    rows = [(least, duration(results.seconds(least).median), "")]
    for below, (subject, what) in zip((least, *added), added.items(), strict=False):
        adds = results.difference(subject, below)
        rows.append((f"{subject}: {what}", duration(results.seconds(subject).median), spread(adds, duration)))
    return table(("", "takes", "adds"), rows)
