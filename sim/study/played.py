"""Plays the first round of each method of a study, for the pictures of its report."""

from collections.abc import Sequence
from pathlib import Path

from sim.methods.labels import label_of
from sim.plan.drawn_round import round_frame, round_words
from sim.plan.first_round import first_rounds
from sim.plan.plan import Plan
from sim.results.rounds import DrawnRound, keep_first_rounds


def write_first_rounds(folder: Path, plans: Sequence[Plan]) -> None:
    """Play the first round of each method, and keep what is drawn of it in the study's folder."""
    first = {label_of(plan.spec): plan.spec.run_id for plan in reversed(plans)}
    rounds = {}
    for one in first_rounds(plans):
        words = " ".join(round_words(one.load, one.time, one.names, one.deadline, one.over_select))
        rounds[first[one.method]] = DrawnRound(one.method, words, round_frame(one.load, one.time, one.names))
    keep_first_rounds(folder, rounds)
