"""List all faults that are injected into real processes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from checking.traced_faults.device_faults import device_faults
from checking.traced_faults.exchange_faults import exchange_faults
from checking.traced_faults.fault import TracedFault
from checking.traced_faults.store_faults import store_faults


def every_fault(root: Path) -> Sequence[TracedFault]:
    """Return all faults in the order of the table. ``root`` is the folder of the clone."""
    return [*store_faults(root), *device_faults(), *exchange_faults()]
