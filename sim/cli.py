"""The command ``suture``."""

from __future__ import annotations

import sys

import typer

from sim.commands.advise import advise
from sim.commands.audit import audit
from sim.commands.check import check
from sim.commands.compare import compare
from sim.commands.epsilon import epsilon
from sim.commands.map import map_
from sim.commands.new import new, schema
from sim.commands.plan import plan
from sim.commands.replan import replan, rerun
from sim.commands.report import export, report
from sim.commands.run import run
from sim.commands.status import status
from sim.commands.verify import sign, verify
from sim.foundation.problems import FolderError, ScenarioError, SutureError

app = typer.Typer(
    help="Simulate how a group of clinics would train one model together.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
for _command in (
    advise,
    audit,
    check,
    compare,
    export,
    epsilon,
    verify,
    new,
    plan,
    replan,
    report,
    rerun,
    run,
    schema,
    sign,
    status,
):
    app.command()(_command)
app.command("map")(map_)


@app.callback()
def _suture() -> None:
    """Simulate how a group of clinics would train one model together."""


def main() -> None:
    """Run the command; a problem is one line each, never a traceback.

    Exit code 2: the input or the results folder cannot be used. 1: something else did not succeed, as a run that
    failed. 130: interrupted.
    """
    try:
        app()
    except ScenarioError as error:
        print("\n".join(error.problems), file=sys.stderr)
        raise SystemExit(2) from None
    except OSError as error:
        print(f"{error.filename or 'file'}: {error.strerror or error}", file=sys.stderr)
        raise SystemExit(2) from None
    except MemoryError:
        print("there is not enough memory; take fewer records, a smaller model or fewer --jobs", file=sys.stderr)
        raise SystemExit(1) from None
    except SutureError as error:
        print(error, file=sys.stderr)
        raise SystemExit(2 if isinstance(error, FolderError) else 1) from None
