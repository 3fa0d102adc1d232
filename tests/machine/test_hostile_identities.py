"""A hostile homeserver can't sign for a user, and can't change known identities."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from checking.machine_replay.homeserver import Json
from tests.machine.scene import ALICE, BOB, Scene
from tests.machine.test_cross_signing import bootstrap, settle, tablet, verify
from tests.machine.test_hostile_input import OBJECTS, VALUES, WORDS, Session
from unwedged.machine import KeysQuery, MalformedResponse, SigningKeyName
from unwedged.machine.identifiers import UserId
from unwedged.machine.identities import checked_keys, signing_keys
from unwedged.machine.records import only_key
from unwedged.machine.signing import signed_by

USER = UserId(BOB)
SEEDS = {name: hashlib.sha256(name.value.encode()).digest() for name in SigningKeyName}
OTHERS = {name: hashlib.sha256(b"other" + name.value.encode()).digest() for name in SigningKeyName}
KEYS = signing_keys(USER, SEEDS)
OTHER_KEYS = signing_keys(USER, OTHERS)
NAMES = st.sampled_from(list(SigningKeyName))
FIELDS = st.sampled_from(["user_id", "usage", "keys", "signatures", "unsigned", "more"])


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    made = Session(tmp_path_factory.mktemp("hostile"))
    made.wait(bootstrap(made.scene.app))
    made.wait(bootstrap(made.scene.bob))
    made.wait(settle(made.scene.app, made.scene.bob))
    yield made
    made.wait(made.scene.greet())
    made.close()


def test_the_keys_of_a_user_are_accepted() -> None:
    assert checked_keys(USER, KEYS) == KEYS
    without = dict(KEYS)
    del without[SigningKeyName.USER_SIGNING]
    assert checked_keys(USER, without) == without
    more: Json = {**KEYS[SigningKeyName.MASTER], "unsigned": {"a": 1}, "signatures": {"@a:b": {"ed25519:c": "d"}}}
    assert checked_keys(USER, {**KEYS, SigningKeyName.MASTER: more}) is not None


# M15.2
@pytest.mark.parametrize("name", [SigningKeyName.MASTER, SigningKeyName.SELF_SIGNING])
def test_an_identity_has_two_keys_at_least(name: SigningKeyName) -> None:
    assert checked_keys(USER, {each: key for each, key in KEYS.items() if each is not name}) is None


# M15.2
@given(name=NAMES, other=NAMES)
def test_a_key_of_another_usage_is_refused(name: SigningKeyName, other: SigningKeyName) -> None:
    assert (checked_keys(USER, {**KEYS, name: KEYS[other]}) is None) == (name is not other)


# M15.2
@given(name=NAMES)
def test_a_key_of_another_user_is_refused(name: SigningKeyName) -> None:
    assert checked_keys(USER, {**KEYS, name: signing_keys(UserId(ALICE), SEEDS)[name]}) is None


# M15.2
@given(name=NAMES)
def test_a_key_that_another_master_key_has_signed_is_refused(name: SigningKeyName) -> None:
    assert checked_keys(USER, {**KEYS, name: OTHER_KEYS[name]}) is None


@given(name=NAMES, which=st.integers(0, 4))
def test_a_key_is_one_key_under_its_own_name(name: SigningKeyName, which: int) -> None:
    """Other objects are refused even if the master key has signed them."""
    key = only_key(KEYS[name])
    other = only_key(OTHER_KEYS[name])
    choices: list[Json] = [
        {},
        {f"ed25519:{key}": key, f"ed25519:{other}": other},
        {f"ed25519:{key}": other},
        {f"ed25519:{key}=": f"{key}="},
        {f"curve25519:{key}": key},
    ]
    spoilt: Json = {"user_id": USER, "usage": [name.value], "keys": choices[which]}
    if name is not SigningKeyName.MASTER:
        spoilt = signed_by(spoilt, USER, SEEDS[SigningKeyName.MASTER])
    assert checked_keys(USER, {**KEYS, name: spoilt}) is None


@settings(deadline=None)
@given(name=NAMES, field=FIELDS, value=VALUES, changes=OBJECTS)
def test_only_the_master_key_says_which_keys_sign_for_a_user(
    name: SigningKeyName, field: str, value: object, changes: Json
) -> None:
    for spoilt in ({**KEYS[name], field: value}, {**KEYS[name], **changes}, changes):
        accepted = checked_keys(USER, {**KEYS, name: spoilt})
        if accepted is not None:
            assert {each: only_key(key) for each, key in accepted.items()} == {
                each: only_key(key) for each, key in KEYS.items()
            }


# M15.1, M15.2
@settings(deadline=None)
@given(name=NAMES, field=FIELDS | WORDS, value=VALUES, whole=VALUES, user=st.sampled_from([ALICE, BOB]))
def test_a_malformed_answer_changes_no_identity(
    session: Session, name: SigningKeyName, field: str, value: object, whole: object, user: str
) -> None:
    app = session.scene.app
    before = session.wait(app.machine.cross_signing.trust_of(user))
    for spoil_whole in (False, True):
        session.scene.server._changed.append((session.scene.server._tick(), user))
        session.wait(app.sync())
        (query,) = [each for each in session.wait(app.machine.outgoing_requests()) if isinstance(each, KeysQuery)]
        good = app.call(query.method, query.path, query.body)
        answer = copy.deepcopy(good)
        of_users = answer[f"{name.value}_keys"]
        assert isinstance(of_users, dict)
        if user in of_users:
            of_users[user] = whole if spoil_whole else {**of_users[user], field: value}
        try:
            session.wait(app.machine.mark_sent(query, answer))
        except MalformedResponse:
            session.wait(app.machine.mark_sent(query, good))
        after = session.wait(app.machine.cross_signing.trust_of(user))
        assert (after.master_key, after.verified, after.changed) == (before.master_key, before.verified, before.changed)
        assert before.identity is not None
        assert after.identity is not None
        assert after.identity.self_signing_key == before.identity.self_signing_key


async def test_the_user_signing_key_of_another_user_is_not_kept(alice_and_bob: Scene) -> None:
    scene = alice_and_bob
    await bootstrap(scene.bob)
    await scene.app.sync()
    (query,) = [each for each in await scene.app.machine.outgoing_requests() if isinstance(each, KeysQuery)]
    answer = scene.app.call(query.method, query.path, query.body)
    answer["user_signing_keys"] = {BOB: scene.server._signing_keys[BOB]["user_signing"]}
    await scene.extension.machine.mark_sent(query, answer)
    identity = (await scene.app.machine.cross_signing.trust_of(BOB)).identity
    assert identity is not None
    assert identity.user_signing is None


# M15.14
async def test_a_device_signs_no_master_key_that_could_be_taken_for_something_else(alice_and_bob: Scene) -> None:
    """A signed object with "key" can pass for a one-time key. The homeserver adds this field to the master key."""
    scene = alice_and_bob
    other = await tablet(scene)
    await bootstrap(scene.app)
    scene.server._signing_keys[ALICE]["master"]["key"] = scene.bob.machine.curve25519
    await settle(other)
    await verify(other, ALICE)
    assert (await other.machine.cross_signing.trust_of(ALICE)).verified
    assert not await other.machine.outgoing_requests()
