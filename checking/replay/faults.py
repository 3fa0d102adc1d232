"""List the bugs of the lock and the store that are injected into the reference by substitution.

Each substitution breaks the same rule of the protocol as the fault of the same name in ``tla/``. The product has no
switch for a fault.
"""

from __future__ import annotations

from checking.replay.lock_faults import LOCK_FAULTS
from checking.replay.store_faults import STORE_FAULTS
from checking.replay.substitutions import Fault

FAULTS: dict[str, Fault] = {**LOCK_FAULTS, **STORE_FAULTS}
