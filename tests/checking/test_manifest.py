from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from checking.errors import CheckoutNotFound, ManifestInvalid, UnknownModel
from checking.models.manifest import Band, Layer, Manifest, differences, find_manifest, read_manifest
from checking.tlc.run import Result, Verdict
from tests.checking.specifications import Specifications

PASSING = """
[[model]]
name = "Passing"
specification = "Counter.tla"
band = "smoke"
expected = "pass"
exit_code = 0
distinct_states = 10
depth = 4
"""

FAILING = """
[[model]]
name = "Failing"
specification = "Counter.tla"
band = "fault"
slug = "too-small"
layer = "S"
expected = "safety"
property = "Small"
exit_code = 12
distinct_states = 4
depth = 3
"""


def manifest_of(specifications: Specifications, text: str, properties: str = "INVARIANT Small\n") -> Manifest:
    specifications.write("Passing.cfg", "SPECIFICATION Spec\n")
    specifications.write("Failing.cfg", f"SPECIFICATION Spec\n{properties}")
    return read_manifest(specifications.write("manifest.toml", text))


def test_a_manifest_is_read(specifications: Specifications) -> None:
    manifest = manifest_of(specifications, PASSING + FAILING)
    assert [model.name for model in manifest.models] == ["Passing", "Failing"]
    failing = manifest.model("Failing")
    assert (failing.band, failing.slug, failing.layer) == (Band.FAULT, "too-small", Layer.STORE)
    assert (failing.expected, failing.property, failing.workers) == (Verdict.SAFETY, "Small", 1)
    assert manifest.band(Band.FAULT, Band.PROBE) == (failing,)
    job = manifest.job(failing)
    assert job.configuration == specifications.folder / "Failing.cfg"
    assert job.library == (specifications.folder.parent,)
    assert job.max_states == 1_000_000
    assert manifest.job(msgspec.structs.replace(failing, distinct_states=300_000)).max_states == 3_000_000
    with pytest.raises(UnknownModel, match=r"no model 'Other'.*Passing, Failing"):
        manifest.model("Other")


def test_an_unlisted_configuration_is_refused(specifications: Specifications) -> None:
    with pytest.raises(ManifestInvalid, match=r"Failing\.cfg is not listed"):
        manifest_of(specifications, PASSING)


def test_a_listed_model_without_configuration_is_refused(specifications: Specifications) -> None:
    third = PASSING.replace("Passing", "Third")
    with pytest.raises(ManifestInvalid, match=r"Third is listed, but there is no Third\.cfg"):
        manifest_of(specifications, PASSING + FAILING + third)


def test_a_model_that_is_listed_twice_is_refused(specifications: Specifications) -> None:
    with pytest.raises(ManifestInvalid, match="Passing is listed 2 times"):
        manifest_of(specifications, PASSING + FAILING + PASSING)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('band = "fault"', 'band = "foul"', "band"),
        ("depth = 3", 'depth = "3"', "Expected `int`, got `str`"),
        ("depth = 3", "deepness = 3", "unknown field `deepness`"),
        ("depth = 3", "", "missing required field `depth`"),
        ("depth = 3", "depth = 3\nworkers = 0", "workers"),
        ("depth = 3", "depth = 3\ntimeout = 120", "unknown field `timeout`"),
        ("depth = 3", "depth =", "manifest.toml"),
        ("depth = 3", "depth = 3\nworkers = 2", "with one worker only"),
        ("Counter.tla", "Missing.tla", "there is no Missing.tla"),
        ('layer = "S"', "", "has a slug and a layer"),
        ('slug = "too-small"', "", "has a slug and a layer"),
        ('property = "Small"', "", "names a property"),
        ('property = "Small"', 'property = "Large"', "does not check Large"),
        ('expected = "safety"', 'expected = "deadlock"', "names a property"),
        ('expected = "safety"\nproperty = "Small"', 'expected = "pass"', "must be expected to fail"),
        ('expected = "safety"\nproperty = "Small"', 'expected = "unfinished"', "something that TLC can find"),
        ('band = "fault"\nslug = "too-small"\nlayer = "S"', 'band = "smoke"', "only a fault or probe"),
        ('band = "fault"', 'band = "probe"', "and nothing else, has a slug"),
    ],
)
def test_an_entry_that_can_not_be_meant_is_refused(
    specifications: Specifications, old: str, new: str, told: str
) -> None:
    assert old in FAILING
    with pytest.raises(ManifestInvalid, match=told):
        manifest_of(specifications, PASSING + FAILING.replace(old, new))


def test_a_temporal_property_that_is_to_fail_must_be_alone(specifications: Specifications) -> None:
    text = PASSING + FAILING
    manifest_of(specifications, text, "INVARIANT Bounded\nPROPERTY Small\n")
    with pytest.raises(ManifestInvalid, match="no other temporal property than Small"):
        manifest_of(specifications, text, "PROPERTIES Small Arrives\n")


def test_the_manifest_is_found_from_below_and_missed_elsewhere(specifications: Specifications) -> None:
    manifest_of(specifications, PASSING + FAILING)
    root = specifications.folder.parent.parent
    (root / "some" / "where").mkdir(parents=True)
    assert find_manifest(root / "some" / "where") == specifications.folder / "manifest.toml"
    with pytest.raises(CheckoutNotFound, match="inside a clone"):
        find_manifest(Path("/"))


def test_every_difference_is_reported(specifications: Specifications) -> None:
    failing = manifest_of(specifications, PASSING + FAILING).model("Failing")
    expected = Result(Verdict.SAFETY, 12, "Small", 4, 3, 1.0, (), None, "")
    assert differences(failing, expected) == ()
    assert differences(failing, replace(expected, property="Bounded")) == ("property: expected Small, got Bounded",)
    assert differences(failing, replace(expected, distinct_states=7)) == ("distinct states: expected 4, got 7",)
    assert differences(failing, replace(expected, depth=4)) == ("depth: expected 3, got 4",)
    assert differences(failing, replace(expected, exit_code=13)) == ("exit code: expected 12, got 13",)
    unfinished = replace(expected, verdict=Verdict.UNFINISHED, exit_code=-9, property=None)
    assert differences(failing, unfinished)[0] == "verdict: expected safety, got unfinished"


def test_several_workers_may_find_a_larger_depth_but_no_smaller_one(specifications: Specifications) -> None:
    passing = manifest_of(specifications, PASSING.replace("depth = 4", "depth = 4\nworkers = 2") + FAILING).models[0]
    found = Result(Verdict.PASS, 0, None, 10, 4, 1.0, (), None, "")
    assert differences(passing, replace(found, depth=5)) == ()
    assert differences(passing, replace(found, depth=3)) == ("depth: expected 4, got 3",)
