"""Which models are replayed on the machine, by the module that TLC checks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from checking.machine_replay.counterpart import Counterpart
from checking.machine_replay.lists import Lists

COUNTERPARTS: Final[Mapping[str, type[Counterpart]]] = {"MCLists.tla": Lists}
