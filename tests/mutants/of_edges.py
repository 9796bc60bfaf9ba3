"""Mutants of edge servers: who stands behind the noise, what is in front of it, and who waits for whom."""

from .trial import Mutant

EDGES, HOPS = "tests/sim/test_edges.py::", "tests/strategies/test_multi_hop.py::"
SERVER, RELEASES, EXCHANGE = "sim/methods/edge_server.py", "sim/plan/releases.py", "sim/methods/exchange.py"
EPSILON = (f"{EDGES}test_who_sees_rows_without_noise_has_no_guarantee_and_who_stands_behind_it_has_one[edge]",)
HAND = (f"{EDGES}test_two_clinics_two_batches_and_one_edge_server",)
NOISE = (f"{HOPS}test_rows_leave_the_edge_server_with_the_noise_that_the_ledger_says",)

OF_EDGES = (
    Mutant(
        "the edge server that adds the noise is taken not to see the rows",
        RELEASES,
        'behind: tuple[Adversary, ...] = () if not noised else ("server",) if at_edge else getting',
        "behind: tuple[Adversary, ...] = () if not noised else getting",
        EPSILON,
    ),
    Mutant(
        "a middle that trains in front of the noise is taken to tell nothing",
        RELEASES,
        "in_front = protocol.clinic_parts + (protocol.edge_parts if at_edge else ())",
        "in_front = protocol.clinic_parts",
        (f"{EDGES}test_a_middle_that_trains_in_front_of_the_noise_tells_of_records",),
    ),
    Mutant(
        "rows leave the edge server without the noise that they are to have",
        "sim/methods/edges.py",
        'rows=job.rows if job.spec.privacy.rows_noised_at == "edge" else None',
        "rows=None",
        NOISE,
    ),
    Mutant(
        "clinics do not wait for the workers of their edge server",
        "sim/plan/queues.py",
        'batch.append(Stretch("edge", PHASES["edge"], seconds))',
        'batch.append(Stretch("", PHASES["edge"], seconds))',
        HAND,
    ),
    Mutant(
        "an edge server averages its clinics alike",
        SERVER,
        "own = [job.sizes[k] for k in clinics]",
        "own = [1 for k in clinics]",
        (f"{HOPS}test_multi_hop_v1_is_v1_with_either_cut[all-sgd]",),
    ),
    Mutant(
        "edge servers count alike at the cloud",
        EXCHANGE,
        "weights = (count * job.records)[gathered.clinics]",
        "weights = count[gathered.clinics]",
        (f"{HOPS}test_averaging_at_the_cloud_every_round_is_v1[vanilla-sgd]",),
    ),
)
