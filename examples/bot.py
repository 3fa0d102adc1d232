"""A bot of two processes that share one store. One is suspended at the worst moment, and no index is used twice.

It needs nothing but the library: python examples/bot.py
"""

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from unwedged.store import TEXT, Codec, CryptoStore, RecordKind, Transaction

INDEXES = RecordKind("index", key=TEXT, value=Codec[int](lambda index: b"%d" % index, int))
KEY = bytes(32)  # A real bot makes 32 random bytes once, and keeps them where the system keeps secrets.


async def next_index(transaction: Transaction, suspensions: list[str]) -> int:
    """Give out the next index, as a ratchet gives out message keys."""
    index = await transaction.get(INDEXES, "to bob") or 0
    if suspensions:
        suspensions.clear()
        os.kill(os.getpid(), signal.SIGSTOP)  # The system suspends this process while it holds the lease.
    transaction.put(INDEXES, "to bob", index + 1)
    return index


async def work(path: str, label: str, *suspensions: str) -> None:
    """Answer three messages. Each answer needs an index that was never used before."""
    to_come = list(suspensions)
    async with CryptoStore.open(path, key=KEY, label=label, kinds=[INDEXES]) as store:
        for _ in range(3):
            print(f"{label} uses index", await store.run(next_index, to_come), flush=True)


def main(path: str) -> None:
    """Run both processes, and check that both did all their work and used no index twice."""
    command = [sys.executable, __file__, path]
    with subprocess.Popen([*command, "one", "a suspension"], stdout=subprocess.PIPE, text=True) as one:
        try:
            if not os.WIFSTOPPED(os.waitpid(one.pid, os.WUNTRACED)[1]):
                sys.exit("one ended before it was suspended")
            print("one is suspended in the middle of an operation")
            by_two = subprocess.run([*command, "two"], stdout=subprocess.PIPE, text=True, check=True).stdout
            print(f"{by_two}one goes on")
            one.send_signal(signal.SIGCONT)
            by_one, _ = one.communicate()
            print(by_one, end="")
        finally:
            one.kill()  # If anything failed, it must not stay suspended.
    indexes = {line.split()[-1] for line in (by_two + by_one).splitlines()}
    if one.returncode != 0 or len(indexes) != 6:
        sys.exit(f"one ends with {one.returncode}; of 6 indexes, {len(indexes)} are different")


if __name__ == "__main__":
    if sys.argv[1:]:
        asyncio.run(work(*sys.argv[1:]))
    else:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit("was ended"))  # "one" must end as well.
        with tempfile.TemporaryDirectory() as folder:
            main(str(Path(folder, "bot.db")))
