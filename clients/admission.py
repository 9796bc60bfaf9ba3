"""Every instruction is held against the plan before a clinic answers: the server may be faulty or hostile.

A clinic answers each batch of each round once, never more of them than were planned, and only for what its part in the
method asks. The node's memory holds one number a clinic: up to which round and batch it has answered or promised to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from torch import Tensor

from clients.session import Session
from sim.methods.job import Job
from sim.methods.messages import (
    Begin,
    Clip,
    Close,
    Instruction,
    Kind,
    OfBatch,
    Open,
    Step,
    Tail,
    Train,
    TrainAlone,
    Upload,
)
from sim.methods.parties import protocol_at
from sim.methods.workplace import Workplace

ANSWERED = "answered"
ROUND = 2**32
"""An answer's place is round * ROUND + batch."""


class RefusedError(ValueError):
    """An instruction is not what the plan foresees; the text quotes no value, not even the server's."""


def admit_upload(asked: Upload, here: Workplace) -> None:
    """Admit the one request for records, or for rows behind a public head."""
    _demand(here.job.method.pooled, "no records leave a clinic in this strategy")
    asked_of = _clinics(asked, here)
    one = here.job.parties is not None and len(asked_of) == 1
    _demand(one or asked_of == list(here.group.clinics), "it asks for other clinics than are here")
    _demand((asked.head is not None) == bool(here.job.protocol.clinic_parts), "it brings other arrays than it should")
    if asked.head is not None:
        _check_parameters(Kind.MODEL, asked.head, here)
    _answer(here, asked_of, lambda done: not done, "the records were asked for before", [ROUND] * len(asked_of))


def admit_training(asked: Train | TrainAlone, here: Workplace) -> list[int]:
    """Admit a round of training at the clinic; return the clinics that are to take part, in lane order."""
    job = here.job
    _demand(job.method.alone == isinstance(asked, TrainAlone), "this strategy does not ask for that")
    _demand(job.protocol.topology == "whole", "this strategy does not ask for that")
    _demand(bool(job.protocol.clinic_parts), "this strategy does not train at the clinic")
    clinics = _clinics(asked, here)
    _check_round(asked.server_round, clinics, job)
    if isinstance(asked, Train):
        if job.method.imported:
            for key, value in (("proximal-mu", asked.proximal_mu), ("clipping norm", asked.clipping_norm)):
                _demand(value is None or 0 <= value < float("inf"), f"its {key!r} is out of range")
        else:
            near = job.spec.strategy.proximal_mu if "proximal-mu" in job.method.takes else None
            _demand(asked.proximal_mu == near, "its 'proximal-mu' is not the plan's")
            _demand(asked.clipping_norm is None, "it states other things than it should")
        _check_parameters(Kind.MODEL, asked.model, here)
    begun = asked.server_round * ROUND
    _answer(here, clinics, lambda done: done < begun, "the round was answered before", [begun] * len(clinics))
    return clinics


def admit_turn(asked: Begin, here: Workplace) -> list[int]:
    """Admit the beginning of a turn; return its clinics, in lane order. All its batches are answered from then on."""
    job, first, steps = here.job, asked.first, asked.steps
    _demand(bool(job.protocol.batch_up), "this strategy has no turns")
    _demand(here.with_server or not isinstance(asked, Open), "the server is not in this process")
    clinics = _clinics(asked, here)
    _check_round(asked.server_round, clinics, job)
    handed_on = job.protocol.movement == "handed-on"
    _demand((asked.model is not None) == job.protocol.crosses, "it brings other arrays than it should")
    _demand((asked.optimizer is not None) == handed_on, "it brings other arrays than it should")
    own_turn = len(clinics) == 1 and asked.turn == f"clinic-{clinics[0]}"
    _demand(own_turn or asked.turn == "round", "its turn has another name than a turn has")
    for turn in ("round", *(f"clinic-{k}" for k in clinics)):
        _demand(not _takes_part(here, turn, clinics), "a clinic's turn is open")
    attendance = job.attendance(asked.server_round)
    for k in clinics:
        batches = attendance.batches_of(k)
        whole = first == 0 and steps >= 0 and min(steps, job.steps(k)) == batches
        one = handed_on and job.by_mini_batch and steps == 1 and 0 <= first < batches
        _demand(one if handed_on and job.by_mini_batch else whole, "its batches are not the plan's")
    for kind, brought in ((Kind.MODEL, asked.model), (Kind.OPTIMIZER, asked.optimizer)):
        if brought is not None:
            _check_parameters(kind, brought, here, clinics)
    begun = asked.server_round * ROUND

    def follows(done: int) -> bool:
        return done == begun + first if first else done < begun

    ends = [begun + min(first + steps, job.steps(k)) for k in clinics]
    _answer(here, clinics, follows, "a batch was answered before", ends)
    return clinics


def admit_close(asked: Close, here: Workplace) -> Session:
    """Admit the end of a turn whose batches were done without messages; return the turn."""
    session = here.live.get(asked.turn)
    if not isinstance(session, Session) or not here.with_server:
        raise RefusedError("no such turn is open")
    _demand(session.step == session.last, "its batches are not done")
    return session


def admit_rows(asked: OfBatch, kind: Kind, rows: Tensor, session: Session, here: Workplace) -> None:
    """Admit the next message of a batch, with the rows that it brings."""
    order = [_BRINGS[kind] for (kind,) in protocol_at(here.job, session.clinics[0]).batch_down]
    _demand(order[session.due] is type(asked), "it is not the turn's next message")
    _demand(asked.step == session.step, "it is for another batch than the one in flight")
    _demand(asked.clinics == session.at_work, "it is for other clinics than the turn's")
    _demand(asked.rows == session.rows, "it is for other rows than the batch has")
    if fault := here.forms.rows_fault(kind, rows, session.rows):
        raise RefusedError(f"its {str(kind)!r} holds {fault}")
    if len(order) > 1:
        session.due = session.record["due"] = (session.due + 1) % len(order)


_BRINGS: Final[dict[Kind, type[OfBatch]]] = {next(iter(each.kinds().values())): each for each in (Tail, Step, Clip)}


def _demand(holds: bool, otherwise: str) -> None:
    if not holds:
        raise RefusedError(otherwise)


def _check_parameters(kind: Kind, brought: dict[str, Tensor], here: Workplace, clinics: Sequence[int] = ()) -> None:
    fault = here.forms.parameters_fault(kind, brought, 1, clinics=clinics)
    _demand(not fault, f"its {str(kind)!r} holds {fault}")


def _clinics(asked: Instruction, here: Workplace) -> list[int]:
    _demand(len(set(asked.clinics)) == len(asked.clinics), "it names a clinic twice")
    _demand(here.group.places.keys() >= set(asked.clinics), "a clinic is not here")
    return here.job.in_lane_order(asked.clinics)


def _check_round(server_round: int, clinics: Iterable[int], job: Job) -> None:
    _demand(1 <= server_round <= job.spec.train.rounds, "the plan has no such round")
    _demand(job.attendance(server_round).have(clinics), "a clinic takes no part in that round")


def _answer(
    here: Workplace, clinics: Sequence[int], follows: Callable[[int], bool], otherwise: str, now: Sequence[int]
) -> None:
    """Demand that an answer follows what clinics have answered so far, and note up to where they have now."""
    if ANSWERED not in here.memory:
        here.memory.keep_numbers(ANSWERED, {ANSWERED: [0] * len(here.group.clinics)})
    answered = here.memory.numbers(ANSWERED)[ANSWERED]
    if not isinstance(answered, list):
        raise TypeError("what was answered is damaged")
    places = [here.group.places[k] for k in clinics]
    _demand(all(follows(answered[place]) for place in places), otherwise)
    for place, end in zip(places, now, strict=True):
        answered[place] = end


def _takes_part(here: Workplace, turn: str, clinics: Iterable[int]) -> bool:
    """Whether a turn is open that one of these clinics takes part in."""
    name = f"{turn}.turn"
    if name not in here.memory:
        return False
    of_turn = here.memory.numbers(name)["clinics"]
    return isinstance(of_turn, list) and not set(of_turn).isdisjoint(clinics)
