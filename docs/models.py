"""Make the page of a TLA+ module: its first comment, the models that TLC checks with it, and the module itself."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from checking.models.manifest import Model

COMMENT = re.compile(r"(?:^\(\*.*\*\)\n)+", re.MULTILINE)
EXTENDS = re.compile(r"^EXTENDS (.+(?:,\n.+)*)$", re.MULTILINE)
DEFINITION = re.compile(r"^(\w+)(?:\([^)=]*\))? *==", re.MULTILINE)
SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|])")


def model_anchor(name: str) -> str:
    """Return the anchor of a model."""
    return f"model-{name}"


def definitions(text: str) -> list[str]:
    """Return the names that a module defines."""
    return DEFINITION.findall(text)


def extended(text: str) -> list[str]:
    """Return the modules that a module extends."""
    found = EXTENDS.search(text)
    return re.findall(r"\w+", found[1]) if found else []


def module_page(name: str, modules: Mapping[str, str], models: Iterable[Model], bugs: Mapping[str, str]) -> str:
    """Return the page of a module as Markdown that needs no rewriting. ``modules`` has the text of all modules.

    ``bugs`` has the page of each bug of the track record.
    """
    text = modules[name]
    parts = [f"# {name}\n"]
    if found := COMMENT.search(text):
        parts.append(_prose(found[0]))
    if names := [module for module in extended(text) if module in modules]:
        parts.append(f"It extends {_linked(names)}.\n")
    if names := [module for module in modules if name in extended(modules[module])]:
        parts.append(f"It is extended by {_linked(names)}.\n")
    if rows := [_row(model, bugs) for model in models]:
        head = "| Model | Band | TLC finds | Distinct states | Depth |\n| --- | --- | --- | ---: | ---: |\n"
        parts.append("## Models\n\n" + head + "".join(rows))
    elif names := [module for module in modules if module.startswith("MC") and name in extended(modules[module])]:
        parts.append(f"## Models\n\nThe models of this module are on the page of {_linked(names)}.\n")
    parts.append(f"## The module\n\n```text\n{text.rstrip()}\n```\n")
    return "\n".join(parts)


def address(module: str) -> str:
    """Return the address of a module's page. Modules for models only are in the folder of the models."""
    return f"/tla/models/{module}.md" if module.startswith("MC") else f"/tla/{module}.md"


def _linked(modules: Iterable[str]) -> str:
    return ", ".join(f"[`{module}`]({address(module)})" for module in modules)


def _prose(comment: str) -> str:
    """Return the text of a boxed comment as paragraphs, with indented lists unchanged."""
    lines = [line.removeprefix("(*").removesuffix("*)").rstrip() for line in comment.splitlines()]
    parts = []
    for paragraph in re.split(r"\n\s*\n", "\n".join(lines)):
        each = [line.removeprefix(" ") for line in paragraph.splitlines()]
        if all(line.startswith("  ") for line in each):
            parts.append("```text\n" + "\n".join(each) + "\n```\n")
        else:
            parts.append("\n".join(SPECIAL.sub(r"\\\1", line.strip()) for line in each) + "\n")
    return "\n".join(parts)


def _row(model: Model, bugs: Mapping[str, str]) -> str:
    result = (
        f"`{model.property}` violated" if model.property else _EXPECTED.get(model.expected.value, model.expected.value)
    )
    name = f"[`{model.name}`]{{#{model_anchor(model.name)}}}"
    fault = f" of [`{model.slug}`]({bugs[model.slug]})" if model.slug is not None else ""
    return f"| {name} | {model.band.value}{fault} | {result} | {model.distinct_states:,} | {model.depth} |\n"


_EXPECTED = {"pass": "that all holds", "assumption": "an assumption violated", "deadlock": "a deadlock"}
