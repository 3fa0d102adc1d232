"""Both forms of a sync response are read into the same changes; a response that no record could keep is refused."""

from __future__ import annotations

import pytest

from checking.machine_replay.homeserver import Json
from unwedged.machine.errors import MalformedResponse
from unwedged.machine.identifiers import UserId
from unwedged.machine.sync import SyncChanges, SyncPosition, changes_of

CLASSIC = SyncPosition("one", "1", "1", sliding=False, serial=3)
SLIDING = SyncPosition("one", "1/one", "6", sliding=True, serial=3)
CAROL, DAVE = UserId("@carol:example.org"), UserId("@dave:example.org")
LISTS: Json = {"changed": [CAROL], "left": [DAVE]}
COUNTS: Json = {"signed_curve25519": 7, "curve25519": 9}


def classic(**parts: object) -> Json:
    return {"next_batch": "2", **parts}


def sliding(**extensions: object) -> Json:
    return {"pos": "2/one", "extensions": extensions}


# M5.3
def test_each_part_of_a_classic_response_is_read() -> None:
    response = classic(
        to_device={"events": [1, 2]},
        device_lists=LISTS,
        device_one_time_keys_count=COUNTS,
        device_unused_fallback_key_types=["signed_curve25519"],
    )
    assert changes_of(response, CLASSIC) == SyncChanges(
        next_token="2",
        to_device=[1, 2],
        next_to_device_token="2",
        changed=[CAROL],
        left=[DAVE],
        one_time_keys=7,
        unused_fallback_types=["signed_curve25519"],
    )


# M5.3
def test_each_part_of_a_sliding_response_is_read() -> None:
    response = sliding(
        to_device={"next_batch": "7", "events": [1, 2]},
        e2ee={
            "device_lists": LISTS,
            "device_one_time_keys_count": COUNTS,
            "device_unused_fallback_key_types": ["signed_curve25519"],
        },
    )
    assert changes_of(response, SLIDING) == SyncChanges(
        next_token="2/one",
        to_device=[1, 2],
        next_to_device_token="7",
        changed=[CAROL],
        left=[DAVE],
        one_time_keys=7,
        unused_fallback_types=["signed_curve25519"],
    )


# M3.3
@pytest.mark.parametrize("counts", [{}, {"device_one_time_keys_count": {"curve25519": 9}}], ids=["none", "of others"])
def test_a_count_that_a_classic_response_leaves_out_is_zero(counts: Json) -> None:
    assert changes_of(classic(**counts), CLASSIC) == SyncChanges("2", [], "2", [], [], 0, None)


# M3.4
def test_counts_that_a_sliding_response_leaves_out_are_unknown() -> None:
    assert changes_of({"pos": "2/one"}, SLIDING) == SyncChanges("2/one", [], None, [], [], None, None)


# M3.4
def test_a_count_of_other_keys_in_a_sliding_response_says_that_there_are_none_of_ours() -> None:
    response = sliding(e2ee={"device_one_time_keys_count": {"curve25519": 9}})
    assert changes_of(response, SLIDING).one_time_keys == 0


@pytest.mark.parametrize(
    ("response", "position"),
    [(sliding(), CLASSIC), (classic(), SLIDING), (classic(device_lists=5), CLASSIC), (sliding(e2ee=5), SLIDING)],
    ids=["sliding for classic", "classic for sliding", "classic", "sliding"],
)
def test_a_malformed_response_is_refused_as_the_response_to_a_sync(response: Json, position: SyncPosition) -> None:
    with pytest.raises(MalformedResponse, match=r"^the response to a sync is not built"):
        changes_of(response, position)


# M5.10
@pytest.mark.parametrize("event", ["\ud800", 2**70], ids=["surrogate", "number"])
def test_an_event_that_no_record_can_keep_does_not_spoil_the_response(event: object) -> None:
    assert changes_of(classic(to_device={"events": [event]}), CLASSIC).to_device == [event]


def test_a_name_that_no_record_can_keep_spoils_the_response() -> None:
    with pytest.raises(MalformedResponse, match="the response to a sync has a name that no record can keep"):
        changes_of(classic(device_lists={"changed": ["\ud800"]}), CLASSIC)
