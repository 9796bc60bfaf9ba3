"""Attacks on a run as each adversary would make them, and the lower bounds on epsilon that follow from them."""
