"""Turn the blocks of a page that list names of the library into Sphinx's directives for their documentation."""

from __future__ import annotations

import importlib
import inspect
import typing
from typing import Final

PACKAGES: Final = ("unwedged.store", "unwedged.machine", "unwedged.trace")
"""The packages whose public interface is their ``__all__``."""


def block(names: str) -> str:
    """Return the block in which Sphinx documents each of these names. ``names`` has one name on each line."""
    entries = "\n".join(_entry(name) for name in names.split())
    return f"```{{eval-rst}}\n{entries}```"


def exceptions(module: str) -> str:
    """Return the block in which Sphinx documents all public exceptions of a module."""
    names = [f"{module.strip()}.{name}" for name in public(module.strip())]
    return block("\n".join(name for name in names if _is_exception(_named(name))))


def aliases() -> dict[str, str]:
    """Return the public names of classes and functions, by their names in the defining modules."""
    names = {}
    for module in PACKAGES:
        for name in public(module):
            named = _named(f"{module}.{name}")
            if inspect.isclass(named) or inspect.isfunction(named):
                names[f"{named.__module__}.{named.__qualname__}"] = f"{module}.{name}"
    return {place: name for place, name in names.items() if not place.startswith("unwedged.protocol.")}


def public(module: str) -> list[str]:
    """Return the public names of a module."""
    names: list[str] = importlib.import_module(module).__all__
    return names


def _entry(name: str) -> str:
    named = _named(name)
    if _is_exception(named):
        return f".. autoexception:: {name}\n   :members:\n   :show-inheritance:\n"
    if inspect.isclass(named) or isinstance(named, typing.NewType):
        return f".. autoclass:: {name}\n   :members:\n   :undoc-members:\n"
    if inspect.isfunction(named):
        return f".. autofunction:: {name}\n"
    return f".. autodata:: {name}\n   :no-value:\n"


def _named(name: str) -> object:
    module, _, attribute = name.rpartition(".")
    named: object = getattr(importlib.import_module(module), attribute)
    return named


def _is_exception(named: object) -> bool:
    return inspect.isclass(named) and issubclass(named, BaseException)
