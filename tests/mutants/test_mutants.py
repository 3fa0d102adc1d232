"""Changes of one line that break the store or the machine, each with the test that notices it.

Each of them was made once by hand, and no test failed. Here each is made again, to a copy of the package: the test that
is named must fail. If a line is gone, find what took its place, and change that.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
STORE: Final = "reference/unwedged/store"
MACHINE: Final = "reference/unwedged/machine"


@dataclass(frozen=True, slots=True)
class Mutant:
    """What goes wrong, the line that is changed for it, and the test that protects from it."""

    wrong: str
    file: str
    line: str
    instead: str
    test: str

    def __str__(self) -> str:
        return self.wrong.replace(" ", "-")

    @property
    def tests(self) -> str:
        """Return the test's path: a layer and its tests have one name."""
        return f"tests/{Path(self.file).parent.name}/{self.test}"


MUTANTS: Final = (
    Mutant(
        "a stale live object survives a sync",
        f"{STORE}/guarded_cache.py",
        "for change in log.changes:",
        "for change in log.changes[:1]:",
        "crypto_store/test_changes.py::TestHandover::test_all_live_objects_of_changed_records_are_dropped_and_no_others",
    ),
    Mutant(
        "two gets at once give two live objects",
        f"{STORE}/transactions.py",
        "                if name not in self._objects:\n                    encoded =",
        "                if True:\n                    encoded =",
        "crypto_store/test_operations.py::TestTransactions::test_two_gets_at_once_give_one_object",
    ),
    Mutant(
        "a put during the commit is dropped without a word",
        f"{STORE}/transactions.py",
        "        self.end()\n        self._must_not_be_doomed()\n        if not self._writes:",
        "        self._must_not_be_doomed()\n        if not self._writes:",
        "crypto_store/test_operations.py::TestTransactions::test_nothing_is_put_during_the_commit",
    ),
    Mutant(
        "the file is closed under a second operation",
        f"{STORE}/crypto_store.py",
        "        if not self._operations and not self._file_users:\n            self._idle.set()",
        "        if not self._file_users:\n            self._idle.set()",
        "crypto_store/test_misuse.py::TestMisuse::test_closing_waits_for_all_that_runs",
    ),
    Mutant(
        "a cancelled close leaves a store half closed",
        f"{STORE}/crypto_store.py",
        "(timeout_seconds):\n                await asyncio.shield(self._closing)",
        "(timeout_seconds):\n                await self._closing",
        "crypto_store/test_closing.py::TestClosingInTime::test_a_cancelled_close_goes_on",
    ),
    Mutant(
        "a cancelled open leaks a file and a thread",
        f"{STORE}/crypto_store.py",
        "except BaseException:\n                    await backend.close()",
        "except Exception:\n                    await backend.close()",
        "crypto_store/test_opening.py::TestOpening::test_cancelled_at_every_await_it_leaves_no_file_open",
    ),
    Mutant(
        "a view reads while it is validated",
        f"{STORE}/transactions.py",
        "        self.end()\n        await self.validate()",
        "        await self.validate()",
        "crypto_store/test_operations.py::TestTransactions::test_nothing_is_read_during_the_validation",
    ),
    Mutant(
        "one full disk ends renewing for good",
        f"{STORE}/lock.py",
        "else self.renew_now())\n        except StoreError",
        "else self.renew_now())\n        except UnsupportedSchema",
        "lock/test_renewing.py::TestRenewing::test_a_failed_renewal_is_tried_again",
    ),
    Mutant(
        "a lease is released as idle right after the sync",
        f"{STORE}/lock.py",
        "            self._activity += 1\n            self._set_guard(rules.synced(self.guard, epoch))",
        "            self._set_guard(rules.synced(self.guard, epoch))",
        "lock/test_renewing.py::TestRenewing::test_a_lease_is_not_idle_right_after_a_sync_that_took_long",
    ),
    Mutant(
        "a caller is told of its cancellation before a commit has ended",
        f"{STORE}/completion.py",
        "waits_for is None or isinstance(waits_for, Uncancellable)",
        "True",
        "test_completion.py::test_it_ends_before_its_caller_gets_the_cancellation",
    ),
    Mutant(
        "a commit forgets that its caller was cancelled",
        f"{STORE}/completion.py",
        "                cancelled = error",
        "                logger.debug(error)",
        "test_completion.py::test_it_ends_before_its_caller_gets_the_cancellation",
    ),
    Mutant(
        "a hop to the driver's thread can be given up",
        f"{STORE}/completion.py",
        "        return False",
        "        return super().cancel(msg)",
        "test_completion.py::test_it_ends_before_its_caller_gets_the_cancellation",
    ),
    Mutant(
        "a process listens without subscribers",
        f"{STORE}/streams.py",
        "        if not self._subscriptions:\n            self.followed.clear()",
        "",
        "test_streams.py::test_without_subscribers_nobody_listens",
    ),
    Mutant(
        "an inspection mixes two versions",
        f"{STORE}/inspection.py",
        'connection.execute("BEGIN")',
        "pass",
        "test_inspection.py::test_an_inspection_is_of_one_version",
    ),
    Mutant(
        "an inspection reads while others write",
        f"{STORE}/inspection.py",
        "if before.wal or before == _stamp(path):",
        "if True:",
        "test_inspection.py::test_a_store_that_is_opened_and_closed_meanwhile_is_inspected_again",
    ),
    Mutant(
        "an inspection reads a file with two names",
        f"{STORE}/inspection.py",
        "        must_have_one_name(path)\n",
        "",
        "test_inspection.py::test_a_file_with_two_names_is_refused_by_either",
    ),
    Mutant(
        "the kinds of one version are in no order",
        f"{STORE}/inspection.py",
        "ORDER BY version DESC, kind DESC",
        "ORDER BY version DESC, kind",
        "test_inspection.py::test_the_kinds_of_one_version_are_in_order",
    ),
    Mutant(
        "the log is moved without the write lock",
        f"{STORE}/connections.py",
        '"secure_delete = ON", "wal_autocheckpoint = 0"',
        '"secure_delete = ON"',
        "sqlite/test_checkpoints.py::test_the_log_is_moved_only_while_nobody_can_begin_it_anew",
    ),
    Mutant(
        "a damaged file is told as a bad disk",
        f"{STORE}/database.py",
        "(sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR)",
        "(sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR)",
        "sqlite/test_file.py::test_damage_within_the_file_is_named_as_what_it_is",
    ),
    Mutant(
        "a salt of any length is accepted",
        f"{STORE}/sealer.py",
        "parsed.cost.acceptable() and len(parsed.salt) == _SALT",
        "parsed.cost.acceptable()",
        "test_sealer.py::test_a_salt_has_the_length_that_it_was_made_with",
    ),
    Mutant(
        "a mark forgets what subscribers were told",
        f"{STORE}/crypto_store.py",
        "max(self._lock.guarded.cache.version, self._streams.published)",
        "self._lock.guarded.cache.version",
        "test_opening.py::TestMarks::test_a_mark_covers_what_was_published_to_subscribers",
    ),
    Mutant(
        "a task remembers every operation that it ever ran",
        f"{STORE}/crypto_store.py",
        "while self.outer is not None and self.outer.store is None:",
        "while False:",
        "crypto_store/test_misuse.py::TestMisuse::test_a_task_remembers_no_operation_that_has_ended",
    ),
    Mutant(
        "a lease that was just taken is forgotten at the end",
        f"{STORE}/lock.py",
        "async with self._row:  # so that no task",
        "if True:  # so that no task",
        "lock/test_renewing.py::TestClosing::test_a_lease_that_was_just_taken_is_released",
    ),
    Mutant(
        "whoever waits waits until a clock is again where it was",
        f"{STORE}/lock.py",
        "self._draining_since = min(self._draining_since, now)",
        "pass",
        "lock/test_renewing.py::TestOverdue::test_a_clock_that_was_put_back_gives_it_its_time_once_more",
    ),
    Mutant(
        "a child may not open what its parent has closed",
        f"{STORE}/files.py",
        "_held[os.getpid(), self.identities[0]] -= 1",
        "pass",
        "test_operating_system.py::TestForks::test_a_store_that_was_closed_before_the_fork_is_not_checked",
    ),
    Mutant(
        "a file with two names is opened",
        f"{STORE}/files.py",
        "if path.is_file() and path.stat().st_nlink > 1:",
        "if False:",
        "test_opening.py::TestNames::test_a_file_with_two_names_is_refused",
    ),
    Mutant(
        "a block is entered twice",
        f"{STORE}/crypto_store.py",
        "        if self._begun:\n",
        "        if False:\n",
        "crypto_store/test_misuse.py::TestMisuse::test_a_block_is_entered_and_left_once",
    ),
    Mutant(
        "a block that is left twice is committed twice",
        f"{STORE}/crypto_store.py",
        "operation, self._operation = self._operation, None",
        "operation = self._operation",
        "crypto_store/test_misuse.py::TestMisuse::test_a_block_is_entered_and_left_once",
    ),
    Mutant(
        "a checkpoint deletes the log beside an empty file",
        f"{STORE}/checkpoints.py",
        "            files.verify()\n",
        "",
        "test_operating_system.py::test_a_store_that_lost_its_file_alone_keeps_its_log_however_often_it_is_refused",
    ),
    Mutant(
        "closing deletes the log beside an empty file",
        f"{STORE}/sqlite.py",
        "if self._files.only_the_log_is_lost():",
        "if not self._files.only_the_log_is_lost():",
        "test_operating_system.py::test_a_store_that_lost_its_file_alone_keeps_its_log_however_often_it_is_refused",
    ),
    Mutant(
        "connecting makes a file that has gone",
        f"{STORE}/database.py",
        '?mode=rw"\n',
        '?mode=rwc"\n',
        "sqlite/test_file.py::test_connecting_makes_no_file",
    ),
    Mutant(
        "one that leaves the lease to others looks eagerly",
        f"{STORE}/row_watch.py",
        "if self._looks <= EAGER_LOOKS and not self._instances_ahead:",
        "if self._looks <= EAGER_LOOKS:",
        "lock/test_row_watch.py::TestWatching::test_one_that_leaves_the_lease_to_others_looks_less_often_and_not_eagerly",
    ),
    Mutant(
        "one that leaves the lease to others looks as often as the next",
        f"{STORE}/row_watch.py",
        "(PAUSE_DIVISOR_IF_NEXT if is_next else PAUSE_DIVISOR)",
        "PAUSE_DIVISOR_IF_NEXT",
        "lock/test_row_watch.py::TestWatching::test_one_that_leaves_the_lease_to_others_looks_less_often_and_not_eagerly",
    ),
    Mutant(
        "a long wait makes the first pause of the next one long",
        f"{STORE}/row_watch.py",
        "min(self._paused_ms, LONGEST_PAUSE_MS)",
        "self._paused_ms",
        "lock/test_row_watch.py::TestWatching::test_what_it_paused_for_the_turn_before_counts_up_to_the_longest_pause",
    ),
    Mutant(
        "a wait for the write lock that is over counts in the next",
        f"{STORE}/sqlite.py",
        "_on_driver_thread(write)\n        self._busy_since = None",
        "_on_driver_thread(write)",
        "sqlite/test_waiting.py::test_a_wait_that_is_over_is_no_part_of_the_next_one",
    ),
    Mutant(
        "a system that knows no statx is asked for it",
        f"{STORE}/files.py",
        "    except (AttributeError, OSError):\n        return False",
        "    except ():\n        return False",
        "sqlite/test_file.py::test_a_system_whose_statx_is_of_no_use",
    ),
    Mutant(
        "a statx that does nothing is believed",
        f"{STORE}/files.py",
        'and _identity_by_statx("/") == _identity_by_stat("/")',
        'and _identity_by_statx("/") is not None',
        "sqlite/test_file.py::test_a_system_whose_statx_is_of_no_use",
    ),
    Mutant(
        "large values count as no pages",
        f"{STORE}/checkpoints.py",
        " + value_bytes // PAGE_BYTES",
        "",
        "sqlite/test_checkpoints.py::test_the_pages_of_a_commit_are_those_of_its_values_and_of_its_rows",
    ),
    Mutant(
        "a session is replaced as often as it breaks",
        f"{MACHINE}/olm.py",
        "peer.unwedged_ms + UNWEDGED_EVERY_MS if",
        "peer.unwedged_ms if",
        "test_bindings.py::test_a_wedged_session_is_replaced_once_an_hour",
    ),
    Mutant(
        "a device that is named like a key passes for it",
        f"{MACHINE}/verification.py",
        "known = {}  # a device",
        "pass  # a device",
        "test_verification.py::test_a_device_whose_id_equals_a_key_proves_no_key",
    ),
    Mutant(
        "the secret of a QR code outlives its verification",
        f"{MACHINE}/verification.py",
        "        shown=None,\n        scanned=None,\n    )",
        "        scanned=None,\n    )",
        "test_verification.py::test_a_person_who_sees_no_success_after_a_scan_verifies_nothing",
    ),
)


# Without waiting for a thread that a broken store left behind.
PYTEST: Final = "import os, pytest, sys; code = pytest.main(sys.argv[1:]); sys.stdout.flush(); os._exit(code)"


def run(package: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python with that copy of the package, which must be found before the installed one."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(package), *sys.path))}
    command = [sys.executable, "-c", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)  # noqa: S603


def outcome_of(package: Path, *names: str) -> subprocess.CompletedProcess[str]:
    """Run tests on that copy of the package."""
    return run(package, PYTEST, "-q", "-x", "-p", "no:cacheprovider", *names)


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """Copy the package; return the folder that it is in."""
    shutil.copytree(ROOT / "reference", tmp_path / "reference", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "reference"


def test_without_a_change_the_tests_pass_on_the_copy(package: Path) -> None:
    found = run(package, "import unwedged.store; print(unwedged.store.__file__)")
    assert Path(found.stdout.strip()).is_relative_to(package), found
    passed = outcome_of(package, *sorted({mutant.tests for mutant in MUTANTS}))
    assert passed.returncode == 0, passed.stdout


@pytest.mark.parametrize("mutant", MUTANTS, ids=str)
def test_a_mutant_dies(package: Path, mutant: Mutant) -> None:
    file = package.parent / mutant.file
    source = file.read_text()
    assert source.count(mutant.line) == 1, f"{mutant.file} no longer has this line once. What took its place?"
    file.write_text(source.replace(mutant.line, mutant.instead))
    outcome = outcome_of(package, mutant.tests)
    assert outcome.returncode == 1, f"no test failed:\n{outcome.stdout}"
