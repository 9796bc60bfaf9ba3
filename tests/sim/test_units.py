import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from sim.foundation.units import Compute, Duration, Rate, parse_compute, parse_duration, parse_rate


class Held(BaseModel):
    rate: Rate
    duration: Duration
    compute: Compute


@pytest.mark.parametrize(
    ("parse", "text", "expected"),
    [
        (parse_rate, "10 Mbit/s", 10e6),
        (parse_rate, "1 Gbps", 1e9),
        (parse_rate, "56 kbit/s", 56e3),
        (parse_rate, "5 MB/s", 40e6),
        (parse_rate, "60 Mbit/min", 1e6),
        (parse_rate, " 2.5e3bit/s ", 2500.0),
        (parse_duration, "40 ms", 0.04),
        (parse_duration, "30 min", 1800.0),
        (parse_duration, "2 hours", 7200.0),
        (parse_duration, "1 day", 86400.0),
        (parse_compute, "2 TFLOP/s", 2e12),
        (parse_compute, "50 GFLOP/s", 50e9),
        (parse_compute, "1 Pflop/s", 1e15),
    ],
)
def test_reads_si(parse, text, expected):
    assert parse(text) == pytest.approx(expected, rel=1e-15)


@pytest.mark.parametrize(
    ("parse", "example"),
    [(parse_rate, "10 Mbit/s"), (parse_duration, "40 ms"), (parse_compute, "2 TFLOP/s")],
)
def test_example_in_the_error_is_itself_accepted(parse, example):
    with pytest.raises(ValueError, match=f'such as "{example}"$'):
        parse("nonsense")
    assert parse(example) > 0


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        (10, "10 is not a number with a unit"),
        (10.5, "10.5 is not a number with a unit"),
        (True, "true is not a number with a unit"),
        ("10", '"10" is not a number with a unit'),
        ("Mbit/s", '"Mbit/s" is not a number with a unit'),
        ("ten Mbit/s", '"ten Mbit/s" is not a number with a unit'),
        ("inf Mbit/s", '"inf Mbit/s" is not a number with a unit'),
        ("2 * 3 bit/s", '"2 * 3 bit/s" is not a number with a unit'),
        ("1 bit/s/s", '"1 bit/s/s" is not a number with a unit'),
        ("1 bit**2/s", '"1 bit**2/s" is not a number with a unit'),
        ("10 Mbit", '"10 Mbit" is of the wrong kind'),
        ("10 ms", '"10 ms" is of the wrong kind'),
        ("2 TFLOP/s", '"2 TFLOP/s" is of the wrong kind'),
        ("10 mbit/s", '"10 mbit/s" has an unknown unit'),
        ("10 Hz", '"10 Hz" has an unknown unit'),
        ("0 Mbit/s", '"0 Mbit/s" is not positive and finite'),
        ("-1 Mbit/s", '"-1 Mbit/s" is not positive and finite'),
        ("1e999 Mbit/s", '"1e999 Mbit/s" is not positive and finite'),
        ("1e300 Pbit/s", '"1e300 Pbit/s" is not positive and finite'),
        ("1e-320 bit/s", '"1e-320 bit/s" is not between 1 bit/s and 1 Pbit/s'),
        ("0.99 bit/s", '"0.99 bit/s" is not between 1 bit/s and 1 Pbit/s'),
        ("1001 Tbit/s", '"1001 Tbit/s" is not between 1 bit/s and 1 Pbit/s'),
    ],
)
def test_refuses_with_one_sentence(value, fault):
    with pytest.raises(ValueError, match="such as") as caught:
        parse_rate(value)
    assert str(caught.value) == f'{fault}; give a data rate such as "10 Mbit/s"'


@pytest.mark.parametrize(
    ("parse", "least", "most"),
    [
        (parse_rate, "1 bit/s", "1 Pbit/s"),
        (parse_duration, "1e-9 s", "1e9 s"),
        (parse_compute, "1 FLOP/s", "1e6 PFLOP/s"),
    ],
)
def test_the_ends_of_a_range_are_in_it(parse, least, most):
    assert parse(least) < parse(most)
    for wrong in (least.replace("1", "0.9", 1), most.replace("1", "1.1", 1)):
        with pytest.raises(ValueError, match=f"is not between {least} and {most};"):
            parse(wrong)


@given(st.floats(min_value=1, max_value=1e9))
def test_dump_parses_again_exactly(number):
    held = Held(rate=f"{number!r} bit/s", duration=f"{number!r} s", compute=f"{number!r} FLOP/s")
    assert (held.rate, held.duration, held.compute) == (number, number, number)
    assert Held.model_validate_json(held.model_dump_json()) == held
    assert Held.model_validate(held.model_dump()) == held


@given(
    st.floats(min_value=1, max_value=1e3),
    st.sampled_from([("k", 1e3), ("M", 1e6), ("G", 1e9), ("T", 1e12), ("", 1.0)]),
)
def test_prefixes(number, prefix):
    letter, factor = prefix
    assert math.isclose(parse_rate(f"{number!r} {letter}bit/s"), number * factor, rel_tol=1e-14)
    assert math.isclose(parse_compute(f"{number!r} {letter}FLOP/s"), number * factor, rel_tol=1e-14)


def test_dump_carries_the_unit_and_a_bare_number_is_refused():
    held = Held(rate="10 Mbit/s", duration="30 min", compute="1 FLOP/s")
    assert json.loads(held.model_dump_json()) == {
        "rate": "10000000.0 bit/s",
        "duration": "1800.0 s",
        "compute": "1.0 FLOP/s",
    }
    with pytest.raises(ValidationError):
        Held(rate=10e6, duration="1 s", compute="1 FLOP/s")
