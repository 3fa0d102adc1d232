"""Small specifications for a real TLC."""

from __future__ import annotations

from pathlib import Path

from checking.tlc.run import Job

COUNTER = r"""
---- MODULE Counter ----
EXTENDS Integers, Sequences, TLC
CONSTANTS Max, a, b
VARIABLES x, who
vars == <<x, who>>
ASSUME Positive == Max > 0
Init == x = 0 /\ who = [p \in {a, b} |-> 0]
Up(p) == x < Max /\ x' = x + 1 /\ who' = [who EXCEPT ![p] = @ + 1]
Down == x > 0 /\ x' = x - 1 /\ UNCHANGED who
Half == x' = x
Back == x = Max /\ x' = 0 /\ who' = [p \in {a, b} |-> 0]
Next == (\E p \in {a, b} : Up(p)) \/ Back
Spec == Init /\ [][Next]_vars
Fair == Spec /\ WF_vars(Next)
Endless == x = 0 /\ who = [p \in {a, b} |-> 0] /\ [][x' \in 0..1 /\ UNCHANGED who]_vars
Small == x < 2
Tiny == x # 0
Bounded == x \in 0..Max
Stepwise == [][x' # 2]_vars
Returns == []<>(x = 0)
Arrives == <>(x = 77)
Other == x = 0 /\ [][x' = x + 1]_x
Slow == x = 0 /\ who = [p \in {a, b} |-> 0] /\ [][x' = x + 1 /\ UNCHANGED who]_vars
====
"""

CONSTANTS = "CONSTANTS a = a b = b Max = 3\n"


class Specifications:
    """Writes a specification and its configurations, in the format of ``tla/models``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        self.write("Counter.tla", COUNTER.strip())

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.write_text(text, encoding="utf-8")
        return path

    def job(self, configuration: str, module: str = "Counter", workers: int = 1) -> Job:
        path = self.write("Model.cfg", CONSTANTS + configuration)
        return Job(self.folder / f"{module}.tla", path, workers=workers)
