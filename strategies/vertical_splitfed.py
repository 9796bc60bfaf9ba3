"""SplitFed over regions with vertical parties: Thapa et al. (AAAI 2022) between regions, Ceballos et al. (2020) within.

    regions r = 1, ..., R have patients of their own, n_r of them, and parties p that hold columns of these
    for each round t = 1, 2, ...
        for each region r in parallel
            head^p_r <- head^p for every party p of r,  body_r <- body
            a round of vertical split learning: the region's parties behind one body_r, batch by batch
        body <- sum of (n_r / n) body_r
        head^p <- sum of (n_r / n^p) head^p_r               over the n^p patients of the regions that have a party p

A party that is away in a round is left out of its average, like one that a region does not have. U-shaped, the tail of
every label's holder is averaged as the body is. As in SplitFed V1, optimisers begin anew in each round.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sim.methods.method import Method, State

if TYPE_CHECKING:
    from sim.methods.exchange import Exchange
    from sim.models import Parameters


def splitfed_round(exchange: Exchange, state: State) -> State:
    """Train every region on its own, from the same model, and average heads by party, bodies and tails."""
    trained: dict[int, Parameters] = {}
    for region in exchange.joined_turns:
        body = exchange.body([region.holder], state.model)
        trained |= region.run(body, state.model)
        trained[region.holder] = trained[region.holder] | body.parameters
        exchange.count_noise(body, region.places)
    return exchange.average_by_part(state, trained)


METHOD = Method(
    name="vertical-splitfed",
    label="Vertical SplitFed",
    citation="Thapa et al., AAAI 2022; Ceballos et al. 2020",
    family="SplitFed",
    layouts=("vertical",),
    cuts=("vanilla", "u-shaped"),
    clinic_parts="averaged",
    body="joint-copies",
    options={"join": "concatenation"},
    round=splitfed_round,
)
