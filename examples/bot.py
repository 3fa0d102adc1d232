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


async def next_index(transaction: Transaction, suspensions: list[signal.Signals]) -> int:
    """Give out the next index, as a ratchet gives out message keys."""
    index = await transaction.get(INDEXES, "to bob") or 0
    if suspensions:
        os.kill(os.getpid(), suspensions.pop())  # The system suspends this process, with the lease in its hands.
    transaction.put(INDEXES, "to bob", index + 1)
    return index


async def work(path: str, label: str, *suspensions: signal.Signals) -> None:
    """Answer three messages. Each answer needs an index that was never used before."""
    async with CryptoStore.open(path, key=KEY, label=label, kinds=[INDEXES]) as store:
        for _ in range(3):
            print(f"{label} uses index", await store.run(next_index, list(suspensions)), flush=True)
            suspensions = ()


def main() -> None:
    """Run both processes."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, str(Path(folder, "bot.db"))]
        one = subprocess.Popen([*command, "one", str(int(signal.SIGSTOP))])
        os.waitpid(one.pid, os.WUNTRACED)
        print("one is suspended in the middle of an operation", flush=True)
        subprocess.run([*command, "two"], check=True)
        print("one goes on", flush=True)
        one.send_signal(signal.SIGCONT)
        one.wait()


if __name__ == "__main__":
    if sys.argv[1:]:
        asyncio.run(work(sys.argv[1], sys.argv[2], *map(signal.Signals, map(int, sys.argv[3:]))))
    else:
        main()
