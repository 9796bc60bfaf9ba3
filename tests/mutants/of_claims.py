"""Mutants of what leaves a clinic, of what the ledger says of it, and of who holds either against the plan."""

from .of_noise import CLINIC, EACH, MISTAKES, ROWS_ALONE, WIRE
from .trial import Mutant

RELEASES, SMASHED = "sim/plan/releases.py", "tests/strategies/test_smashed_noise.py::"
RECOUNT = ("tests/sim/test_recount.py::test_every_method_is_counted_the_same_twice",)
NEGATIVE = (f"{WIRE}test_rows_that_may_be_negative_have_the_noise_of_twice_the_clip",)
AMPLIFIED = (f"{SMASHED}test_beside_dp_sgd_the_server_gets_no_amplification",)
EXACT = (f"{SMASHED}test_frozen_ends_and_noised_rows_are_worth_the_exact_gaussian",)
PLAIN = (
    f"{EACH}[none-splitfed-v1-u-shaped-two nodes, frozen ends, public labels]",
    f"{EACH}[none-splitfed-v1-vanilla-a node a clinic, batches of 8, joint]",
    f"{EACH}[none-splitfed-v1-vanilla-one node, batches of 4]",
)
KEPT = (f"{WIRE}test_what_a_clinic_keeps_is_in_no_message",)
STATISTICS = (f"{WIRE}test_running_statistics_that_are_the_clinics_own_are_in_no_message",)
TOLD = (f"{WIRE}test_what_flowers_strategies_are_told_is_listed",)
LABELS = ("tests/strategies/test_label_rr.py::test_labels_leave_true_as_often_as_stated_and_the_same_every_time",)
EDITS = ("tests/sim/test_verify.py::test_an_edit_shows_in_the_chain_and_when_chained_anew_in_the_recount",)
REPLIES = ("tests/strategies/test_hostile_replies.py::test_a_hostile_reply_ends_the_run",)
ORDERS = "tests/clients/test_hostile_instructions.py::"
HOSTILE = (f"{ORDERS}test_a_hostile_instruction_is_not_answered_and_changes_nothing",)
VERIFY, FORMS, ORDER = "sim/results/verification.py", "sim/methods/forms.py", "clients/admission.py"

WHAT_LEAVES = (
    Mutant(
        "padding leaves as it is",
        "sim/tensor/rows.py",
        "return rows.masked_fill(padding.view(*padding.shape, *[1] * (rows.dim() - 2)), 0)",
        "return rows",
        PLAIN,
    ),
    Mutant(
        "an empty batch sends a row",
        "sim/tensor/rows.py",
        "width = max(sizes)",
        "width = max(1, max(sizes))",
        (f"{WIRE}test_an_empty_batch_sends_no_row",),
    ),
    Mutant(
        "local sends its models",
        "clients/whole.py",
        'return _reply(here.job, clinics, trainers["model"], {})',
        'told = _reply(here.job, clinics, trainers["model"], {})\n'
        '    return replace(told, parts={"model": trainers["model"].parameters})',
        KEPT,
    ),
    Mutant(
        "own parts are sent",
        "clients/split.py",
        "() if session.lost else parts_that_cross(job)",
        "() if session.lost else (Kind.MODEL,)",
        KEPT,
    ),
    Mutant(
        "own statistics are sent",
        "clients/own.py",
        "return {name: value for name, value in parameters.items() if name not in job.apart}",
        "return dict(parameters)",
        STATISTICS,
    ),
    Mutant(
        "a frozen part trains",
        "sim/tensor/trainer.py",
        "if self.frozen:\n            input_gradient",
        "if False:\n            input_gradient",
        ROWS_ALONE,
    ),
    Mutant(
        "the exact training loss leaves beside DP-SGD",
        "clients/whole.py",
        "if job.method.imported and job.dp is None:",
        "if job.method.imported:",
        TOLD,
    ),
    Mutant("labels leave as they are", "sim/methods/node_group.py", "if job.labels is not None:", "if False:", LABELS),
    Mutant(
        "the probability of a true answer",
        "sim/privacy/mechanisms/label_rr.py",
        "return classes * tail / (1 + (classes - 1) * tail)",
        "return tail / (1 + (classes - 1) * tail)",
        LABELS,
    ),
    Mutant(
        "a value in an error",
        "sim/flower/client_app.py",
        'return f"{place_of(error)} while',
        'return f"{error} {place_of(error)} while',
        ("tests/clients/test_shield.py::test_the_server_is_told_where_it_failed_but_no_value",),
    ),
    Mutant(
        "shuffled batches accounted as Poisson",
        "sim/methods/sampling.py",
        "draw = _poisson if sampling.poisson else _shuffled",
        "draw = _shuffled",
        (f"{MISTAKES}test_batches_are_poisson_samples",),
    ),
    Mutant(
        "the normaliser is the drawn size",
        "sim/methods/sampling.py",
        "        if self.poisson:\n",
        "        if False:\n",
        (
            "tests/sim/test_sampling.py::test_index_rows_active_and_normaliser_agree",
            f"{EACH}[dp-sgd-fedavg-one clinic alone]",
        ),
    ),
)
LEDGER = (
    Mutant(
        "the ledger leaves out what Flower's strategies are told",
        RELEASES,
        "if job.method.imported and clipped is None:",
        "if False:",
        TOLD,
    ),
    Mutant(
        "the ledger leaves out labels",
        RELEASES,
        'elif kind != "labels" or privacy.labels != "public":',
        'elif kind != "labels":',
        PLAIN,
    ),
    Mutant(
        "the ledger leaves out norms",
        "sim/methods/protocol.py",
        "(*kinds, added[adversary])",
        "kinds",
        (f"{EACH}[dp-sgd-splitfed-v1-u-shaped-a node a clinic, batches of 8, joint]",),
    ),
    Mutant(
        "the ledger leaves out rows",
        "sim/methods/protocol.py",
        "raw = method.once_up + tuple(kind for kinds in up for kind in kinds)",
        "raw = method.once_up + tuple(kind for kinds in up for kind in kinds if kind == Kind.LABELS)",
        PLAIN,
    ),
    Mutant("one frozen end makes both public", RELEASES, "public_ends = all(", "public_ends = any(", RECOUNT),
    Mutant(
        "a head that trains is taken for public",
        RELEASES,
        "only_rows = behind_noise and public_ends and clipped is None",
        "only_rows = behind_noise and clipped is None",
        (f"{SMASHED}test_a_head_trained_on_raw_records_makes_noise_worth_nothing",),
    ),
    Mutant(
        "the server's view is amplified",
        "sim/plan/releases.py",
        "in_known_batches(sigma, exposures) if clipped else dp.NonPrivateDpEvent()\n            know",
        "event(sampled.rates[clinic], sigma / 2, exposures) if clipped else dp.NonPrivateDpEvent()\n            know",
        AMPLIFIED,
    ),
    Mutant(
        "a replaced record moves a sum by C",
        "sim/privacy/mechanisms/dp_sgd.py",
        "GaussianDpEvent(noise / 2)",
        "GaussianDpEvent(noise)",
        AMPLIFIED,
    ),
    Mutant(
        "exposures are a mean",
        "sim/plan/counts.py",
        "self._stood[clinic].max(initial=0)",
        "int(self._stood[clinic].mean())",
        (f"{WIRE}test_exposures_are_those_of_the_record_that_stands_in_most_batches",),
    ),
    Mutant(
        "rows are counted once",
        "sim/privacy/mechanisms/smashed_noise.py",
        "compose({dp.GaussianDpEvent(noise): exposures})",
        "compose({dp.GaussianDpEvent(noise): 1})",
        EXACT,
    ),
    Mutant(
        "the tight sensitivity for every head",
        "sim/privacy/mechanisms/smashed_noise.py",
        "2**0.5 if never_negative else 2.0",
        "2**0.5",
        NEGATIVE,
    ),
    Mutant(
        "a tangent is taken for never negative",
        "sim/models/modules.py",
        "(nn.ReLU, nn.Sigmoid, Residual)",
        "(nn.ReLU, nn.Sigmoid, nn.Tanh, Residual)",
        NEGATIVE,
    ),
    Mutant(
        "the tight sensitivity for tail gradients",
        "sim/privacy/mechanisms/mechanism.py",
        "privacy.tail_clip, self.reach(never_negative=False)",
        "privacy.tail_clip, self.reach(never_negative=True)",
        (*ROWS_ALONE, *RECOUNT, *NEGATIVE),
    ),
    Mutant(
        "the tight sensitivity for Laplace noise",
        "sim/privacy/mechanisms/laplace.py",
        "return 2.0",
        "return 2**0.5 if never_negative else 2.0",
        ("tests/strategies/test_laplace.py::test_every_release_costs_twice_the_clip_over_the_scale",),
    ),
    Mutant(
        "parts' noise counted as if of one",
        "sim/privacy/mechanisms/dp_sgd.py",
        "(parts * (part_clip / noise_std) ** 2) ** -0.5",
        "((part_clip / noise_std) ** 2) ** -0.5",
        ("tests/sim/test_clipping.py::test_effective_noise_multiplier_by_hand",),
    ),
    Mutant(
        "randomised answers are not composed",
        RELEASES,
        'found.append(_release(clinic, kind, audience, answers, "replace", "label"))',
        "del answers",
        ("tests/strategies/test_label_rr.py::test_over_a_frozen_head_the_servers_epsilon_composes_rows_and_labels",),
    ),
    Mutant(
        "a patient's answers are not composed",
        "sim/privacy/patients.py",
        "atoms[way, atom] += count * most",
        "atoms[way, atom] += count",
        ("tests/sim/test_patients.py::test_a_patients_answers_add_up",),
    ),
    Mutant(
        "a clinic's noise covers a record undivided",
        "sim/privacy/ledger.py",
        "atoms[adjacency, halved(atom)] += count",
        "atoms[adjacency, atom] += count",
        ("tests/sim/test_ledger.py::test_clinic_level_covers_each_record_at_twice_the_sensitivity",),
    ),
    Mutant(
        "epsilon as a mean over clinics",
        "sim/privacy/ledger.py",
        "return max(self.epsilons(adversary, clinics, delta, unit), default=0.0)",
        "return sum(found := self.epsilons(adversary, clinics, delta, unit)) / max(1, len(found))",
        ("tests/sim/test_ledger.py::test_worst_is_the_least_protected_clinic",),
    ),
    Mutant(
        "the run's epsilon as the best clinic's",
        "sim/plan/plan.py",
        "worst = {COLUMN_OF[a]: max(clinic.epsilon[a]",
        "worst = {COLUMN_OF[a]: min(clinic.epsilon[a]",
        ("tests/sim/test_verify.py::test_a_run_that_nobody_touched_is_sound_and_stays_so_when_chained_anew",),
    ),
    Mutant(
        "one step's epsilon as the total",
        "sim/privacy/accounting.py",
        "dp.SelfComposedDpEvent(step, index(steps))",
        "dp.SelfComposedDpEvent(step, min(1, index(steps)))",
        (f"{MISTAKES}test_the_epsilon_is_that_of_all_executed_steps",),
    ),
    Mutant(
        "any delta",
        "sim/plan/noise.py",
        "    if delta * most >= 1:",
        "    if delta * most >= 1e9:",
        (f"{MISTAKES}test_a_delta_that_lets_a_record_be_published_is_refused",),
    ),
    Mutant(
        "any delta for clinics",
        "sim/plan/noise.py",
        "if delta * clinics >= 1:",
        "if delta * clinics >= 1e9:",
        (f"{CLINIC}test_what_makes_no_sense_is_refused_in_one_line",),
    ),
)
HELD = (
    Mutant(
        "executed releases are not compared",
        "sim/study/train.py",
        "if build_ledger(job, plan.sampled, noised) != plan.ledger:",
        "if False:",
        (f"{CLINIC}test_a_round_without_noise_is_caught",),
    ),
    Mutant(
        "replies pass unchecked",
        "sim/methods/replies.py",
        "        if fault := reply_fault(self._forms, expected, reply):\n",
        '        if fault := "":\n',
        REPLIES,
    ),
    Mutant(
        "replies' noised steps pass unchecked",
        "sim/methods/replies.py",
        "    for part, steps in expected.noised.items():",
        "    for part, steps in ():",
        REPLIES,
    ),
    Mutant(
        "replies' rows pass unchecked",
        FORMS,
        'return (self._range_fault(kind, value) or self._places_fault(kind, value, rows)) if value.numel() else ""',
        'return ""',
        REPLIES,
    ),
    Mutant(
        "replies that are missing pass",
        "sim/flower/exchange.py",
        "        if asked:\n",
        "        if False:\n",
        ("tests/strategies/test_hostile_replies.py::test_every_node_that_is_asked_answers_once",),
    ),
    Mutant("instructions pass unchecked", ORDER, "    if not holds:\n", "    if False:\n", HOSTILE),
    Mutant(
        "a round is answered twice",
        ORDER,
        "all(follows(answered[place]) for place in places)",
        "True",
        (f"{ORDERS}test_what_was_answered_is_not_answered_again",),
    ),
    Mutant(
        "clip factors above 1", FORMS, "bool(((value >= 0) & (value <= 1)).all())", "bool((value >= 0).all())", HOSTILE
    ),
    Mutant(
        "a batch's messages in any order",
        ORDER,
        'order[session.due] is type(asked), "it is not',
        'type(asked) in order, "it is not',
        (f"{ORDERS}test_a_batchs_messages_come_in_their_order",),
    ),
    Mutant(
        "verify: the releases are not compared",
        VERIFY,
        "if not alike(ledger.mechanisms(a, k, unit), view[a])",
        "if False",
        (
            "tests/sim/test_verify.py::test_the_ledger_and_every_claim_forged_in_one_piece_is_not_what_the_settings_give",
        ),
    ),
    Mutant(
        "verify: the statement's text is not compared",
        VERIFY,
        "        if line != wanted:",
        "        if False:",
        ("tests/sim/test_verify.py::test_an_epsilon_edited_in_the_statement_s_text",),
    ),
    Mutant(
        "verify: claims are not compared",
        VERIFY,
        "        elif not same(claimed, recounted):",
        "        elif False:",
        EDITS,
    ),
    Mutant(
        "verify: the row is not compared",
        VERIFY,
        'yield f"{file}: row.{COLUMN_OF[a]}", a, None, _number(record["row"][COLUMN_OF[a]])',
        "yield from ()",
        EDITS,
    ),
    Mutant(
        "verify: clinics are not compared",
        VERIFY,
        'yield f"{file}: plan.clinics.{k}.epsilon.{a}", a, k, _number(clinic["epsilon"][a])',
        "yield from ()",
        EDITS,
    ),
    Mutant(
        "verify: the statement is not compared",
        VERIFY,
        'yield f"{file}: privacy.statement.adversaries.{i}.epsilon", a, None, _number(row["epsilon"])\n',
        "yield from ()\n",
        EDITS,
    ),
    Mutant(
        "verify: counts are not held against the settings",
        VERIFY,
        'faults = [f"{file}: {fault}" for fault in count_faults(method, drawn, plan, record["spec"])]',
        "faults = []",
        EDITS,
    ),
    Mutant(
        "verify: the noise is not held against the plan",
        VERIFY,
        'faults += [f"{file}: {fault}" for fault in noise_faults(method, drawn, plan)]',
        "faults += []",
        EDITS,
    ),
    Mutant(
        "verify: membership is not compared",
        VERIFY,
        "            if not same(_number(claim), value):",
        "            if False:",
        EDITS,
    ),
    Mutant(
        "verify: the log is not read",
        VERIFY,
        "for check in (_log_faults, _name_faults,",
        "for check in (_name_faults,",
        ("tests/sim/test_verify.py::test_swapped_log_lines",),
    ),
)
