"""Detect that another process hangs.

A process that hangs uses almost no processor time. A process that works uses some, however busy the computer is. So the
used processor time is measured, and not the duration of the run. (TLC's output is no sign of work: TLC reports its
progress once a minute, even if there is none.)
"""

from __future__ import annotations

import asyncio
import os
from asyncio.subprocess import DEVNULL, PIPE
from dataclasses import dataclass
from pathlib import Path

MIN_CPU_SHARE = 1 / 300
"""A fraction of one core. A process that uses less hangs: an idle Java virtual machine uses a tenth of this."""

SAMPLES = 60
"""How many samples in a row must find no work. On a busy computer the samples are taken less often, so the wait is
longer."""


@dataclass(slots=True)
class Standstill:
    """Compares the processor time that a process uses between samples with the least that a working process uses."""

    idle_timeout_seconds: float
    _noted: float = 0
    _idle_samples: int = 0

    def at_sample(self, used_seconds: float | None) -> bool:
        """Return whether the process hangs. ``used_seconds`` is ``None`` if its processor time is not known."""
        if used_seconds is None or used_seconds - self._noted >= MIN_CPU_SHARE * self.idle_timeout_seconds:
            self._noted, self._idle_samples = used_seconds or self._noted, 0
        else:
            self._idle_samples += 1
        return self._idle_samples >= SAMPLES


async def standstill(pid: int, idle_timeout_seconds: float) -> str:
    """Wait until a process hangs; return the reason to stop it. Never return if its processor time is not known."""
    watch = Standstill(idle_timeout_seconds)
    while True:
        if watch.at_sample(await processor_seconds(pid)):
            return f"it did nothing for {idle_timeout_seconds:g} s"
        await asyncio.sleep(idle_timeout_seconds / SAMPLES)


async def processor_seconds(pid: int, processes: Path = Path("/proc")) -> float | None:
    """Return the processor time of a process in seconds, or ``None`` if the system does not tell it."""
    if (processes / "self" / "stat").exists():
        return _from_stat(processes / str(pid) / "stat")
    return await _from_ps(pid)


def _from_stat(path: Path) -> float | None:
    """Read the processor time from ``/proc`` on Linux."""
    try:
        # The second field is the program's name in parentheses. The name may contain blanks and parentheses.
        fields = path.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")  # its own time and that of its children that ended


async def _from_ps(pid: int) -> float | None:
    """Read the processor time from ``ps``, on other Unix systems."""
    try:
        asking = await asyncio.create_subprocess_exec(
            *("ps", "-o", "time=", "-p", str(pid)), stdin=DEVNULL, stdout=PIPE, stderr=DEVNULL
        )
    except OSError:
        return None
    answer, _ = await asking.communicate()
    return _read_time(answer.decode())


def _read_time(text: str) -> float | None:
    """Parse ``[days-]hours:minutes:seconds`` or ``minutes:seconds``, with or without a fraction. Return seconds."""
    days, _, rest = text.strip().rpartition("-")
    try:
        parts = [float(part) for part in rest.split(":")]
        return sum(60.0**power * part for power, part in enumerate(reversed(parts))) + 86_400 * int(days or 0)
    except ValueError:
        return None
