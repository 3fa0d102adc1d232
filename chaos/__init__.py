"""Real processes of one device on one real store, with a peer, while everything goes wrong that can.

``python -m chaos`` lets a device in two processes write to a peer through a homeserver in memory. A random number,
whose seed is printed, kills and suspends the processes, starves them, fills the disk, moves clocks, forks, replaces the
file, loses and delays requests, and damages messages. Other devices of the user come and go: they are verified, and ask
for room keys and are asked for them. In the end every message can be read, nothing was used twice, and nothing hangs.
"""
