"""The Flower ClientApp: one for every method, grid and deployment."""

from __future__ import annotations

from collections.abc import Callable

from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import ClientAppCallable

from clients.admission import RefusedError
from clients.handlers import handle
from sim.flower.wire import WireError, answer, instruction_in
from sim.flower.workplace import workplace_of
from sim.foundation.problems import ScenarioError, SutureError, place_of
from sim.methods.messages import INSTRUCTIONS
from sim.methods.workplace import Workplace


class ClinicError(SutureError):
    """Something failed at a clinic; says where, and never carries a value of the clinic's data."""


def shield(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Replace any exception: Flower sends its text to the server, and the text may hold a patient's value."""
    try:
        return call_next(message, context)
    except Exception as error:
        text = failure_of(error, message.metadata.message_type)
    raise ClinicError(text)


def failure_of(error: Exception, action: str) -> str:
    """Say what went wrong at a clinic without a value of its data."""
    if isinstance(error, RefusedError | WireError | ScenarioError):
        return f"refused {action!r}: {error}"
    return f"{place_of(error)} while handling {action!r}"


def client_app(workplaces: Callable[[Context], Workplace]) -> ClientApp:
    """Return the app of nodes whose workplaces are found so.

    Parameters
    ----------
    workplaces : callable
        Returns the workplace of the node that a context belongs to.
    """
    app = ClientApp(mods=[shield])

    def respond(message: Message, context: Context) -> Message:
        here = workplaces(context)
        foreign = here.job.method.imported
        return answer(handle(instruction_in(message, list(here.group.clinics), foreign=foreign), here), message)

    for action in INSTRUCTIONS:
        category, _, name = action.partition(".")
        getattr(app, category)(name or "default")(respond)
    return app


app = client_app(workplace_of)
