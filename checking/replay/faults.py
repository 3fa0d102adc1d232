"""The bugs of the track record, injected into the reference by substitution: the product has no switch for them.

Each breaks the one line of the protocol that the fault of the same name breaks in ``tla/``.
"""

from __future__ import annotations

from checking.replay.lock_faults import LOCK_FAULTS
from checking.replay.store_faults import STORE_FAULTS
from checking.replay.substitutions import Fault

FAULTS: dict[str, Fault] = {**LOCK_FAULTS, **STORE_FAULTS}
