"""Each name in ``spec/`` exists, and ``spec/`` is complete."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import json
import pkgutil
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

import unwedged.protocol
from checking.citations import CODE, Specification
from checking.models.manifest import Band, Manifest, Model
from checking.tlc.run import read_configuration
from checking.track_record import files as track_record
from checking.track_record.bugs import FOLDER, Area, Bug, read_bugs
from checking.track_record.pages import PHRASES
from unwedged.store import LeaseTimes, errors, schema, statements
from unwedged.store import sealer as module
from unwedged.store.sealer import COST, Passphrase, RandomKey, Sealer, Secret

ROOT = Path(__file__).parents[2]
FAULTS_MODULE = "checking.replay.faults"
NEXT = {
    "AtomicStore": "ANext",
    "LeaseLock": "Next",
    "CryptoStoreCache": "Next",
    "Inbox": "Next",
    "Sharing": "Next",
    "Sessions": "Next",
    "Keys": "Next",
    "Lists": "Next",
    "Backup": "Next",
    "Verification": "Next",
    "Gossip": "Next",
}
"""The modules with behaviour, each with the name of the disjunction of its actions."""

TLA_COMMENT = re.compile(r"\(\*.*?\*\)|\\\*[^\n]*", re.DOTALL)
TLA_NAME = re.compile(r"(\w+)!(\w+)")
SLUG = re.compile(r"[a-z]+(-[a-z]+)+")
RULES = re.compile(r"\b[Rr]ules? (\d+(?:(?:, | and | to )\d+)*)")


# Reading the files


@dataclass(frozen=True)
class Table:
    """A table of a Markdown file: the heading above it, and its rows by column."""

    heading: str
    columns: tuple[str, ...]
    rows: tuple[dict[str, str], ...]


def document(name: str) -> str:
    return (ROOT / "spec" / f"{name}.md").read_text(encoding="utf-8")


def documents() -> str:
    return "\n\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "spec").glob("*.md")))


def without_blocks(text: str) -> str:
    return re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)


def tables(name: str) -> Iterator[Table]:
    heading = ""
    lines: list[list[str]] = []
    for line in (*without_blocks(document(name)).splitlines(), ""):
        if line.startswith("|"):
            lines.append([cell.strip() for cell in line.strip().strip("|").split("|")])
        elif lines:
            columns, rule, *rows = lines
            assert all(set(cell) == {"-"} for cell in rule), f"no table: {columns}"
            assert all(len(row) == len(columns) for row in rows), f"a row of another length: {columns}"
            yield Table(heading, tuple(columns), tuple(dict(zip(columns, row, strict=True)) for row in rows))
            lines = []
        if line.startswith("#"):
            heading = line.lstrip("# ")


def table(name: str, *columns: str) -> Table:
    [found] = [table for table in tables(name) if set(columns) <= set(table.columns)]
    assert found.rows
    return found


LABELS = ("Property", "Models", "Faults", "Tests", "Code", "Clauses")
"""The labels in a guarantee's section, in this order. A guarantee that no model checks lacks two of them."""


@dataclass(frozen=True)
class Guarantee:
    """A section of ``guarantees.md``: the promise, and the evidence for it, by label."""

    name: str
    promise: str
    labelled: dict[str, str]


@cache
def guarantees() -> tuple[Guarantee, ...]:
    [chapter] = re.findall(r"^## Promises\n(.*?)(?=^## )", document("guarantees"), re.DOTALL | re.MULTILINE)
    found = []
    for section in re.split(r"^#### ", chapter, flags=re.MULTILINE)[1:]:
        heading, _, text = re.split(r"^### ", section, flags=re.MULTILINE)[0].partition("\n")
        promise, *parts = re.split(r"^- \*\*(\w+)\*\*: *", text, flags=re.MULTILINE)
        assert len(set(parts[::2])) == len(parts[::2]), f"a label comes twice: {heading}"
        found.append(Guarantee(heading, promise.strip(), dict(zip(parts[::2], parts[1::2], strict=True))))
    return tuple(found)


def spans(text: str) -> list[str]:
    """Return the spans of text that are marked as code."""
    return re.findall(r"`([^`\n]+)`", without_blocks(text))


def rule_sections() -> dict[int, str]:
    parts = re.split(r"^### Rule (\d+)\. .*$", document("protocol"), flags=re.MULTILINE)
    return {int(number): re.split(r"^## ", text, maxsplit=1, flags=re.MULTILINE)[0]
            for number, text in zip(parts[1::2], parts[2::2], strict=True)}  # fmt: skip


@cache
def tla(module: str) -> str:
    """Return a module without its comments."""
    folder = ROOT / "tla" if (ROOT / "tla" / f"{module}.tla").is_file() else ROOT / "tla" / "models"
    return TLA_COMMENT.sub("", (folder / f"{module}.tla").read_text(encoding="utf-8"))


def definitions(module: str) -> dict[str, str]:
    """Return the definitions of a module itself, each with its text."""
    parts = re.split(r"^(\w+)(?:\([^)=]*\))? *==", tla(module), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def actions(module: str) -> set[str]:
    defined = definitions(module)
    # A step that changes nothing is not an action, and neither are the sets over which actions are quantified.
    steps = re.sub(r"UNCHANGED \w+|\\in [^:]+:", "", defined[NEXT[module]].split("\n\n")[0])
    return set(re.findall(r"\w+", steps)) & defined.keys()


def module_of(model: Model) -> str:
    """Return the module that a model makes finite: the model's own module extends it."""
    names = [model.specification.removesuffix(".tla")]
    while names[0] not in NEXT:
        extended = re.search(r"^EXTENDS (.+)$", tla(names.pop(0)), re.MULTILINE)
        names += re.findall(r"\w+", extended[1]) if extended else []
        names = [name for name in names if list((ROOT / "tla").rglob(f"{name}.tla"))]
    return names[0]


def checked_by(manifest: Manifest, model: Model) -> set[str]:
    configuration = read_configuration(manifest.job(model).configuration)
    return {*configuration.invariants, *configuration.properties}


def constants(manifest: Manifest, model: Model) -> dict[str, int]:
    """Return the numbers in a configuration, and the sizes of its sets."""
    text = TLA_COMMENT.sub("", manifest.job(model).configuration.read_text(encoding="utf-8"))
    numbers = {name: int(value) for name, value in re.findall(r"(\w+) *= *(\d+)", text)}
    return numbers | {name: len(value.split(",")) for name, value in re.findall(r"(\w+) *= *\{([^}]+)\}", text)}


def resolve(name: str) -> object:
    """Return the object of a dotted name: a module, or an object in one; for a dataclass's field, its default."""
    owner: object = pkgutil.resolve_name(name.rpartition(".")[0])
    if isinstance(owner, type) and dataclasses.is_dataclass(owner):
        defaults = {field.name: field.default for field in dataclasses.fields(owner)}
        if name.rpartition(".")[2] in defaults:
            return defaults[name.rpartition(".")[2]]
    found: object = pkgutil.resolve_name(name)
    return found


@cache
def names_of_tests(path: Path) -> set[str]:
    """Return the ids of the tests in a file, and of their classes."""
    found: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                found.add(name)
            case ast.ClassDef(name=name):
                found.add(name)
                found |= {
                    f"{name}::{inner.name}"
                    for inner in node.body
                    if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef)
                }
            case ast.Assign(targets=[ast.Name(id=name)]):  # a test that Hypothesis makes from a state machine
                found.add(name)
    return {name for name in found if name.rpartition("::")[2].startswith(("test", "Test"))}


# The track record


@cache
def bugs() -> dict[str, Bug]:
    return {bug.slug: bug for bug in read_bugs(ROOT)}


def modelled() -> dict[str, Bug]:
    """Return the bugs that have a model, by slug."""
    return {slug: bug for slug, bug in bugs().items() if bug.properties}


# Names


@pytest.mark.parametrize("name", sorted({s for s in spans(documents()) if s.startswith("unwedged.")} - {FAULTS_MODULE}))
def test_python_names_exist(name: str) -> None:
    resolve(name)


@pytest.mark.parametrize("name", sorted({s for s in spans(documents()) if "::" in s}))
def test_tests_exist(name: str) -> None:
    path, _, test = name.partition("::")
    assert test in names_of_tests(ROOT / path)


@pytest.mark.parametrize("name", sorted({s for s in spans(documents()) if TLA_NAME.fullmatch(s)}))
def test_tla_names_exist(name: str) -> None:
    module, _, defined = name.partition("!")
    assert defined in definitions(module)


@pytest.mark.parametrize("name", sorted({s for s in spans(documents()) if "/" in s and "::" not in s}))
def test_paths_exist(name: str) -> None:
    path = ROOT / name
    assert path.is_file() or (path.is_dir() and any(path.iterdir()))


def test_slugs_exist() -> None:
    assert {s for s in spans(documents()) if SLUG.fullmatch(s) and not s.startswith("fault-")} - bugs().keys() == set()


def test_a_bug_without_a_model_has_tests_and_steps() -> None:
    unmodelled = [bug for bug in bugs().values() if not bug.properties]
    assert {bug.layer for bug in unmodelled} == {Area.SYSTEM, Area.MACHINE}
    assert all(bug.tests and bug.acts and bug.ending for bug in unmodelled)
    assert all(bug.instead for bug in unmodelled if bug.layer is Area.SYSTEM)
    assert all(bool(bug.acts) == bool(bug.ending) for bug in bugs().values())
    assert not any(bug.instead for bug in modelled().values())


@pytest.mark.parametrize("test", sorted({test for bug in bugs().values() for test in bug.tests}))
def test_tests_of_the_track_record_exist(test: str) -> None:
    path, _, name = test.partition("::")
    assert name in names_of_tests(ROOT / path)


def test_the_pages_of_the_track_record_are_as_they_are_made() -> None:
    made = track_record.made(ROOT)
    written = {
        path.name: path.read_bytes() for path in (ROOT / FOLDER).iterdir() if path.suffix not in (".toml", ".json")
    }
    assert made.keys() == written.keys()
    outdated = [name for name in made if made[name] != written[name]]
    assert outdated == [], "python -m checking track-record makes them anew"


# The tables that map the specification to the code


def test_every_action_has_its_code() -> None:
    rows = table("guarantees", "Action", "In the reference").rows
    mapped = [name for row in rows for name in spans(row["Action"])]
    assert len(mapped) == len(set(mapped))
    assert set(mapped) == {f"{module}!{action}" for module in NEXT for action in actions(module)}
    for row in rows:
        twins = row["In the reference"]
        assert twins.startswith("none: ") or any(span.startswith("unwedged.") for span in spans(twins)), row["Action"]


def test_every_action_has_words_in_the_drawings_of_the_track_record() -> None:
    modules = NEXT.keys() - {"AtomicStore"}  # other modules refine it: it has no faults
    assert {module: set(actions) for module, actions in PHRASES.items()} == {
        module: actions(module) for module in modules
    }


def test_every_function_of_the_protocol_has_its_definitions() -> None:
    modules = [
        importlib.import_module(f"unwedged.protocol.{module.name}")
        for module in pkgutil.iter_modules(unwedged.protocol.__path__)
    ]
    functions = {
        f"{module.__name__}.{name}"
        for module in modules
        for name, function in inspect.getmembers(module, inspect.isfunction)
        if function.__module__ == module.__name__ and not name.startswith("_")
    }
    rows = table("guarantees", "Function", "In the specification").rows
    assert [name for row in rows for name in spans(row["Function"])] == [row["Function"].strip("`") for row in rows]
    assert {row["Function"].strip("`") for row in rows} == functions
    for row in rows:
        assert TLA_NAME.search(row["In the specification"]), row["Function"]


# Models and faults


def test_models_have_the_stated_bounds_and_properties(manifest: Manifest) -> None:
    rows = {row["Model"].strip("`"): row for row in table("guarantees", "Model", "Bounds").rows}
    assert rows.keys() == {model.name for model in manifest.band(Band.SMOKE, Band.DEEP, Band.REPLAY)}
    for name, row in rows.items():
        model = manifest.model(name)
        assert spans(row["Module"]) == [module_of(model)]
        assert set(spans(row["Properties that hold"])) <= checked_by(manifest, model)
        actual = constants(manifest, model)
        stated = {bound: int(number) for number, bound in re.findall(r"(\d+) `(\w+)`", row["Bounds"])}
        stated |= {bound: int(number) for bound, number in re.findall(r"`(\w+)` (\d+)", row["Bounds"])}
        assert stated.keys() == set(spans(row["Bounds"])), name
        assert {bound: actual.get(bound) for bound in stated} == stated, name


def test_there_are_guarantees_of_both_layers() -> None:
    [chapter] = re.findall(r"^## Promises\n(.*?)(?=^## )", document("guarantees"), re.DOTALL | re.MULTILINE)
    assert re.findall(r"^### (.*)$", chapter, re.MULTILINE) == ["The store", "The Matrix device"]
    assert len(guarantees()) >= 37
    assert len({guarantee.name for guarantee in guarantees()}) == len(guarantees())


@pytest.mark.parametrize("guarantee", guarantees(), ids=lambda guarantee: guarantee.name)
def test_a_guarantee_says_what_stands_behind_it(guarantee: Guarantee) -> None:
    said = guarantee.labelled
    assert guarantee.promise
    assert list(said) == [label for label in LABELS if label in said]
    assert said.keys() >= {"Property", "Tests", "Code", "Clauses"}
    assert said["Property"].startswith("`") or said["Property"].startswith("none; ")
    tests = re.findall(r"^  - (.*)$", said["Tests"], re.MULTILINE)
    assert tests
    assert all(re.fullmatch(r"`tests/[\w/]+\.py(::\w+)*`", test) for test in tests)
    assert said["Tests"].split() == [word for test in tests for word in ("-", test)]
    assert all(span.startswith("unwedged.") for span in spans(said["Code"]))
    assert spans(said["Code"])


@pytest.mark.parametrize("guarantee", guarantees(), ids=lambda guarantee: guarantee.name)
def test_the_models_of_a_guarantee_check_it_and_its_faults_violate_it(manifest: Manifest, guarantee: Guarantee) -> None:
    properties = set(spans(guarantee.labelled["Property"]))
    models = spans(guarantee.labelled.get("Models", ""))
    faults = spans(guarantee.labelled.get("Faults", ""))
    assert bool(properties) == bool(models) == bool(faults)
    held = [
        {f"{module_of(model)}!{name}" for name in checked_by(manifest, model)} for model in map(manifest.model, models)
    ]
    broken = [set(modelled()[slug].properties) for slug in faults]
    assert properties <= set().union(*held)
    assert all(properties & some for some in (*held, *broken))


@pytest.mark.parametrize("guarantee", guarantees(), ids=lambda guarantee: guarantee.name)
def test_the_clauses_of_a_guarantee_exist_and_are_those_that_its_faults_break(guarantee: Guarantee) -> None:
    clauses = re.split(r",\s+", guarantee.labelled["Clauses"].strip())
    assert all(re.fullmatch(r"[PM]\d+\.\d+", clause) for clause in clauses)
    assert set(clauses) <= set(re.findall(r"\*\*([PM]\d+\.\d+)\*\*", documents()))
    for slug in spans(guarantee.labelled.get("Faults", "")):
        assert set(modelled()[slug].clauses) & set(clauses), slug


@pytest.mark.parametrize("slug", modelled())
def test_a_fault_of_the_track_record_has_its_models(manifest: Manifest, slug: str) -> None:
    bug = modelled()[slug]
    models = [model for model in manifest.band(Band.FAULT) if model.slug == slug]
    assert {f"{module_of(model)}!{model.property}" for model in models} == set(bug.properties)
    assert {model.layer.value for model in models if model.layer is not None} == {bug.layer.value}


def test_a_fault_with_a_model_is_in_the_track_record(manifest: Manifest) -> None:
    assert {model.slug for model in manifest.band(Band.FAULT)} == modelled().keys()


def test_every_fault_with_a_model_breaks_a_guarantee() -> None:
    assert {slug for guarantee in guarantees() for slug in spans(guarantee.labelled.get("Faults", ""))} == (
        modelled().keys()
    )


def test_every_fault_is_a_line_of_the_specification() -> None:
    switches = {
        slug for path in (ROOT / "tla").glob("*.tla") for slug in re.findall(r'Broken\("([^"]+)"\)', tla(path.stem))
    }
    assert switches == modelled().keys()


def test_every_fault_of_the_lock_and_the_store_is_injected_into_the_reference() -> None:
    faults = resolve(f"{FAULTS_MODULE}.FAULTS")
    assert isinstance(faults, dict)
    assert faults.keys() == {slug for slug, bug in bugs().items() if bug.layer in (Area.LOCK, Area.STORE)}


# Rules


def test_the_rules_are_numbered_and_say_what_checks_them() -> None:
    sections = rule_sections()
    assert list(sections) == list(range(1, 11))
    for number, text in sections.items():
        wrong, checked = (re.search(rf"^{what}: (.*?)(?:^\w[^`]*: |\n\n|\Z)", text, re.DOTALL | re.MULTILINE)
                          for what in ("What goes wrong", "Checked by"))  # fmt: skip
        assert wrong, f"rule {number}"
        assert checked, f"rule {number}"
        assert all(slug in modelled() for slug in spans(wrong[1])), f"rule {number}"
        assert TLA_NAME.search(checked[1]), f"rule {number}"
        broken = {slug for slug, bug in modelled().items() if bug.clauses[0].startswith(f"P{number}.")}
        assert broken <= set(spans(wrong[1])), f"rule {number}"


def cited(text: str) -> set[int]:
    return {int(number) for numbers in RULES.findall(text) for number in re.findall(r"\d+", numbers)}


def test_rules_that_are_cited_exist() -> None:
    sources = [*(ROOT / "reference").rglob("*.py"), *(ROOT / "tla").rglob("*.tla"), *(ROOT / "spec").glob("*.md")]
    rules = set(rule_sections())
    for path in sources:
        assert cited(path.read_text(encoding="utf-8")) <= rules, path.name


def test_every_citation_has_a_clause_and_every_clause_a_citation() -> None:
    """``python -m checking clauses`` lists all clauses, each with its citations."""
    assert Specification.read(ROOT).problems() == []


def test_sections_that_are_implemented_are_cited() -> None:
    specification = Specification.read(ROOT)
    cited = {citation.number.partition(".")[0] for citation in specification.citations if citation.place == CODE}
    sections = {clause.section for clause in specification.documents["protocol.md"].clauses}
    assert sections == {f"P{number}" for number in range(24)}
    assert sections <= cited


def test_every_error_of_the_store_is_explained() -> None:
    named = [name for row in table("protocol", "Error", "When").rows for name in spans(row["Error"])]
    assert len(named) == len(set(named))
    raised = [error for error in vars(errors).values() if inspect.isclass(error)]
    most_special = {error.__name__ for error in raised if not any(error in other.__bases__ for other in raised)}
    assert set(named) == most_special


# Formats and numbers


def sql_blocks() -> list[str]:
    return re.findall(r"^```sql\n(.*?)^```$", document("protocol"), re.DOTALL | re.MULTILINE)


# P0.3, P13.2, P13.4, P20.2
def test_the_schema_is_the_one_that_is_stated() -> None:
    block, *_ = sql_blocks()
    actual = "".join(f"{statement};" for migration in schema.MIGRATIONS for statement in migration)
    assert block.split() == actual.replace(";", ";\n").split()
    assert f"`application_id` 0x{schema.APPLICATION_ID:08X}" in document("protocol")
    assert f"`user_version` {len(schema.MIGRATIONS)}" in document("protocol")


# P16.1
def test_the_sql_that_is_printed_is_the_sql_that_is_run() -> None:
    _, *blocks = sql_blocks()
    printed = dict(re.findall(r"^-- (\w+)\n(.*?);\n", "".join(blocks), re.DOTALL | re.MULTILINE))
    verbs = ("SELECT", "UPDATE", "INSERT", "DELETE", "WITH")
    run = {
        name: textwrap.dedent(value).strip()
        for name, value in (*vars(schema).items(), *vars(statements).items())
        if name.isupper() and isinstance(value, str) and value.split()[0] in verbs
    }
    assert len(run) >= 15
    assert printed == run


# P23.1
@pytest.mark.parametrize("row", table("protocol", "What", "Default", "Code").rows, ids=lambda row: row["What"])
def test_times_and_sizes_are_the_stated_ones(row: dict[str, str]) -> None:
    [name] = spans(row["Code"])
    assert resolve(name) == float(row["Default"])


def test_each_time_of_a_lease_is_stated() -> None:
    stated = {row["Code"] for row in table("protocol", "What", "Default", "Code").rows}
    assert {f"`unwedged.store.lock.LeaseTimes.{field.name}`" for field in dataclasses.fields(LeaseTimes)} <= stated


# P22.10
def test_the_sealing_example() -> None:
    example = {row["Name"].split(",")[0]: spans(row["Hexadecimal"])[0] for row in table("protocol", "Hexadecimal").rows}
    store, kind, key = bytes(range(0x10)), "olm_session", b"curve25519"
    passphrase, random_key = Passphrase("correct horse"), RandomKey(bytes(range(0x80, 0xA0)))
    wrapped = {"salt": example["`salt`"], "key": example["`key` by passphrase"]}
    headers: dict[Secret, list[dict[str, str | int]]] = {
        passphrase: [
            {"format": "unwedged-2", "wrapped_by": "passphrase", **COST._asdict(), **wrapped},
            {"format": "unwedged-1", **COST._asdict(), **wrapped},
        ],
        random_key: [{"format": "unwedged-2", "wrapped_by": "key", "key": example["`key` by key"]}],
    }
    sealers = [Sealer.of_key(store, bytes(range(0x20, 0x40)))]
    sealers += [
        Sealer.unlock(secret, store, json.dumps(header).encode()) for secret in headers for header in headers[secret]
    ]
    for sealer in sealers:
        assert sealer.hide(kind, key).hex() == example["hidden key"]
        assert sealer.reveal(kind, bytes.fromhex(example["hidden key"])) == key
        assert sealer.open(kind, key, bytes.fromhex(example["sealed value"])) == b"pickle"
    labels = re.findall(r'"([^"]+)"', "".join(row["How"] for row in table("protocol", "What", "How").rows))
    assert labels
    assert all(f'"{label}"' in inspect.getsource(module) for label in labels)
    assert example["sealed value"].startswith(bytes(range(0x40, 0x4C)).hex())


def test_the_readme_of_the_specifications_names_each_of_them() -> None:
    readme = (ROOT / "tla" / "README.md").read_text()
    named = set(re.findall(r"^\| `(\w+)` \|", readme, re.MULTILINE))
    assert named == {path.stem for path in (ROOT / "tla").glob("*.tla")}
    assert {band.value for band in Band} - {"proof"} == set(
        re.findall(r"^\| (\w+) \|.*make check", readme, re.MULTILINE)
    )
