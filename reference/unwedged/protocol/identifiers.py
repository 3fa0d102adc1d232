"""The integers of the protocol, told apart by type.

All are plain ``int`` at run time, so that contracts over them can be decided over all paths.
"""

from __future__ import annotations

from typing import NewType

InstanceId = NewType("InstanceId", int)
"""One run of one program. A restart is a new instance; a label is only a name for people."""

Epoch = NewType("Epoch", int)
"""The fencing token: grows by one at every acquisition of the lease and is never reused. 0: never taken."""

Version = NewType("Version", int)
"""The store version: grows by one at every committed write. 0: a new store."""

Milliseconds = NewType("Milliseconds", int)
"""A point on the wall clock, or a length of time."""
