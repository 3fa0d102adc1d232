"""Two processes share one Olm session, and one is suspended at the worst moment: ``python -m examples.story``."""
