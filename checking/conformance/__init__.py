"""Test vectors for implementations of the protocol in other languages: ``spec/conformance``.

Each case is plain JSON. It says what is given, what is called, and what must come of it. The reference makes the cases,
and is run on them like any other implementation.
"""
