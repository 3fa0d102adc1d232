"""A bot of two processes answers in an encrypted room of a real homeserver: ``python -m examples.encrypted_bot``."""
