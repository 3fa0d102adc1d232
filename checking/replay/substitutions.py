"""What a fault is: parts of the reference that are substituted, so that the product needs no switch for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from checking.replay.world import World

Substitution: TypeAlias = "tuple[object, str, object]"
"""An object, the name of one of its attributes, and what to put there."""

Fault: TypeAlias = Callable[[World], Sequence[Substitution]]
