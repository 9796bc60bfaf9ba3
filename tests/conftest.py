"""What every test shares."""

import warnings

import pytest

with warnings.catch_warnings():
    # Typer takes a name from click that click has deprecated; imported here once, before warnings count as errors.
    warnings.simplefilter("ignore", DeprecationWarning)
    import typer  # noqa: F401


@pytest.fixture(scope="session")
def ragged(tmp_path_factory):
    """A CSV file of four clinics with 7, 23, 40 and 64 records of two classes."""
    from support import write_csv

    return write_csv(tmp_path_factory.mktemp("ragged") / "clinics.csv")
