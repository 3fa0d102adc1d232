from __future__ import annotations

import asyncio
import os
import shutil
import sys
from pathlib import Path

import pytest

from checking.tlc import standstill
from checking.tlc.standstill import MIN_CPU_SHARE, SAMPLES, Standstill, processor_seconds

IDLE_TIMEOUT_SECONDS = 300.0
MIN_USED_SECONDS = MIN_CPU_SHARE * IDLE_TIMEOUT_SECONDS


def samples_until_it_stands_still(*used: float | None) -> int:
    """Return the sample at which a standstill is noticed, or 0. After the given samples, no more time is used."""
    watch = Standstill(IDLE_TIMEOUT_SECONDS)
    last = used[-1]
    for sample in range(1, len(used) + 2 * SAMPLES):
        if watch.at_sample(used[sample - 1] if sample <= len(used) else last):
            return sample
    return 0


def test_a_process_that_uses_nothing_is_noticed_after_so_many_samples() -> None:
    assert samples_until_it_stands_still(0.0) == SAMPLES
    assert samples_until_it_stands_still(7.0) == SAMPLES + 1


def test_what_an_idle_java_uses_is_not_work() -> None:
    """The process uses a tenth of the least share at each sample."""
    assert (
        samples_until_it_stands_still(*(MIN_USED_SECONDS / 10 * sample / SAMPLES for sample in range(2 * SAMPLES)))
        == SAMPLES
    )


def test_a_process_that_gets_little_of_a_busy_machine_works_all_the_same() -> None:
    barely = [1.01 * MIN_USED_SECONDS * sample / (SAMPLES - 1) for sample in range(50 * SAMPLES)]
    watch = Standstill(IDLE_TIMEOUT_SECONDS)
    assert not any(map(watch.at_sample, barely))


def test_without_a_measurement_no_process_counts_as_idle() -> None:
    assert samples_until_it_stands_still(None) == 0
    now_and_then = (0.0 if sample % (SAMPLES - 1) else None for sample in range(10 * SAMPLES))
    assert samples_until_it_stands_still(*now_and_then, None) == 0


@pytest.fixture(params=["stat", "ps"])
def processes(request: pytest.FixtureRequest) -> Path:
    """Return the folder of the process table, or a folder without one for ``ps``. Skip what this system lacks."""
    if request.param == "stat":
        if not Path("/proc/self/stat").exists():
            pytest.skip("there is no table of processes here")
        return Path("/proc")
    if shutil.which("ps") is None:
        pytest.skip("there is no ps here")
    return Path("/nowhere")


async def test_work_is_seen(processes: Path) -> None:
    busy = await asyncio.create_subprocess_exec(sys.executable, "-c", "while True: pass")
    try:
        before = await processor_seconds(busy.pid, processes)
        assert before is not None
        while True:  # until a second is used, since smaller amounts are not always reported
            used = await processor_seconds(busy.pid, processes)
            assert used is not None
            if used >= before + 1:
                break
            await asyncio.sleep(0.01)
    finally:
        busy.kill()
        await busy.wait()


async def test_the_processor_time_of_a_process_that_is_gone_is_unknown(processes: Path) -> None:
    gone = await asyncio.create_subprocess_exec(sys.executable, "-c", "")
    await gone.wait()
    assert await processor_seconds(gone.pid, processes) is None


async def test_without_any_source_the_processor_time_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert await processor_seconds(os.getpid(), Path("/nowhere")) is None


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("00:00:07\n", 7), (" 0:01.50\n", 1.5), ("01:02:03", 3723), ("2-00:00:01", 172_801), ("", None), ("TIME", None)],
)
def test_times_are_read(text: str, seconds: float | None) -> None:
    assert standstill._read_time(text) == seconds
