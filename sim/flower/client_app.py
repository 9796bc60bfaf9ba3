"""The Flower ClientApp: one for every strategy, grid and deployment."""

from __future__ import annotations

from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import ClientAppCallable

from clients import records, split, whole
from clients.instructions import RefusedError
from clients.own import kept_by_clinics
from sim.foundation.problems import SutureError, place_of

__all__ = ["app", "kept_by_clinics"]


class ClinicError(SutureError):
    """Something failed at a clinic; says where, and never carries a value of the clinic's data."""


def shield(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Replace any exception: Flower sends its text to the server, and the text may hold a patient's value."""
    try:
        return call_next(message, context)
    except RefusedError as error:
        text = f"refused {message.metadata.message_type!r}: {error}"
    except Exception as error:
        text = f"{place_of(error)} while handling {message.metadata.message_type!r}"
    raise ClinicError(text)


app = ClientApp(mods=[shield])
app.query("hello")(records.hello)
app.train("records")(records.upload)
app.train()(whole.train)
app.train("alone")(whole.train_alone)
app.train("begin")(split.begin)
app.train("tail")(split.tail)
app.train("step")(split.step)
app.train("clip")(split.clip)
