"""Read the manifest of models, ``tla/models/manifest.toml``, which says what TLC must find in each model.

The manifest has one ``[[model]]`` for each configuration file in its folder. A file without an entry, or an entry
without a file, is an error, so no model is left unchecked unnoticed.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated

import msgspec

from checking.errors import CheckoutNotFound, ManifestInvalid, UnknownModel
from checking.tlc.run import Job, Result, Verdict, read_configuration

MIN_STATE_LIMIT, STATE_LIMIT_FACTOR = 1_000_000, 10
"""TLC is stopped when it has found more states than both of these: this number, and this multiple of the expected
number. By then the result is wrong, and TLC might never end. This does not depend on the speed of the computer."""

FEW_STATES = 70_000
"""With fewer states, most models take less processor time without Java's optimisation: measured, from half as much to a
sixth more."""


class Band(Enum):
    """What a model is for."""

    SMOKE = "smoke"
    """Checked by ``make check``: every property holds."""
    DEEP = "deep"
    """Checked by ``make check-deep``: a smoke model with a bound raised."""
    FAULT = "fault"
    """The correct specification with one line of the protocol broken: the named property must fail."""
    PROBE = "probe"
    """Claims that an action never happens. TLC must refute the claim: else properties could hold because nothing
    happens."""
    REPLAY = "replay"
    """The implementation takes each transition of its state graph."""
    PROOF = "proof"
    """Checked by ``make prove``, which compares its state graph with what is proved."""


class Layer(Enum):
    """The part of the protocol that a fault breaks."""

    LOCK = "L"
    STORE = "S"
    MACHINE = "M"


class Model(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model, and what TLC must find in it. The fields are the keys of the manifest."""

    name: str
    """Also the name of its configuration file, without ``.cfg``."""
    specification: str
    """The file name of the module that TLC checks, in the folder of the manifest."""
    band: Band
    expected: Verdict
    property: str | None = None
    """The property that must be violated, in a model that must fail."""
    exit_code: int
    distinct_states: int
    depth: int
    workers: Annotated[int, msgspec.Meta(ge=1)] = 1
    slug: str | None = None
    """For a fault: its name in the track record."""
    layer: Layer | None = None
    """For a fault: the part of the protocol that it breaks."""


class _Content(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The content of the file."""

    model: tuple[Model, ...]


@dataclass(frozen=True, slots=True)
class Manifest:
    """All models in the order of the file, and their folder."""

    folder: Path
    models: tuple[Model, ...]

    def model(self, name: str) -> Model:
        """Return the model of that name. Raises ``UnknownModel``."""
        for model in self.models:
            if model.name == name:
                return model
        raise UnknownModel(f"There is no model {name!r}. There are: {', '.join(model.name for model in self.models)}")

    def band(self, *bands: Band) -> tuple[Model, ...]:
        """Return the models of these bands."""
        return tuple(model for model in self.models if model.band in bands)

    def job(self, model: Model, dump: Path | None = None) -> Job:
        """Return what TLC is to run for ``model``."""
        return Job(
            specification=self.folder / model.specification,
            configuration=self.folder / f"{model.name}.cfg",
            library=(self.folder.parent,),
            workers=model.workers,
            max_states=max(MIN_STATE_LIMIT, STATE_LIMIT_FACTOR * model.distinct_states),
            brief=model.distinct_states < FEW_STATES,
            dump=dump,
        )


def find_manifest(start: Path) -> Path:
    """Return the path of the manifest of the clone that ``start`` is in. Raises ``CheckoutNotFound``."""
    for folder in (start, *start.parents):
        manifest = folder / "tla" / "models" / "manifest.toml"
        if manifest.is_file():
            return manifest
    raise CheckoutNotFound(
        f"There is no tla/models/manifest.toml in {start} or above it. "
        "This command checks the project's own specifications: run it inside a clone of the project."
    )


def read_manifest(path: Path) -> Manifest:
    """Read the manifest. Raises ``ManifestInvalid`` if it contradicts itself or the files in its folder."""
    try:
        content = msgspec.toml.decode(path.read_bytes(), type=_Content)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ManifestInvalid(f"{path}: {error}") from error
    manifest = Manifest(path.parent, content.model)
    problems = [
        *_listing_problems(manifest),
        *(p for model in manifest.models for p in _model_problems(manifest, model)),
    ]
    if problems:
        raise ManifestInvalid("\n".join(f"{path}: {problem}" for problem in problems))
    return manifest


def _listing_problems(manifest: Manifest) -> list[str]:
    listed = [model.name for model in manifest.models]
    present = {file.stem for file in manifest.folder.glob("*.cfg")}
    return [
        *(
            f"model {name} is listed {listed.count(name)} times"
            for name in sorted(set(listed))
            if listed.count(name) > 1
        ),
        *(f"model {name} is listed, but there is no {name}.cfg" for name in sorted(set(listed) - present)),
        *(f"{name}.cfg is not listed" for name in sorted(present - set(listed))),
    ]


_NAMES_A_PROPERTY = (Verdict.SAFETY, Verdict.LIVENESS)


def _model_problems(manifest: Manifest, model: Model) -> list[str]:
    """Return how an entry contradicts itself or the files that it names."""
    job = manifest.job(model)
    is_fault = model.band is Band.FAULT
    must_fail = model.band in (Band.FAULT, Band.PROBE)
    rules = {
        f"there is no {model.specification}": not job.specification.is_file(),
        "what is expected must be something that TLC can find": model.expected in (Verdict.UNFINISHED, Verdict.ERROR),
        "a fault or probe must be expected to fail": must_fail and model.expected is Verdict.PASS,
        "only a fault or probe may be expected to fail": not must_fail and model.expected is not Verdict.PASS,
        "a fault, and nothing else, has a slug and a layer": (model.slug is not None, model.layer is not None)
        != (is_fault, is_fault),
        "a violation, and nothing else, names a property": (model.property is not None)
        != (model.expected in _NAMES_A_PROPERTY),
        "a counterexample is the shortest, and always the same, with one worker only": must_fail and model.workers != 1,
    }
    problems = [rule for rule, broken in rules.items() if broken]
    if job.configuration.is_file() and model.property is not None:
        configuration = read_configuration(job.configuration)
        if model.property not in (*configuration.invariants, *configuration.properties):
            problems.append(f"{model.name}.cfg does not check {model.property}")
        elif model.property in configuration.properties and len(configuration.properties) > 1:
            # TLC says only that one of them is violated.
            problems.append(f"{model.name}.cfg must check no other temporal property than {model.property}")
    return [f"model {model.name}: {problem}" for problem in problems]


def differences(model: Model, result: Result) -> tuple[str, ...]:
    """Return the differences between a result and what the manifest expects; none if it is as expected."""
    found = {
        "verdict": (model.expected.value, result.verdict.value),
        "property": (model.property, result.property),
        "exit code": (model.exit_code, result.exit_code),
        "distinct states": (model.distinct_states, result.distinct_states),
        # Several workers may first find a state on a path that is not the shortest: then TLC reports too large a depth.
        "depth": (model.depth, result.depth if model.workers == 1 else min(result.depth, model.depth)),
    }
    return tuple(f"{what}: expected {wanted}, got {got}" for what, (wanted, got) in found.items() if wanted != got)
