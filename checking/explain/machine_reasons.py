"""Why a step of the machine can't happen: the guarantee and the clauses that it breaks, in words, and likely bugs.

The names are those of ``Why`` in ``tla/MachineTrace.tla``, which says when each of them holds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from checking.explain.reasons import Certainty, Reason

CERTAIN, LIKELY, POSSIBLE = Certainty

MACHINE_REASONS: Final[Mapping[str, Reason]] = {
    "another_account": Reason(
        ("M1.1",),
        "has other keys for the device than it had before",
        ("account-fork-at-creation",),
        CERTAIN,
        "Keys!AccountCreatedOnce",
    ),
    "offer_stands": Reason(
        ("M2.2",), "made an offer while another one stood", ("stale-count",), POSSIBLE, "Keys!KeysBounded"
    ),
    "offer_not_stored": Reason(
        ("M2.1",),
        "offered keys that no commit has stored",
        ("upload-before-persist",),
        CERTAIN,
        "Keys!NoOrphanedKey",
    ),
    "id_offered_again": Reason(
        ("M2.9",),
        "offered a key under an id that it had offered before",
        ("upload-again-same-id",),
        LIKELY,
        "Keys!PublishedIsUploaded",
    ),
    "more_than_missing": Reason(
        ("M3.6", "M2.8"), "offered more one-time keys than were missing", (), POSSIBLE, "Keys!KeysBounded"
    ),
    "count_too_old": Reason(
        ("M3.2", "M3.6"),
        "offered more one-time keys than were missing, after a sync that was asked before the last offer",
        ("stale-count",),
        LIKELY,
        "Keys!KeysBounded",
    ),
    "count_left_out": Reason(
        ("M3.4", "M3.6"),
        "offered more one-time keys than were missing, after a sliding sync that left the count out",
        ("count-absent-two-meanings",),
        LIKELY,
        "Keys!KeysBounded",
    ),
    "fallback_too_early": Reason(
        ("M4.2",),
        "replaced a fallback key that it had to keep",
        ("fallback-cycled-early",),
        LIKELY,
        "Keys!NoneUnreadable",
    ),
    "fallback_put_back": Reason(
        ("M4.4", "M4.5"),
        "replaced a fallback key although an older one had been uploaded after it",
        ("fallback-put-back",),
        LIKELY,
        "Keys!NoneUnreadable",
    ),
    "upload_again": Reason(
        ("M2.3",),
        "handed out an upload of keys that had been handed out before",
        ("upload-repeated",),
        LIKELY,
        "Keys!NoOrphanedKey",
    ),
    "upload_of_another": Reason(
        ("M2.2",),
        "handed out an upload that another process had in hand, which went on with it",
        ("one-time-exchange-frozen",),
        LIKELY,
        "Keys!ExactlyOnce",
    ),
    "settles_another_offer": Reason(
        ("M2.5",),
        "took the answer to one offer for the answer to another",
        ("publish-marks-too-many",),
        CERTAIN,
        "Keys!PublishedIsUploaded",
    ),
    "offer_not_settled": Reason(
        ("M2.4",), "left an offer standing although its answer had come", (), POSSIBLE, "Keys!KeysArrive"
    ),
    "abandons_another_offer": Reason(
        ("M2.6",), "abandoned an offer that did not stand", (), POSSIBLE, "Keys!PublishedIsUploaded"
    ),
    "stale_response": Reason(
        ("M5.2", "M5.3"),
        "applied the response to a sync that was asked with another token than the stored one",
        ("stale-sync-response",),
        CERTAIN,
        "Inbox!ExactlyOnce",
    ),
    "token_not_stored": Reason(
        ("M5.1",),
        "used the response to a sync in a commit without its token",
        ("session-before-payload",),
        LIKELY,
        "Inbox!NothingLost",
    ),
    "events_not_processed": Reason(
        ("M5.1", "M5.6"),
        "stored a token, and neither processed nor stored the events that came with it",
        ("acknowledged-before-processed",),
        LIKELY,
        "Inbox!NothingLost",
    ),
    "session_not_stored": Reason(
        ("M5.1", "M7.7"),
        "decrypted a message, and its commit did not store the session",
        ("acknowledged-before-processed",),
        LIKELY,
        "Inbox!NothingLost",
    ),
    "account_not_stored": Reason(
        ("M5.1", "M7.7"),
        "began a session with a one-time key, and its commit did not store the account without that key",
        ("two-commits-per-sync",),
        LIKELY,
        "Inbox!AtomicSync",
    ),
    "key_spent_without_message": Reason(
        ("M7.8",),
        "changed the account although it had decrypted no message that begins a session",
        ("key-dropped-by-bad-message",),
        LIKELY,
        "Keys!NoOrphanedKey",
    ),
    "repetition_not_noticed": Reason(
        ("M7.5",),
        "did not notice that it had decrypted a message before",
        ("hash-after-failure",),
        LIKELY,
        "Inbox!ExactlyOnce",
    ),
    "change_not_marked": Reason(
        ("M6.1", "M5.1"),
        "stored a token without marking the device lists that its response names as changed",
        ("device-flag-lost",),
        LIKELY,
        "Inbox!AtomicSync",
    ),
    "lists_not_marked": Reason(
        ("M5.4",),
        "began a connection without marking all device lists that it follows",
        ("posless-sync-drops-lists",),
        LIKELY,
        "Lists!DirtyNotLost",
    ),
    "newer_mark_cleared": Reason(
        ("M6.2",),
        "deleted a mark that is newer than the question whose answer it took",
        ("query-clears-newer-flag",),
        CERTAIN,
        "Lists!DirtyNotLost",
    ),
    "late_list_taken": Reason(
        ("M6.2",),
        "took a device list from the answer to a question that did not count any more",
        ("late-response-wins",),
        LIKELY,
        "Lists!DirtyNotLost",
    ),
    "index_not_stored": Reason(
        ("M10.1",),
        "encrypted a message, and its commit did not store that its index is used",
        ("send-before-persist",),
        LIKELY,
        "Sharing!NoRatchetReuse",
    ),
    "not_committed": Reason(
        ("M10.2",),
        "encrypted a message, and no commit followed",
        ("save-error-ignored",),
        LIKELY,
        "Sharing!NoRatchetReuse",
    ),
    "index_used_again": Reason(
        ("M10.1", "M7.4"),
        "encrypted a message with an index that was used before",
        ("send-before-persist", "save-error-ignored", "failed-decrypt-mutates"),
        POSSIBLE,
        "Sharing!NoRatchetReuse",
    ),
    "failed_attempt_stored": Reason(
        ("M7.4",),
        "stored a session after a message that it could not decrypt",
        ("failed-decrypt-mutates",),
        CERTAIN,
        "Inbox!NoRatchetReuse",
    ),
    "wedge_not_marked": Reason(
        ("M8.1", "M21.1"),
        "could not decrypt a message of a known device, and did not mark that a session is wanted",
        ("wedged-mark-in-memory",),
        LIKELY,
        "Sessions!EverythingArrives",
    ),
    "claimed_too_soon": Reason(
        ("M8.3", "M8.7"),
        "handed out a claim while another one for the same device stood",
        ("unwedge-races-itself",),
        LIKELY,
        "Sessions!KeysBounded",
    ),
    "shared_session_not_stored": Reason(
        ("M9.3", "M21.1"),
        "shared the key of a session that its commit did not store",
        ("shared-then-invalidated",),
        LIKELY,
        "Sharing!NothingLost",
    ),
    "not_shared_again": Reason(
        ("M8.11", "M9.3"),
        "used a room key that it had not sent again to a device whose session was replaced",
        ("shared-set-survives-unwedging",),
        LIKELY,
        "Sessions!EverythingArrives",
    ),
    "worse_key_kept": Reason(
        ("M11.1", "M11.5"),
        "kept a room key that is no better than the one that it had",
        ("better-key-lost-in-batch",),
        LIKELY,
        "Inbox!NothingLost",
    ),
    "read_as_another_event": Reason(
        ("M12.1",),
        "read a message that it had read before as another event",
        ("replay-accepted",),
        CERTAIN,
        "Inbox!ExactlyOnce",
    ),
    "verification_lost": Reason(
        ("M16.1", "M16.16"),
        "deleted a verification that was not over",
        ("verification-interrupted",),
        CERTAIN,
        "Verification!SurvivesInvalidation",
    ),
    "version_of_another_key": Reason(
        ("M19.7",),
        "took the version that was made with one key for that of another one",
        ("two-keys-one-version",),
        CERTAIN,
        "Backup!OneKeyPerVersion",
    ),
    "newer_mark_settled": Reason(
        ("M19.15",),
        "took a room key for backed up that had changed after the upload was listed",
        ("backup-flag-race",),
        CERTAIN,
        "Backup!BackedUpIsBest",
    ),
    "backup_lost": Reason(
        ("M19.1", "M19.4"),
        "forgot the backup although nobody had turned it off",
        ("backup-off-after-invalidation",),
        CERTAIN,
        "Backup!SurvivesInvalidation",
    ),
    "answered_again": Reason(
        ("M17.8", "M17.9"),
        "answered a request of another device that it had answered before",
        ("secret-sent-twice",),
        CERTAIN,
        "Gossip!ExactlyOnce",
    ),
    "request_not_stored": Reason(
        ("M9.1", "M21.2"),
        "noted that devices have a room key, and its commit did not store the request that brings it",
        ("requests-in-memory",),
        LIKELY,
        "Sharing!NothingLost",
    ),
}
