"""Real processes of one device on one real store, and a peer, while everything goes wrong that can.

``python -m chaos`` lets a device in two processes talk to a peer over a homeserver in memory. A seeded random number
kills and suspends the processes, starves them, fills the disk, moves clocks, forks, replaces the file, and loses and
delays requests. Then everything must be there: every message can be read, and nothing was used twice.
"""
