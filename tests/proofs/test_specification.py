"""An invariant that is not inductive is named. `python -m proofs specification` checks the whole invariant."""

import shutil
from pathlib import Path

import pytest

from proofs.report import Examined
from proofs.specification import proof as specification

ROOT = Path(__file__).parents[2]


def test_what_is_violated_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(ROOT / "tla", tmp_path / "tla")
    module = tmp_path / "tla" / "models" / "MCInductive.tla"
    text = module.read_text()
    # Some of the states it starts from have a holder of epoch 0.
    assert text.count("row.epoch >= 1}") == 1
    module.write_text(text.replace("row.epoch >= 1}", "row.epoch >= 0}"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(specification, "INDUCTIVE", ("Inductive",))
    lines: list[str] = []
    failures = specification.prove(lines.append, Examined())
    assert {failure.name for failure in failures} == {"Inductive: EpochsOnlyGrow"}
    assert failures[0].verdict == "verdict: expected pass, got safety"
    assert "FAILED" in lines[-1]
