"""Mutation tests: mutmut changes the code that decides in one place at a time, and a test must fail each time."""
