"""Mutants of secure aggregation: what the server receives, whose noise counts, and what a lying server can do."""

from .trial import Mutant

SECURE = "tests/strategies/test_secure_aggregation.py::"
RECORDS = "tests/strategies/test_shared_record_noise.py::"
TRUST = "tests/strategies/test_trust.py::"
COUNTED = "sim/privacy/secure_aggregation.py"
SUM = "sim/methods/secure_sum.py"
RELEASES = "sim/plan/releases.py"
SERVER = (f"{SECURE}test_the_server_sees_a_gaussian_and_a_clinic_knows_its_own_part_of_it",)
COLLUDING = (f"{SECURE}test_what_colluding_clinics_add_is_worth_nothing_against_them",)
DROPPED = (f"{SECURE}test_a_round_with_too_few_updates_opens_no_sum",)
PARTS = (f"{SECURE}test_parts_add_up_to_the_noise_that_is_counted_and_masks_to_nothing",)
UNSEEN = (f"{SECURE}test_nothing_that_the_server_receives_is_of_one_clinic",)
LYING = (f"{TRUST}test_a_lying_server_leaves_out_of_a_sum_whom_it_can",)

SUMS = (
    Mutant("a clinic's own part counts against itself", RELEASES, '"peer-clinic": 1}', '"peer-clinic": 0}', SERVER),
    Mutant("colluding clinics' parts count", COUNTED, "max(1, sure - colluders)", "max(1, sure)", COLLUDING),
    Mutant(
        "the noise of lost clinics counts",
        RELEASES,
        "secure.multipliers(sigma, sums, colluders.get(adversary, 0))",
        "secure.multipliers(sigma, {secure.clinics: sum(sums.values())}, colluders.get(adversary, 0))",
        DROPPED,
    ),
    Mutant(
        "a sum of too few updates is opened",
        "sim/plan/counts.py",
        "attendance.returned.sum() < self.job.secure.threshold",
        "attendance.returned.sum() < 1",
        DROPPED,
    ),
    Mutant(
        "parts are sized as if nobody colluded",
        COUNTED,
        "max(1, self.threshold - self.colluding)",
        "max(1, self.threshold)",
        COLLUDING,
    ),
    Mutant(
        "who holds enough shares takes off no mask",
        COUNTED,
        "colluders >= self.threshold or ",
        "",
        (f"{SECURE}test_who_holds_the_shares_of_enough_clinics_is_left_with_one_part",),
    ),
    Mutant("parts have half their noise", SUM, "math.sqrt(job.secure.parts)", "math.sqrt(4 * job.secure.parts)", PARTS),
    Mutant("one draw is all clinics' noise", SUM, ".at(clinic, server_round).st", ".at(0).st", PARTS),
    Mutant("nodes send no masks", SUM, "if set(clinics) == set(everyone):", "if True:", UNSEEN),
    Mutant("masks do not cancel", SUM, "(following[clinic], -1)", "(following[clinic], 1)", PARTS),
    Mutant(
        "a node sends each clinic's update",
        "clients/updates.py",
        "for kind in kinds if kind in values",
        "for kind in (*kinds, Kind.MODEL)",
        UNSEEN,
    ),
    Mutant(
        "updates are rounded away from zero",
        SUM,
        "np.trunc(update * factor / step)",
        "np.sign(update) * np.ceil(np.abs(update * factor / step))",
        (f"{SECURE}test_no_update_is_longer_than_the_clip_on_the_grid",),
    ),
    Mutant(
        "several steps a round share their noise",
        "sim/methods/job.py",
        'one_step and self.optimizer.name == "sgd"',
        "True",
        (f"{RECORDS}test_with_more_than_one_plain_step_a_clinic_has_its_own_noise_alone",),
    ),
    Mutant(
        "gradients have all the noise of a sum at each clinic",
        "sim/methods/job.py",
        "self.secure.parts if self.secure is not None and self.shares_noise else 1",
        "1",
        (f"{RECORDS}test_each_clinic_adds_its_part_alone",),
    ),
    Mutant("a lying server adds up all who are there", COUNTED, "self.threshold if self.active else", "", LYING),
    Mutant(
        "a lying server shows one list",
        COUNTED,
        "(self.active and 2 * self.threshold <= self.invited + colluders)",
        "False",
        (f"{TRUST}test_with_too_low_a_threshold_two_lists_may_be_shown_and_own_noise_alone_counts",),
    ),
    Mutant(
        "a lying server invites nobody beyond those it needs",
        COUNTED,
        "self.invited + colluders",
        "self.clinics + colluders",
        (f"{TRUST}test_two_lists_may_be_shown_where_more_are_invited_than_a_sum_needs",),
    ),
    Mutant(
        "a clinic cuts off its noise with its parameters",
        SUM,
        "weighted if job.dp is not None else np.clip(weighted, -most, most)",
        "np.clip(weighted, -most, most)",
        (f"{SECURE}test_a_clinics_noise_is_in_the_sum_however_large_its_parameters_are",),
    ),
    Mutant(
        "a lying server passes nothing on",
        RELEASES,
        'job.spec.privacy.trust == "active" and not job.method.alone',
        "False and not job.method.alone",
        (f"{TRUST}test_what_holds_against_a_server_that_lies",),
    ),
)
