"""Read and write the folder ``spec/track-record``. ``root`` is the folder of the clone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from checking.track_record.bugs import FOLDER, read_bugs
from checking.track_record.counterexamples import FILE, Counterexample, encoded, read_counterexamples
from checking.track_record.pages import contents, surroundings


def made(root: Path) -> dict[str, bytes]:
    """Return the content of each file that is made from the recorded ones, by its name."""
    spec = root / "spec"
    documents = [(spec / name).read_text(encoding="utf-8") for name in ("guarantees.md", "protocol.md", "machine.md")]
    pages = contents(read_bugs(root), read_counterexamples(root), surroundings(*documents))
    return {name: text.encode() for name, text in pages.items()}


def write(root: Path) -> list[Path]:
    """Write the pages and drawings, remove those of bugs that are gone, and return the paths that changed."""
    wanted = made(root)
    folder = root / FOLDER
    changed = [path for path in folder.iterdir() if path.suffix in (".md", ".svg") and path.name not in wanted]
    for path in changed:
        path.unlink()
    for name, content in wanted.items():
        path = folder / name
        if not path.exists() or path.read_bytes() != content:
            path.write_bytes(content)
            changed.append(path)
    return changed


def record(root: Path, found: Sequence[Counterexample]) -> None:
    """Record TLC's counterexamples."""
    (root / FILE).write_bytes(encoded(found))


def differences(root: Path, found: Sequence[Counterexample]) -> list[str]:
    """Return a line for each counterexample that differs from the recorded one."""
    recorded = {each.model: each for each in read_counterexamples(root)}
    now = {each.model: each for each in found}
    return [
        f"the counterexample of {model} is not the recorded one; python -m checking track-record --anew records it"
        for model in sorted(recorded.keys() | now.keys())
        if recorded.get(model) != now.get(model)
    ]
