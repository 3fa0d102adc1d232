"""Real processes of one device share one real store and talk to a peer, while faults of every kind happen.

``python -m chaos`` runs a device in two processes, which exchanges messages with a peer through a homeserver in
memory. A random generator, whose seed is printed, chooses the faults: processes are killed, suspended and starved, the
disk fills up, clocks move, processes fork, the file is replaced, requests are lost and delayed, and messages are
damaged. Other devices of the user come and go: they are verified, request secrets and room keys, and answer requests.
The two users verify each other, too.
In the end every message can be read, nothing was used twice, and nothing hangs.
"""
