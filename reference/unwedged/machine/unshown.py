"""Structures whose values no log, exception or repr may show: they hold secrets, or what people have written."""

from __future__ import annotations


class Unshown:
    """A base class of structures. Their repr has only the name of the class."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"
