"""Broken guarantees of privacy, put in one at a time, and the tests that must notice."""
