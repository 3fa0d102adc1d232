"""Generate the files of ``spec/conformance``. ``root`` is the folder of the clone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

import msgspec

from checking.conformance import files, rows, sealing
from checking.conformance.cases import AnyCase, Vectors

FOLDER: Final = Path("spec") / "conformance"


def contents() -> dict[str, bytes]:
    """Return the content of each file, by its name. The reference runs every case, which takes some seconds."""
    return {
        **_pair("sealing", sealing.make(), Vectors[sealing.SealingCase]),
        **_pair("rows", rows.make(), Vectors[rows.RowCase]),
        **_pair("files", files.make(), Vectors[files.FileCase]),
    }


def write(root: Path) -> list[Path]:
    """Write the files, and return the paths that changed."""
    changed = []
    for name, content in contents().items():
        path = root / FOLDER / name
        if not path.exists() or path.read_bytes() != content:
            path.write_bytes(content)
            changed.append(path)
    return changed


def _pair(name: str, vectors: Vectors[AnyCase], shape: type[Vectors[AnyCase]]) -> dict[str, bytes]:
    schema = msgspec.json.schema(shape)
    return {
        f"{name}.json": _lines(vectors),
        f"{name}.schema.json": json.dumps(schema, indent=2, ensure_ascii=False).encode() + b"\n",
    }


def _lines(vectors: Vectors[AnyCase]) -> bytes:
    """Encode vectors with one case on each line, so that a diff shows which cases differ."""
    cases = b",\n".join(map(msgspec.json.encode, vectors.cases))
    return b'{"format": %s, "cases": [\n%s\n]}\n' % (msgspec.json.encode(vectors.format), cases)
