"""Faults of the store in real processes, and what ``checking.explain`` finds in their traces."""
