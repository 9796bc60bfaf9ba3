"""Mutants of the doors for people with code, and of what sets clinics apart."""

from .trial import Mutant

PYTHON = "tests/sim/test_python.py::"
PLUGINS = "tests/test_plugins.py::"
CLINICS = "tests/sim/test_at_clinics.py::"
HOSTILE = "tests/strategies/test_hostile_clinics.py::"
PERSONAL = "tests/strategies/test_personal.py::"

DOORS = (
    Mutant(
        "a frame's index becomes a column",
        "sim/scenario/in_memory.py",
        "to_csv(index=False",
        "to_csv(index=True",
        (f"{PYTHON}test_a_run_on_a_frame_is_the_run_on_its_file_bit_for_bit",),
    ),
    Mutant(
        "a run's record names the machine's folder",
        "sim/study/runner.py",
        "if isinstance(spec.data, DataFile) and spec.data.path.is_relative_to(folder.resolve()):",
        "if False:",
        (f"{PYTHON}test_records_name_no_machine_and_the_folder_can_move",),
    ),
    Mutant(
        "a profile's code is no part of a run's id",
        "sim/scenario/spec.py",
        'named += [("profile", name) for name in profiles if name not in BUILT_IN_PROFILES]',
        "pass",
        (f"{PLUGINS}test_code_and_records_belong_to_a_runs_id",),
    ),
    Mutant(
        "a loader is run from a folder that nobody trusts",
        "sim/scenario/spec.py",
        'named = [("loader", str(study.data.path))] if isinstance(study.data, Loader) else []',
        "named = []",
        (f"{PLUGINS}test_a_folder_runs_no_code_that_it_names_without_trust",),
    ),
    Mutant(
        "held-out labels are wrong too",
        "sim/data/at_clinics.py",
        "if train and group.label_noise:",
        "if group.label_noise:",
        (f"{CLINICS}test_a_share_of_one_clinics_training_labels_is_wrong_and_nothing_else",),
    ),
    Mutant(
        "a clinic has at prediction what it lacks in training",
        "sim/data/at_clinics.py",
        "for column, value in columns.get(group_of[name], ()):",
        "for column, value in columns.get(group_of[name], ()) if train else ():",
        (f"{CLINICS}test_absent_columns_are_zero_in_all_records_of_these_clinics",),
    ),
    Mutant(
        "a hostile clinic sends its update the right way round",
        "clients/updates.py",
        'old - own if kind == "sign-flip" else own - old',
        "own - old",
        (f"{HOSTILE}test_a_hostile_update_is_averaged_as_by_hand",),
    ),
    Mutant(
        "hostile noise is the same for all seeds",
        "clients/updates.py",
        'stream(job.seed, "hostile"',
        'stream(0, "hostile"',
        (f"{HOSTILE}test_noise_is_normal_and_as_strong_as_stated",),
    ),
    Mutant(
        "hostile clinics hide in a sum",
        "sim/plan/refusals.py",
        "secure\n        and any(group.hostile is not None for group in spec.clinics)",
        "False",
        (f"{HOSTILE}test_hostile_clinics_are_refused_under_secure_aggregation",),
    ),
    Mutant(
        "a clinic's own model is the one that all get",
        "sim/study/train.py",
        "models(server_round, model)",
        "models(server_round, used); trained.parameters = used",
        (f"{PERSONAL}test_rounds_before_the_last_are_those_of_federated_averaging",),
    ),
    Mutant(
        "a hospital that has not joined gets others' own models",
        "sim/study/train.py",
        "if last and not federation.unseen else model",
        "if last else model",
        (f"{PERSONAL}test_a_hospital_that_has_not_joined_gets_the_common_model",),
    ),
    Mutant(
        "a clinic's own model is trained with noise",
        "sim/methods/personal.py",
        "dp=None, ",
        "",
        (f"{PERSONAL}test_the_clinics_models_are_those_of_plain_torch",),
    ),
    Mutant(
        "epochs after the last round take no time",
        "sim/plan/afterwards.py",
        "last + after.longest for last",
        "last for last",
        (f"{PERSONAL}test_the_clock_counts_the_epochs_by_hand",),
    ),
)
