"""A sealed key or value can be opened only unchanged, at its own position, and with the store's secret."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from unwedged.protocol.identifiers import Epoch, InstanceId, Milliseconds, Version
from unwedged.store import sealer as module
from unwedged.store.backend import Row, RowName
from unwedged.store.errors import NotAStore, TamperedRecord, WrongKey, WrongPassphrase
from unwedged.store.sealer import Passphrase, RandomKey, Sealer, Secret
from unwedged.store.sqlite import SqliteBackend

PASSPHRASE = Passphrase("correct horse")
KEY = RandomKey(bytes(range(100, 132)))
NEW_STORES = module.COST
STORE = bytes(range(16))

pytestmark = pytest.mark.usefixtures("cheap_passphrases")


@pytest.fixture(scope="module")
def sealer(cheap_passphrases: None) -> Sealer:  # noqa: ARG001 (the fixture runs after that one)
    return Sealer.create(PASSPHRASE, STORE)


def flips(data: bytes) -> Iterator[bytes]:
    """Yield the content with the lowest bit of each byte flipped in turn, then with the highest bit of each."""
    for mask in (1, 128):
        for position in range(len(data)):
            yield data[:position] + bytes([data[position] ^ mask]) + data[position + 1 :]


kinds = st.sampled_from(["session", "device"])
keys = st.binary(max_size=100)
small = st.integers(-2, 64) | st.text("0123456789abcdef -", max_size=8)


class TestProperties:
    # P22.10
    @given(kinds, keys, st.binary(max_size=300))
    def test_what_is_sealed_comes_back(self, sealer: Sealer, kind: str, key: bytes, value: bytes) -> None:
        assert sealer.open(kind, key, sealer.seal(kind, key, value)) == value
        assert sealer.reveal(kind, sealer.hide(kind, key)) == key

    @given(kinds, keys, kinds, keys)
    def test_names_differ_as_records_do(
        self, sealer: Sealer, kind: str, key: bytes, other_kind: str, other_key: bytes
    ) -> None:
        same = (kind, key) == (other_kind, other_key)
        assert (sealer.hide(kind, key) == sealer.hide(other_kind, other_key)) == same

    @given(kinds, keys, kinds, keys)
    def test_a_value_opens_only_where_it_was_sealed(
        self, sealer: Sealer, kind: str, key: bytes, other_kind: str, other_key: bytes
    ) -> None:
        sealed = sealer.seal(kind, key, b"value")
        if (kind, key) == (other_kind, other_key):
            assert sealer.open(other_kind, other_key, sealed) == b"value"
        else:
            with pytest.raises(TamperedRecord):
                sealer.open(other_kind, other_key, sealed)

    @given(st.lists(st.binary(max_size=2)), st.lists(st.binary(max_size=2)))
    @example([b"ab", b"c"], [b"a", b"bc"])
    @example([b"a", b""], [b"a"])
    def test_contexts_differ_as_their_parts_do(self, parts: list[bytes], others: list[bytes]) -> None:
        assert (module._context(*parts) == module._context(*others)) == (parts == others)

    @given(keys)
    def test_the_length_of_a_key_shows_only_in_blocks(self, sealer: Sealer, key: bytes) -> None:
        assert len(sealer.hide("device", key)) == 16 + 32 * (len(key) // 32 + 1)

    # P22.1
    @given(st.binary(max_size=100))
    def test_garbage_is_never_opened(self, sealer: Sealer, garbage: bytes) -> None:
        with pytest.raises(TamperedRecord):
            sealer.open("device", b"key", garbage)
        with pytest.raises(TamperedRecord):
            sealer.reveal("device", garbage)

    @given(st.binary())
    def test_a_header_of_garbage_is_not_a_store(self, garbage: bytes) -> None:
        with pytest.raises(NotAStore):
            Sealer.unlock(PASSPHRASE, STORE, garbage)

    @given(st.dictionaries(st.sampled_from(["format", "n", "r", "p", "salt", "key"]), small))
    def test_a_header_of_other_fields_opens_nothing(self, fields: dict[str, int | str]) -> None:
        # Small numbers and the right format let some of these get as far as the passphrase.
        header = Sealer.create(PASSPHRASE, STORE).header
        edited = {**json.loads(header), **fields}
        if edited != json.loads(header):
            with pytest.raises((NotAStore, WrongPassphrase)):
                Sealer.unlock(PASSPHRASE, STORE, json.dumps(edited).encode())


# P22.10
def test_sealing_twice_gives_different_bytes(sealer: Sealer) -> None:
    assert len({sealer.seal("device", b"key", b"value") for _ in range(50)}) == 50


# P22.1
def test_every_flip_and_every_truncation_of_a_value_is_noticed(sealer: Sealer) -> None:
    sealed = sealer.seal("device", b"key", b"a value")
    edits = [*flips(sealed), *(sealed[:length] for length in range(len(sealed))), sealed + b"\x00"]
    for edited in edits:
        with pytest.raises(TamperedRecord):
            sealer.open("device", b"key", edited)


# P22.2
def test_every_flip_and_every_truncation_of_a_name_is_noticed(sealer: Sealer) -> None:
    hidden = sealer.hide("device", b"key")
    edits = [*flips(hidden), *(hidden[:length] for length in range(len(hidden))), hidden + b"\x00"]
    for edited in edits:
        with pytest.raises(TamperedRecord):
            sealer.reveal("device", edited)


# P22.10
@pytest.mark.parametrize("plain", [b"", b"key", bytes(32), b"key\x80", b"key\x80" + bytes(60), b"key\x01" + bytes(28)])
def test_a_name_without_the_padding_is_no_name(sealer: Sealer, plain: bytes) -> None:
    hidden = sealer._names.encrypt(plain, [module._context("name", STORE, b"device")])
    with pytest.raises(TamperedRecord):
        sealer.reveal("device", hidden)


# P22.6
def test_a_header_is_utf_8_and_its_octets_are_digits(sealer: Sealer) -> None:
    header = json.loads(sealer.header)
    in_capitals = {**header, "salt": header["salt"].upper(), "key": header["key"].upper()}
    assert Sealer.unlock(PASSPHRASE, STORE, json.dumps(in_capitals).encode())._key == sealer._key
    spaced = json.dumps({**header, "salt": f"{header['salt'][:2]} {header['salt'][2:]}"}).encode()
    for refused in (b"\xef\xbb\xbf" + sealer.header, sealer.header.decode().encode("utf-16"), spaced):
        with pytest.raises(NotAStore):
            Sealer.unlock(PASSPHRASE, STORE, refused)


SECRETS = pytest.mark.parametrize("secret", [PASSPHRASE, KEY], ids=["passphrase", "key"])


# P22.11
@SECRETS
def test_only_the_secret_unlocks(secret: Secret) -> None:
    sealer = Sealer.create(secret, STORE)
    again = Sealer.unlock(secret, STORE, sealer.header)
    assert again.open("device", b"key", sealer.seal("device", b"key", b"value")) == b"value"
    assert again.hide("device", b"key") == sealer.hide("device", b"key")
    for wrong in ("", "Correct horse", PASSPHRASE.text + " ", KEY.octets.hex()):
        with pytest.raises(WrongPassphrase):
            Sealer.unlock(Passphrase(wrong), STORE, sealer.header)
    # Neither the store's own key nor the key that a passphrase would be turned into is accepted.
    for octets in (bytes(32), sealer._key, KEY.octets[::-1]):
        with pytest.raises(WrongKey):
            Sealer.unlock(RandomKey(octets), STORE, sealer.header)


# P22.11
@SECRETS
def test_the_other_kind_of_secret_is_refused_by_its_name(secret: Secret) -> None:
    header = Sealer.create(secret, STORE).header
    if secret == KEY:
        with pytest.raises(WrongPassphrase, match="opened with a key, not with a passphrase"):
            Sealer.unlock(PASSPHRASE, STORE, header)
    else:
        with pytest.raises(WrongKey, match="opened with a passphrase, not with a key"):
            Sealer.unlock(KEY, STORE, header)


@pytest.mark.parametrize("new", [Passphrase("another"), RandomKey(bytes(32))], ids=["to passphrase", "to key"])
@SECRETS
def test_a_changed_secret_unlocks_the_same_records_and_the_old_one_nothing(secret: Secret, new: Secret) -> None:
    old = Sealer.create(secret, STORE)
    changed = old.rewrapped(new)
    again = Sealer.unlock(new, STORE, changed.header)
    for sealer in (changed, again):
        assert sealer.open("device", b"key", old.seal("device", b"key", b"value")) == b"value"
        assert sealer.hide("device", b"key") == old.hide("device", b"key")
    with pytest.raises((WrongPassphrase, WrongKey)):
        Sealer.unlock(secret, STORE, changed.header)


def test_wrapping_twice_gives_different_headers() -> None:
    sealer = Sealer.create(KEY, STORE)
    assert len({sealer.header, sealer.rewrapped(KEY).header, sealer.rewrapped(PASSPHRASE).header}) == 3


# P22.7
def test_a_header_of_the_first_format_stays_readable() -> None:
    sealer = Sealer.create(PASSPHRASE, STORE)
    fields = json.loads(sealer.header)
    assert fields.pop("wrapped_by") == "passphrase"
    first = json.dumps(fields | {"format": "unwedged-1"}).encode()
    again = Sealer.unlock(PASSPHRASE, STORE, first)
    assert again.hide("device", b"key") == sealer.hide("device", b"key")
    assert json.loads(again.rewrapped(PASSPHRASE).header)["format"] == "unwedged-2"


# P22.7, P22.8
@pytest.mark.parametrize(
    "edit",
    [
        {"format": "unwedged-0"},
        {"format": "unwedged-3"},
        {"format": None},
        {"format": ["unwedged-2"]},
        {"wrapped_by": None},
        {"wrapped_by": "nobody"},
        {"wrapped_by": {}},
        {"key": ""},
        {"key": None},
        {"key": "00" * 61},
        {"key": "g"},
    ],
    ids=str,
)
@SECRETS
def test_an_edited_header_is_no_store(secret: Secret, edit: dict[str, str | list[str] | None]) -> None:
    header = json.loads(Sealer.create(secret, STORE).header) | edit
    with pytest.raises(NotAStore, match="sealing parameters"):
        Sealer.unlock(secret, STORE, json.dumps(header).encode())


# P22.6
@pytest.mark.parametrize("header", [b"[]", b"7", b"null", b'"unwedged-2"', b"{}"])
def test_a_header_that_is_no_object_is_no_store(header: bytes) -> None:
    with pytest.raises(NotAStore, match="sealing parameters"):
        Sealer.unlock(KEY, STORE, header)


# P22.6
def test_a_long_header_is_not_even_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    header = Sealer.create(PASSPHRASE, STORE).header
    Sealer.unlock(PASSPHRASE, STORE, header.ljust(1000))
    monkeypatch.setattr(json, "loads", None)
    with pytest.raises(NotAStore, match="out of bounds"):
        Sealer.unlock(PASSPHRASE, STORE, header.ljust(1001))


def test_a_header_belongs_to_its_store() -> None:
    header = Sealer.create(PASSPHRASE, STORE).header
    with pytest.raises(WrongPassphrase):
        Sealer.unlock(PASSPHRASE, bytes(16), header)


def test_stores_with_the_same_passphrase_share_nothing() -> None:
    one, other = (Sealer.create(PASSPHRASE, STORE) for _ in range(2))
    assert one.hide("device", b"key") != other.hide("device", b"key")
    with pytest.raises(TamperedRecord):
        other.open("device", b"key", one.seal("device", b"key", b"value"))
    with pytest.raises(TamperedRecord):
        other.reveal("device", one.hide("device", b"key"))


# P22.8
@pytest.mark.parametrize(
    "cost",
    [
        {"n": 2**22, "r": 1},  # 512 MiB
        {"n": 2**17, "r": 32},  # 512 MiB
        {"n": 2**15, "r": 8, "p": 64},  # practically forever
        {"n": 3},
        {"n": 1},
        {"n": 0},
        {"n": -2},
        {"r": 0},
        {"p": 0},
        {"n": 2**4000},
        {"n": 2.0},
        {"n": True},
        {"n": "2"},
        {"p": None},
        {"p": True},
    ],
)
def test_a_header_can_not_demand_unbounded_work(
    cost: dict[str, float | str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    header = Sealer.create(PASSPHRASE, STORE).header

    def never(*_: object) -> bytes:
        raise AssertionError("scrypt was asked to pay it")

    monkeypatch.setattr(module, "_derive", never)
    with pytest.raises(NotAStore, match="sealing parameters"):
        Sealer.unlock(PASSPHRASE, STORE, json.dumps(json.loads(header) | cost).encode())


# P22.8
@pytest.mark.parametrize("length", [0, 15, 17, 200])
def test_a_salt_has_the_length_that_it_was_made_with(length: int) -> None:
    """With an empty salt, one attack would cover all stores with this passphrase."""
    header = json.loads(Sealer.create(PASSPHRASE, STORE).header)
    with pytest.raises(NotAStore, match="out of bounds"):
        Sealer.unlock(PASSPHRASE, STORE, json.dumps(header | {"salt": bytes(length).hex()}).encode())


def test_the_cost_of_new_passphrases_is_the_stated_one() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "COST", NEW_STORES)
        header = Sealer.create(PASSPHRASE, STORE).header
    stored = json.loads(header)
    assert (stored["n"], stored["r"], stored["p"]) == (2**17, 8, 1)
    Sealer.unlock(PASSPHRASE, STORE, header)


def test_a_key_needs_no_scrypt(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> bytes:
        raise AssertionError("scrypt was asked")

    monkeypatch.setattr(module, "Scrypt", never)
    Sealer.unlock(KEY, STORE, Sealer.create(KEY, STORE).rewrapped(KEY).header)


# P22.3
@SECRETS
def test_a_sealer_shows_no_secret(secret: Secret) -> None:
    sealer = Sealer.create(secret, STORE)
    assert repr(sealer) == f"Sealer(store={STORE!r})"
    assert repr(secret) in ("Passphrase()", "RandomKey()")
    for hidden in (PASSPHRASE.text.encode(), KEY.octets, KEY.octets.hex().encode()):
        assert hidden not in sealer.header


class TestStored:
    """The same promises hold in a real file that is edited without the library."""

    VALUES = (b"the first value", b"the second value", b"the third value")

    @pytest.fixture
    async def store(self, tmp_path: Path) -> Path:
        path = tmp_path / "store"
        await self.make(path)
        return path

    async def make(self, path: Path) -> None:
        backend = await SqliteBackend.open(path)
        sealer = Sealer.create(PASSPHRASE, backend.identity)
        assert await backend.sealing(sealer.header) == sealer.header
        lease = await backend.acquire(InstanceId(1), "test", Milliseconds(0), Milliseconds(60_000))
        names = (("device", b"a"), ("device", b"b"), ("session", b"a"))
        rows = [
            Row(RowName(kind, sealer.hide(kind, key)), sealer.seal(kind, key, value))
            for (kind, key), value in zip(names, self.VALUES, strict=True)
        ]
        await backend.commit(lease.epoch, rows, Milliseconds(0), Milliseconds(60_000), may_release=False)
        await backend.close()

    async def read(self, path: Path) -> list[bytes]:
        """Open the store, and unseal every row in it."""
        backend = await SqliteBackend.open(path)
        try:
            header = await backend.sealing()
            assert header is not None
            sealer = Sealer.unlock(PASSPHRASE, backend.identity, header)
            values = []
            for kind in ("device", "session"):
                for hidden in (await backend.keys(Epoch(1), kind, Version(0))).keys:
                    loaded = await backend.load(Epoch(1), RowName(kind, hidden), Version(0))
                    assert loaded.value is not None
                    values.append(sealer.open(kind, sealer.reveal(kind, hidden), loaded.value))
            return values
        finally:
            await backend.close()

    def edit(self, path: Path, statement: str, *parameters: bytes) -> None:
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("PRAGMA synchronous = OFF")
            connection.execute(statement, parameters)

    def only(self, path: Path, question: str) -> bytes:
        with closing(sqlite3.connect(path)) as connection:
            return bytes(connection.execute(question).fetchone()[0])

    def content(self, path: Path) -> list[str]:
        with closing(sqlite3.connect(path)) as connection:
            return list(connection.iterdump())

    async def test_untouched(self, store: Path) -> None:
        assert sorted(await self.read(store)) == sorted(self.VALUES)

    # P22.1, P22.2
    @pytest.mark.parametrize(
        ("question", "statement", "expected"),
        [
            pytest.param(
                "SELECT value FROM record WHERE kind = 'session'",
                "UPDATE record SET value = ? WHERE kind = 'session'",
                (TamperedRecord,),
                id="value",
            ),
            pytest.param(
                "SELECT key FROM record WHERE kind = 'session'",
                "UPDATE record SET key = ? WHERE kind = 'session'",
                (TamperedRecord,),
                id="key",
            ),
            pytest.param(
                "SELECT sealing FROM header", "UPDATE header SET sealing = ?", (WrongPassphrase, NotAStore), id="header"
            ),
            pytest.param("SELECT store FROM header", "UPDATE header SET store = ?", (WrongPassphrase,), id="identity"),
        ],
    )
    async def test_every_stored_byte_in_turn(
        self,
        store: Path,
        question: str,
        statement: str,
        expected: tuple[type[Exception], ...],
    ) -> None:
        before = self.only(store, question)
        for edited in flips(before):
            self.edit(store, statement, edited)
            content = self.content(store)
            try:
                values = await self.read(store)
            except expected:
                pass
            else:
                # A flipped bit of the header may merely change the case of a hexadecimal digit, or make whitespace.
                assert sorted(values) == sorted(self.VALUES)
                assert json.loads(edited) != {}
                assert {k: str(v).lower() for k, v in json.loads(edited).items()} == {
                    k: str(v).lower() for k, v in json.loads(before).items()
                }
            assert self.content(store) == content, "nothing changes"
        self.edit(store, statement, before)
        assert sorted(await self.read(store)) == sorted(self.VALUES)

    async def test_truncated_values(self, store: Path) -> None:
        before = self.only(store, "SELECT value FROM record WHERE kind = 'session'")
        for length in range(len(before)):
            self.edit(store, "UPDATE record SET value = ? WHERE kind = 'session'", before[:length])
            with pytest.raises(TamperedRecord):
                await self.read(store)

    # P22.1
    async def test_swapped_rows(self, store: Path) -> None:
        self.edit(
            store,
            "UPDATE record SET value = other.value FROM record AS other "
            "WHERE record.kind = 'device' AND other.kind = 'device' AND other.key <> record.key",
        )
        with pytest.raises(TamperedRecord):
            await self.read(store)

    async def test_a_row_of_another_kind(self, store: Path) -> None:
        self.edit(store, "UPDATE record SET kind = 'device' WHERE kind = 'session'")
        with pytest.raises(TamperedRecord):
            await self.read(store)

    async def test_a_value_of_another_kind_with_the_same_key(self, store: Path) -> None:
        self.edit(
            store,
            "UPDATE record SET value = other.value FROM record AS other "
            "WHERE record.kind = 'session' AND other.kind = 'device'",
        )
        with pytest.raises(TamperedRecord):
            await self.read(store)

    async def test_rows_of_another_store(self, store: Path, tmp_path: Path) -> None:
        other = tmp_path / "other"
        await self.make(other)
        for column in ("key", "value"):
            self.edit(
                store, f"UPDATE record SET {column} = ? WHERE kind = 'session'",  # noqa: S608 (one of two constants)
                self.only(other, f"SELECT {column} FROM record WHERE kind = 'session'"),  # noqa: S608
            )  # fmt: skip
            with pytest.raises(TamperedRecord):
                await self.read(store)

    async def test_the_header_of_another_store(self, store: Path, tmp_path: Path) -> None:
        other = tmp_path / "other"
        await self.make(other)
        self.edit(store, "UPDATE header SET sealing = ?", self.only(other, "SELECT sealing FROM header"))
        with pytest.raises(WrongPassphrase):
            await self.read(store)

    async def test_header_and_identity_of_another_store(self, store: Path, tmp_path: Path) -> None:
        other = tmp_path / "other"
        await self.make(other)
        self.edit(store, "UPDATE header SET sealing = ?", self.only(other, "SELECT sealing FROM header"))
        self.edit(store, "UPDATE header SET store = ?", self.only(other, "SELECT store FROM header"))
        with pytest.raises(TamperedRecord):
            await self.read(store)

    # P17.7
    async def test_the_first_sealing_header_stands(self, store: Path) -> None:
        before = self.only(store, "SELECT sealing FROM header")
        backend = await SqliteBackend.open(store)
        assert await backend.sealing(b"another") == before
        await backend.close()
