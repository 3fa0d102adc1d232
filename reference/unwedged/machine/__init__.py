"""One Matrix device that several processes share, without losing a session."""
