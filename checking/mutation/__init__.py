"""Mutation: each line of the paths that decide is changed in every way that mutmut knows, and a test must notice it."""
