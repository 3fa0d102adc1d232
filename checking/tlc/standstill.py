"""Notice that another process stands still.

What hangs is told from what is slow by what it does, and not by a clock: on a busy machine everything takes long. A
process that hangs uses next to no processor time; one that works uses some, however little it is given. (That it prints
something says nothing: TLC tells once a minute how far it is, also where that is no further than a minute ago.)
"""

from __future__ import annotations

import asyncio
import os
from asyncio.subprocess import DEVNULL, PIPE
from dataclasses import dataclass
from pathlib import Path

MIN_CPU_SHARE = 1 / 300
"""Of one core. A process that uses less stands still: a Java machine that has nothing to do uses a tenth of it."""

SAMPLES = 60
"""So many samples in a row must find no work. On a busy machine they come as slowly as everything does, and then the
wait is longer in all."""


@dataclass(slots=True)
class Standstill:
    """Compares what a process has used at each sample with what it must use within ``idle_timeout_seconds``."""

    idle_timeout_seconds: float
    _noted: float = 0
    _idle_samples: int = 0

    def at_sample(self, used_seconds: float | None) -> bool:
        """Say whether it stands still. ``None``: it can't be told how much the process has used."""
        if used_seconds is None or used_seconds - self._noted >= MIN_CPU_SHARE * self.idle_timeout_seconds:
            self._noted, self._idle_samples = used_seconds or self._noted, 0
        else:
            self._idle_samples += 1
        return self._idle_samples >= SAMPLES


async def standstill(pid: int, idle_timeout_seconds: float) -> str:
    """Return what to say when the process has stood still for so long; never return if that can't be told."""
    watch = Standstill(idle_timeout_seconds)
    while True:
        if watch.at_sample(await processor_seconds(pid)):
            return f"it did nothing for {idle_timeout_seconds:g} s"
        await asyncio.sleep(idle_timeout_seconds / SAMPLES)


async def processor_seconds(pid: int, processes: Path = Path("/proc")) -> float | None:
    """Return how much processor time a process has used; ``None`` where the system does not say."""
    if (processes / "self" / "stat").exists():
        return _from_stat(processes / str(pid) / "stat")
    return await _from_ps(pid)


def _from_stat(path: Path) -> float | None:
    """Read Linux's table of processes."""
    try:
        # The second field is the name in parentheses, which may have anything in it.
        fields = path.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")  # its own time and that of its children that ended


async def _from_ps(pid: int) -> float | None:
    """Ask the command that every other Unix has."""
    try:
        asking = await asyncio.create_subprocess_exec(
            *("ps", "-o", "time=", "-p", str(pid)), stdin=DEVNULL, stdout=PIPE, stderr=DEVNULL
        )
    except OSError:
        return None
    answer, _ = await asking.communicate()
    return _read_time(answer.decode())


def _read_time(text: str) -> float | None:
    """Read ``[days-]hours:minutes:seconds`` or ``minutes:seconds``, with or without a fraction."""
    days, _, rest = text.strip().rpartition("-")
    try:
        parts = [float(part) for part in rest.split(":")]
        return sum(60.0**power * part for power, part in enumerate(reversed(parts))) + 86_400 * int(days or 0)
    except ValueError:
        return None
