"""Each function has contracts, each contract has a fault, and the proof notices a missing or false contract.

`python -m proofs contracts` confirms all contracts.
"""

import inspect
import pkgutil
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rpds import HashTrieMap

import unwedged.protocol
from proofs.contracts import proof as contracts
from proofs.contracts.broken import FAULTS, Fault, broken
from proofs.contracts.proof import CONFIRMED, MODULES, confirm, prove, refute, stated, unlisted
from proofs.contracts.symbolic_arguments import NAMES, Name, Records
from proofs.report import Examined, Failure, run

Write = Callable[[str], tuple[str, ...]]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Make a module ``sample`` of the text, as the modules whose contracts are asked for."""

    def write(text: str) -> tuple[str, ...]:
        (tmp_path / "sample.py").write_text(text, encoding="utf-8")
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.delitem(sys.modules, "sample", raising=False)
        return ("sample",)

    return write


def silent(_line: str) -> None:
    pass


GROWS = '''
def grow(number: int) -> int:
    """Grow.

    post: _ > number  # it grows
    """
    return number + 1
'''
IT_GROWS = "sample.grow: it grows"
SHRINK = Fault("sample.grow", "number + 1", "number - 1")


def verdict(modules: tuple[str, ...]) -> str:
    """What stands in the place of "confirmed" for the contract that `GROWS` states."""
    lines: list[str] = []
    [failure] = confirm({IT_GROWS: SHRINK}, modules, lines.append, Examined())
    assert failure.name == IT_GROWS
    assert len(lines) == 1
    assert lines[0].startswith(f"{IT_GROWS}: {failure.verdict}  ")
    return failure.verdict


# What there is


def test_every_function_of_the_protocol_has_a_contract() -> None:
    functions = set()
    for module in pkgutil.iter_modules(unwedged.protocol.__path__):
        home = import_module(f"unwedged.protocol.{module.name}")
        functions |= {
            f"{module.name}.{name}"
            for name, function in inspect.getmembers(home, inspect.isfunction)
            if function.__module__ == home.__name__
        }
    listed = {name.partition(":")[0] for name in FAULTS}
    assert functions
    assert functions == {name for name in listed if not name.startswith("laws.")}


def test_what_is_stated_is_what_is_listed() -> None:
    assert set(stated(MODULES)) == set(FAULTS)


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_has_its_line(name: str) -> None:
    fault = FAULTS[name]
    module, _, function = fault.function.partition(".")
    assert broken(getattr(import_module(f"unwedged.protocol.{module}"), function), fault).__doc__ is None


@pytest.mark.parametrize("function", ["lease.acquire", "cache.fill", "laws.stranded"])
def test_a_few_contracts_are_confirmed_and_refuted(function: str) -> None:
    some = {name: fault for name, fault in FAULTS.items() if name.startswith(f"{function}:")}
    lines: list[str] = []
    assert confirm(some, MODULES, lines.append, Examined()) == []
    assert [line.rpartition(": ")[0] for line in lines] == list(some)
    assert all(line.rpartition(": ")[2].startswith(f"{CONFIRMED}  ") for line in lines)
    assert refute(some, MODULES, silent, Examined()) == []


@given(st.lists(st.tuples(st.sampled_from(NAMES), st.none() | st.integers() | st.just("discard"))))
def test_the_stand_in_for_the_map_agrees_with_it(steps: list[tuple[Name, int | str | None]]) -> None:
    records = Records()
    real: HashTrieMap[Name, int | None] = HashTrieMap()
    for key, value in steps:
        before, copy = records, dict(records)
        if isinstance(value, str):
            records, real = records.discard(key), real.discard(key)
        else:
            records, real = records.insert(key, value), real.insert(key, value)
        assert before == copy
        assert dict(records) == dict(real.items())
        assert len(records) == len(real)
        for name in NAMES:
            assert (name in records) == (name in real)
            assert records.get(name) == real.get(name)


# What is noticed


def test_a_contract_that_holds(write: Write) -> None:
    modules = write(GROWS)
    assert unlisted({IT_GROWS: SHRINK}, modules) == []
    assert confirm({IT_GROWS: SHRINK}, modules, silent, Examined()) == []
    assert refute({IT_GROWS: SHRINK}, modules, silent, Examined()) == []


def test_a_contract_that_does_not_hold(write: Write) -> None:
    modules = write(GROWS.replace("number + 1", "number if number == 7654321 else number + 1"))
    assert verdict(modules) == "false when calling grow(7654321) (which returns 7654321)"


def test_a_contract_that_vanished(write: Write) -> None:
    assert verdict(write(GROWS.replace("post:", "after:"))).startswith("not found: ")


def test_a_contract_of_an_async_function(write: Write) -> None:
    assert verdict(write(GROWS.replace("def ", "async def "))).startswith("not found: ")


def test_a_contract_that_is_switched_off(write: Write) -> None:
    assert verdict(write(GROWS.replace("    return", "    # crosshair: off\n    return"))).startswith("not found: ")


def test_a_contract_that_is_not_listed(write: Write) -> None:
    modules = write(GROWS.replace("# it grows", "# it grows\n    post: _ != number  # it changes"))
    failure = Failure("sample.grow: it changes", "stated, but not listed")
    assert unlisted({IT_GROWS: SHRINK}, modules) == [failure]


def test_a_contract_without_a_name(write: Write) -> None:
    modules = write(GROWS.replace("# it grows", "# it grows\n    post: _ != number"))
    assert unlisted({IT_GROWS: SHRINK}, modules) == [Failure("sample.grow: ", "stated, but not listed")]


def test_two_contracts_of_one_name(write: Write) -> None:
    modules = write(GROWS.replace("# it grows", "# it grows\n    post: _ != number  # it grows"))
    failure = Failure("sample.grow: it grows (stated twice)", "stated, but not listed")
    assert unlisted({IT_GROWS: SHRINK}, modules) == [failure]


def test_a_contract_that_is_not_python(write: Write) -> None:
    modules = write(GROWS.replace("_ >", "_ > >"))
    failure = Failure("sample, line 5: invalid syntax (<string>, line 1)", "stated, but not listed")
    assert unlisted({IT_GROWS: SHRINK}, modules) == [failure]
    assert verdict(modules).startswith("not found: ")


def test_a_precondition_that_nothing_meets(write: Write) -> None:
    modules = write(GROWS.replace("post:", "pre: number < number\n    post:"))
    assert verdict(modules).startswith("Unable to meet precondition")


def test_no_counterexample_is_not_confirmed(write: Write) -> None:
    text = "# crosshair: max_iterations=3\n    return number + sum(1 for _ in range(number)) + 1"
    assert verdict(write(GROWS.replace("return number + 1", text))) == "Not confirmed."


def test_an_exception(write: Write) -> None:
    assert verdict(write(GROWS.replace("+ 1", "// (number - number)"))).startswith("ZeroDivisionError")


@pytest.mark.parametrize(
    ("end", "code"), [("os._exit(0)", 0), ("os._exit(3)", 3), ("os.kill(os.getpid(), signal.SIGKILL)", -9)]
)
def test_a_crash(write: Write, end: str, code: int) -> None:
    text = GROWS.replace("    return", f"    {end}\n    return")
    assert verdict(write(f"import os\nimport signal\n{text}")) == f"crash: exit code {code}"


def test_a_time_out(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contracts, "DEADLINE", 1.0)
    text = GROWS.replace("    return", "    threading.Event().wait()\n    return")
    assert verdict(write(f"import threading\n{text}")) == "time-out after 1 s"


def test_a_fault_that_does_no_harm(write: Write) -> None:
    [failure] = refute({IT_GROWS: Fault("sample.grow", "number + 1", "number + 2")}, write(GROWS), silent, Examined())
    assert failure == Failure(IT_GROWS, "with 'number + 2' for 'number + 1' in sample.grow: confirmed")


def test_a_fault_that_raises(write: Write) -> None:
    [failure] = refute(
        {IT_GROWS: Fault("sample.grow", "+ 1", "// (number - number)")}, write(GROWS), silent, Examined()
    )
    assert "ZeroDivisionError" in failure.verdict


def test_a_fault_whose_line_is_gone(write: Write) -> None:
    [failure] = refute({IT_GROWS: Fault("sample.grow", "number + 3", "number")}, write(GROWS), silent, Examined())
    assert failure.verdict.endswith(": 'number + 3' is 0 times in the body of sample.grow, not once")


def test_a_failure_is_reported(
    write: Write, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(contracts, "FAULTS", {IT_GROWS: SHRINK})
    monkeypatch.setattr(contracts, "MODULES", write(GROWS.replace("post:", "after:")))
    assert run({"sample": prove}, {"sample": {}}) == 1
    confirmed, refuted = capsys.readouterr().out.splitlines()[-2:]
    assert confirmed.startswith(f"FAILED: {IT_GROWS}: not found: ")
    assert refuted.startswith(f"FAILED: {IT_GROWS}: with 'number - 1' for 'number + 1' in sample.grow: not found: ")


def test_without_a_failure_the_proof_succeeds(
    write: Write, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(contracts, "FAULTS", {IT_GROWS: SHRINK})
    monkeypatch.setattr(contracts, "MODULES", write(GROWS))
    extent = {"contracts that are confirmed": 1, "broken lines that are refuted": 1}
    assert run({"sample": prove}, {"sample": extent}) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("1 contracts, 1 faults, ")
