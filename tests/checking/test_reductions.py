"""The reduction of the larger models hides nothing: leases that nobody waits for have expired when they are taken.

The larger models rely on this. ``AcquiredExpired`` in ``tla/models/MCCryptoStoreCache.tla`` gives the argument. These
tests compare it with TLC's results: the same states are reached, and every fault is found.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from rpds import HashTrieMap

from checking.models.manifest import Band, Model, find_manifest, read_manifest
from checking.tlc.graph import read_graph
from checking.tlc.run import Job, Verdict, run
from checking.tlc.toolbox import Toolbox
from checking.tlc.values import render_value

MANIFEST = read_manifest(find_manifest(Path(__file__)))

FAULTS = [model for model in MANIFEST.band(Band.FAULT) if model.specification == "MCCryptoStoreCache.tla"]

EXPIRED = "CONSTANTS Acquired <- AcquiredExpired Renewed <- RenewedExpired\n"

SMALL = """
SPECIFICATION Spec
CONSTANTS
    p1 = p1  p2 = p2  o1 = o1  o2 = o2  o3 = o3
    Processes = {p1, p2}
    Operations = {o1, o2, o3}
    Records = {r1}
    Home <- TwoAndOne
    Modes <- AllTransactions
    Subscribers = {}
    Nobody = Nobody
    Departed = Departed
    Missing = Missing
    LeaseTime = 1
    MaxEpoch = 2
    MaxVersion = 1
    Fault = "none"
CHECK_DEADLOCK FALSE
"""


def job(folder: Path, configuration: str, dump: Path | None = None) -> Job:
    # TLC looks for a configuration only beside its specification.
    specification = folder / "Reduced.tla"
    specification.write_text(
        "---- MODULE Reduced ----\nEXTENDS MCCryptoStoreCache\nNobodyWaits == ~lease'.wanted\n====\n", encoding="utf-8"
    )
    path = folder / "Reduced.cfg"
    path.write_text(configuration, encoding="utf-8")
    models = MANIFEST.folder
    return Job(specification, path, library=(models, models.parent), brief=True, dump=dump)


async def reached(toolbox: Toolbox, folder: Path, configuration: str) -> set[str]:
    """Return the reachable states, without the remaining time of the lease."""
    dump = folder / "states.dot"
    result = await run(toolbox, job(folder, configuration, dump))
    assert result.verdict is Verdict.PASS, result.detail
    states: set[str] = set()
    for state in read_graph(dump).states:
        lease = state["lease"]
        assert isinstance(lease, HashTrieMap)
        states.add(render_value(HashTrieMap(state).insert("lease", lease.insert("left", 0))))
    return states


async def test_the_same_states_are_reached(toolbox: Toolbox, tmp_path: Path) -> None:
    lasting = await reached(toolbox, tmp_path, SMALL + "ACTION_CONSTRAINT NobodyWaits\n")
    assert await reached(toolbox, tmp_path, SMALL + EXPIRED) == lasting
    # Otherwise the comparison would be vacuous.
    assert len(lasting) > 1000


@pytest.mark.parametrize("model", FAULTS, ids=lambda model: model.name)
async def test_every_fault_is_found(toolbox: Toolbox, tmp_path: Path, model: Model) -> None:
    configuration = MANIFEST.job(model).configuration.read_text(encoding="utf-8")
    result = await run(toolbox, job(tmp_path, configuration + EXPIRED))
    assert (result.verdict, result.property) == (model.expected, model.property), result.detail


@pytest.mark.parametrize(
    ("name", "fault", "violated"),
    [
        ("Refinement", "unvalidated-view", "RefinesAtomicStore"),
        ("RefinementOfTwoRecords", "unvalidated-view", "RefinesAtomicStore"),
        ("CryptoStoreCache", "late-version", "CacheIsSnapshot"),
        ("Streams", "foreign-writes-unseen", "StreamComplete"),
    ],
)
async def test_a_smoke_model_itself_notices_a_fault(
    toolbox: Toolbox, tmp_path: Path, name: str, fault: str, violated: str
) -> None:
    """A model's reductions must not hide faults. The fault models don't show this: they have no such reductions."""
    configuration = MANIFEST.job(MANIFEST.model(name)).configuration.read_text(encoding="utf-8")
    assert configuration.count('Fault = "none"') == 1
    result = await run(toolbox, job(tmp_path, configuration.replace('"none"', f'"{fault}"')))
    assert (result.verdict, result.property) == (Verdict.SAFETY, violated), result.detail
