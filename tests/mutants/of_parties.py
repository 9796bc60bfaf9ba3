"""Mutants of vertical learning: what a party has, what of it leaves, and what the ledger says of a patient."""

from .trial import Mutant

VERTICAL, PRIVACY = "tests/strategies/test_vertical.py::", "tests/strategies/test_vertical_privacy.py::"
OVERLAP = "tests/strategies/test_vertical_overlap.py::"
REGIONS = "tests/strategies/test_regions.py::"
PARTIES, TURN, JOINED = "sim/methods/parties.py", "sim/methods/turn.py", "sim/models/heads.py"
RELEASES, RECOUNT = "sim/plan/releases.py", "sim/privacy/recount.py"
OWN = (f"{VERTICAL}test_a_party_has_its_own_columns_and_only_the_holder_has_labels",)
TWIN = (f"{VERTICAL}test_it_is_a_block_diagonal_model_trained_in_one_place[sgd-mean-vanilla]",)
WIRE = (f"{VERTICAL}test_each_byte_is_listed_and_labels_stay_with_their_holder[vanilla-none-1]",)
EPSILON = (f"{VERTICAL}test_epsilon_of_two_parties_and_two_batches[joint-vanilla]",)
ONE_RELEASE = (f"{PRIVACY}test_a_patients_rows_at_all_parties_are_one_release[vanilla]",)
CLIPPED = (f"{PRIVACY}test_gradients_of_a_patient_are_clipped_over_all_parties[joint-u-shaped]",)

OF_PARTIES = (
    Mutant("a party has all columns", PARTIES, "own[:, columns] = x[:, columns]", "own[:] = x", OWN),
    Mutant(
        "every party has the labels",
        PARTIES,
        "y if place in parties.holders or given else np.zeros_like(y)",
        "y",
        OWN,
    ),
    Mutant(
        "every party sends labels",
        PARTIES,
        "        if place in self.holders:\n            return protocol\n",
        "        if place in self.holders or protocol.topology:\n            return protocol\n",
        WIRE,
    ),
    Mutant(
        "parties train on different patients",
        PARTIES,
        "return of_all if parties is None else np.array(parties.region_of, dtype=np.int64)[of_all]",
        "return of_all",
        TWIN,
    ),
    Mutant("a mean's gradient is a sum's", JOINED, "gradient / len(present) if how == MEAN else", "", TWIN),
    Mutant(
        "the norms of one party are left out",
        TURN,
        "squared = squared + padded(self._exchange.ask(held).payload[Kind.NORMS], width)",
        "squared = padded(self._exchange.ask(held).payload[Kind.NORMS], width)",
        CLIPPED,
    ),
    Mutant(
        "a patient's rows count once for all parties",
        PARTIES,
        "return 1 if parties is None or kind in OF_THE_LABEL else len(parties.heads)",
        "return 1",
        ONE_RELEASE,
    ),
    Mutant(
        "parties are taken to learn nothing from gradients",
        "sim/methods/protocol.py",
        'sees_raw["peer-clinic"] = tuple(kind for kinds in down for kind in kinds)',
        'sees_raw["peer-clinic"] = ()',
        EPSILON,
    ),
    Mutant(
        "a patient counts where a party is seldom there",
        RELEASES,
        "values[list(parties.of_regions)]",
        "values",
        (f"{PRIVACY}test_a_patient_is_as_exposed_as_where_training_is_most",),
    ),
    Mutant(
        "they train on all patients",
        "sim/data/federation.py",
        "shared = np.logical_and.reduce(known | ",
        "shared = np.logical_or.reduce(known | ",
        (f"{OVERLAP}test_they_train_on_the_patients_whom_all_know",),
    ),
    Mutant(
        "the patients of one region train another's heads",
        PARTIES,
        "rows = slice(*train.offsets[parties.region_of[place] :][:2].tolist())",
        "rows = slice(*train.offsets[-2:].tolist()) if parties.heads else slice(*train.offsets[:2].tolist())",
        (f"{REGIONS}test_regions_average_one_block_diagonal_model[everywhere-concatenation-vanilla]",),
    ),
    Mutant(
        "heads are averaged over regions that do not have the party",
        "sim/methods/exchange.py",
        "total = sum(job.sizes[k] for k in clinics)",
        "total = sum(job.sizes[k] for k in (job.parties.holders if job.parties else clinics))",
        (f"{REGIONS}test_regions_average_one_block_diagonal_model[lacking-concatenation-vanilla]",),
    ),
    Mutant(
        "a patient's epsilon is that of the first region's rate",
        RELEASES,
        "values[list(parties.of_regions)]",
        "values[[parties.holders[0]] * len(values)]",
        (f"{REGIONS}test_epsilon_of_two_regions_two_parties_and_two_batches[joint]",),
    ),
    Mutant(
        "only one region takes time",
        "sim/plan/clock.py",
        "for region in np.unique(region_of)]",
        "for region in np.unique(region_of)][:1]",
        (f"{REGIONS}test_bytes_and_seconds_of_two_regions_two_parties_and_two_batches",),
    ),
)
