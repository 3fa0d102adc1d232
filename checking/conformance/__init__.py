"""Generate test vectors for implementations of the protocol in other languages: ``spec/conformance``.

Each case is plain JSON. It gives the initial state, the call and the expected result. The reference computes the
results, and is then tested with the cases like any other implementation.
"""
