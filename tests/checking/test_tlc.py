from __future__ import annotations

import asyncio
import itertools
import os
import signal
from dataclasses import replace

import pytest

from checking.tlc import standstill
from checking.tlc.run import Configuration, Progress, Result, Verdict, read_configuration, run
from checking.tlc.toolbox import Toolbox
from checking.tlc.values import Label, ModelValue
from tests.checking.specifications import Specifications


async def test_a_correct_model_passes(toolbox: Toolbox, specifications: Specifications) -> None:
    progress: list[Progress] = []
    result = await run(toolbox, specifications.job("SPECIFICATION Spec INVARIANT Bounded\n"), progress.append)
    assert replace(result, seconds=0) == Result(Verdict.PASS, 0, None, 10, 4, 0, (), None, "")
    assert progress[-1] == Progress(distinct_states=10, queued=0, depth=4)
    assert sorted(file.name for file in specifications.folder.iterdir()) == ["Counter.tla", "Model.cfg"]


async def test_a_violated_invariant_has_its_name_and_its_counterexample(
    toolbox: Toolbox, specifications: Specifications
) -> None:
    result = await run(toolbox, specifications.job("SPECIFICATION Spec INVARIANTS Bounded Small\n"))
    assert (result.verdict, result.exit_code, result.property) == (Verdict.SAFETY, 12, "Small")
    assert [(step.label and step.label.action, step.state["x"]) for step in result.trace] == [
        (None, 0),
        ("Up", 1),
        ("Up", 2),
    ]
    who = result.trace[-1].state["who"]
    assert who == result.trace[0].state["who"].update({ModelValue("a"): 2})  # type: ignore[union-attr]
    assert result.detail == "Invariant Small is violated."


async def test_an_invariant_that_the_first_state_violates(toolbox: Toolbox, specifications: Specifications) -> None:
    result = await run(toolbox, specifications.job("SPECIFICATION Spec INVARIANT Tiny\n"))
    assert (result.verdict, result.exit_code, result.property) == (Verdict.SAFETY, 12, "Tiny")
    assert [(step.label, step.state["x"]) for step in result.trace] == [(None, 0)]


async def test_a_violated_property_of_steps_is_named_among_several(
    toolbox: Toolbox, specifications: Specifications
) -> None:
    result = await run(toolbox, specifications.job("SPECIFICATION Fair PROPERTIES Returns Stepwise\n"))
    assert (result.verdict, result.exit_code, result.property) == (Verdict.SAFETY, 13, "Stepwise")
    assert len(result.trace) == 3


@pytest.mark.parametrize(("refined", "verdict"), [("Other", Verdict.SAFETY), ("Endless", Verdict.SAFETY)])
async def test_a_violated_refinement_is_named_if_it_is_the_only_property(
    toolbox: Toolbox, specifications: Specifications, refined: str, verdict: Verdict
) -> None:
    result = await run(toolbox, specifications.job(f"SPECIFICATION Spec INVARIANT Bounded PROPERTY {refined}\n"))
    assert (result.verdict, result.property) == (verdict, refined)


async def test_a_refinement_of_an_instance_is_named(toolbox: Toolbox, specifications: Specifications) -> None:
    specifications.write(
        "Refining.tla",
        "---- MODULE Refining ----\nEXTENDS Counter\nAbove == INSTANCE Counter WITH x <- x \\div 2\n"
        "Refines == Above!Spec\n====\n",
    )
    result = await run(toolbox, specifications.job("SPECIFICATION Spec PROPERTY Refines\n", "Refining"))
    assert (result.verdict, result.property) == (Verdict.SAFETY, "Refines")


async def test_a_violated_temporal_property(toolbox: Toolbox, specifications: Specifications) -> None:
    result = await run(toolbox, specifications.job("SPECIFICATION Fair INVARIANT Bounded PROPERTY Arrives\n"))
    assert (result.verdict, result.exit_code, result.property) == (Verdict.LIVENESS, 13, "Arrives")
    assert result.lasso == 0
    assert [step.state["x"] for step in result.trace] == [0, 1, 2, 3, 0]
    assert result.trace[-1].label == Label("Back", ())


async def test_a_behaviour_that_stands_still(toolbox: Toolbox, specifications: Specifications) -> None:
    result = await run(toolbox, specifications.job("SPECIFICATION Spec PROPERTY Arrives\n"))
    assert (result.verdict, result.lasso, len(result.trace)) == (Verdict.LIVENESS, 0, 1)


async def test_of_several_temporal_properties_none_is_guessed(toolbox: Toolbox, specifications: Specifications) -> None:
    result = await run(toolbox, specifications.job("SPECIFICATION Fair PROPERTIES Arrives Returns\n"))
    # The pinned TLC does not name the property; a newer one does.
    assert result.verdict is Verdict.LIVENESS
    assert result.property in (None, "Arrives")


async def test_a_deadlock(toolbox: Toolbox, specifications: Specifications) -> None:
    result = await run(toolbox, specifications.job("INIT Init NEXT Down\n"))
    assert (result.verdict, result.exit_code, result.property) == (Verdict.DEADLOCK, 11, None)
    assert (result.distinct_states, len(result.trace)) == (1, 1)
    allowed = await run(toolbox, specifications.job("INIT Init NEXT Down\nCHECK_DEADLOCK FALSE\n"))
    assert allowed.verdict is Verdict.PASS


async def test_a_false_assumption(toolbox: Toolbox, specifications: Specifications) -> None:
    job = specifications.job("SPECIFICATION Spec\n")
    job.configuration.write_text("CONSTANTS a = a b = b Max = 0\nSPECIFICATION Spec\n")
    result = await run(toolbox, job)
    assert (result.verdict, result.exit_code, result.distinct_states) == (Verdict.ASSUMPTION, 10, 0)


@pytest.mark.parametrize(
    ("module", "configuration", "told"),
    [
        ("Broken", "SPECIFICATION Spec\n", "Parse Error"),
        ("Absent", "SPECIFICATION Spec\n", "Cannot find source file for module Absent"),
        ("Counter", "SPECIFICATION Spec INVARIANT Missing\n", "invariant Missing specified in the configuration file"),
        ("Counter", "NONSENSE\n", "expecting a keyword"),
        ("Counter", "SPECIFICATION Spec INVARIANT Max\n", "Max"),
        ("Counter", "INIT Init NEXT Half\n", "not completely specified"),
    ],
)
async def test_what_can_not_be_checked_is_an_error_in_tlcs_words(
    toolbox: Toolbox, specifications: Specifications, module: str, configuration: str, told: str
) -> None:
    specifications.write("Broken.tla", "---- MODULE Broken ----\nx == /\\ \n====\n")
    job = specifications.job("")
    job.configuration.write_text(configuration if configuration == "NONSENSE\n" else job_text(configuration))
    result = await run(toolbox, replace(job, specification=specifications.folder / f"{module}.tla"))
    assert result.verdict is Verdict.ERROR
    assert told in result.detail


def job_text(configuration: str) -> str:
    return "CONSTANTS a = a b = b Max = 3\n" + configuration


async def test_a_model_without_end_is_ended_at_its_bound(toolbox: Toolbox, specifications: Specifications) -> None:
    result = await run(toolbox, replace(specifications.job("SPECIFICATION Slow\n"), max_states=5))
    assert (result.verdict, result.detail) == (Verdict.UNFINISHED, "TLC was ended: it found more than 5 states")
    assert result.distinct_states > 5


SAYS_THAT_IT_RUNS = r"""#!/bin/sh
printf '@!@!@STARTMSG 2200:0 @!@!@\n'
printf 'Progress(1) at now: 1 states generated, %s distinct states found, 0 states left on queue.\n' $$
printf '@!@!@ENDMSG 2200 @!@!@\n'
exec sleep 600
"""


async def test_a_run_that_stands_still_is_ended(toolbox: Toolbox, specifications: Specifications) -> None:
    """The program prints a progress report, and then does nothing."""
    java = specifications.write("java", SAYS_THAT_IT_RUNS)
    java.chmod(0o700)
    said: list[Progress] = []
    job = replace(specifications.job("SPECIFICATION Slow\n"), idle_timeout_seconds=0.3)
    result = await run(replace(toolbox, java=java), job, said.append)
    assert (result.verdict, result.detail) == (Verdict.UNFINISHED, "TLC was ended: it did nothing for 0.3 s")
    with pytest.raises(ProcessLookupError):
        os.kill(said[0].distinct_states, 0)


async def test_a_run_that_works_is_left_to_work_however_long_it_takes(
    toolbox: Toolbox, specifications: Specifications, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The program prints nothing for a hundred times the idle timeout; then the test kills it."""
    samples = itertools.count()
    java = specifications.write("java", "#!/bin/sh\nexec sleep 600\n")
    java.chmod(0o700)

    async def used(pid: int) -> float:
        """Report a little more work at each sample, and kill the program after many."""
        if (sample := next(samples)) == 100 * standstill.SAMPLES:
            os.kill(pid, signal.SIGKILL)
        return float(sample)

    monkeypatch.setattr(standstill, "processor_seconds", used)
    job = replace(specifications.job("SPECIFICATION Slow\n"), idle_timeout_seconds=0.001)
    result = await run(replace(toolbox, java=java), job)
    assert (result.verdict, result.exit_code) == (Verdict.ERROR, -signal.SIGKILL)
    assert next(samples) > 100 * standstill.SAMPLES


async def test_a_cancelled_run_ends_tlc(toolbox: Toolbox, specifications: Specifications) -> None:
    java = specifications.write("java", SAYS_THAT_IT_RUNS)
    java.chmod(0o700)
    said: asyncio.Queue[Progress] = asyncio.Queue()
    task = asyncio.create_task(
        run(replace(toolbox, java=java), specifications.job("SPECIFICATION Slow\n"), said.put_nowait)
    )
    pid = (await said.get()).distinct_states
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_an_exit_code_that_contradicts_the_output_is_an_error(
    toolbox: Toolbox, specifications: Specifications
) -> None:
    java = specifications.write("java", f'#!/bin/sh\n{toolbox.java} "$@"\nexit 0\n')
    java.chmod(0o700)
    result = await run(replace(toolbox, java=java), specifications.job("SPECIFICATION Spec INVARIANT Small\n"))
    assert (result.verdict, result.exit_code) == (Verdict.ERROR, 0)


def test_what_a_configuration_checks(specifications: Specifications) -> None:
    job = specifications.job(
        "INVARIANTS One Two \\* INVARIANT Not\n(* PROPERTY Nor\n this *) PROPERTY Three\nSYMMETRY S\nPROPERTIES Four\n"
        "INVARIANT\nFive\nCHECK_DEADLOCK FALSE\n"
    )
    assert read_configuration(job.configuration) == Configuration(("One", "Two", "Five"), ("Three", "Four"))
