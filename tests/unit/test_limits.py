"""Limits as they are written: in settings, on the command line, and as JSON."""

from __future__ import annotations

import pytest

from app.domain.errors import InvalidRequest
from app.domain.limits import (
    MOST_PRIORITY,
    NAMES,
    UNLIMITED,
    Limits,
    check_priority,
    limits_of,
    most_generous,
    parse_limits,
)


def test_a_text_and_a_mapping_say_the_same():
    text = "requests_per_second=0.5 burst=3, sockets=10 waiting=0 running=2 jobs_per_day=none upload_bytes=1.5GiB"
    text += " priority=-7"
    told = {
        "requests_per_second": 0.5,
        "burst": 3,
        "sockets": 10,
        "waiting": 0,
        "running": 2,
        "jobs_per_day": None,
        "upload_bytes": 3 * 2**29,
        "priority": -7,
    }
    assert parse_limits(text) == told
    assert parse_limits(told | {"upload_bytes": "1.5GiB"}) == told
    assert set(told) == set(NAMES)


def test_nothing_said_is_nothing_set():
    assert parse_limits("") == parse_limits({}) == {}
    assert limits_of(" ") == Limits()


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ("runing=2", "runing"),
        ("running", "running"),
        ("running=2 running=3", "twice"),
        ("running=0", "from 1 on"),
        ("burst=0", "from 1 on"),
        ("priority=101", "from -100 to 100"),
        ("priority=--5", "from -100 to 100"),
        ("priority=high", "from -100 to 100"),
        ("waiting=-1", "from 0 on"),
        ("requests_per_second=0", "0.01"),
        ("requests_per_second=nan", "0.01"),
        ("upload_bytes=10GB", "10GiB"),
        ("waiting=2.5", "integer"),
        ({"waiting": True}, "number"),
        ({"waiting": [1]}, "number"),
        ({"waiting": 1e400}, "integer"),
        ({"requests_per_second": 10**400}, "0.01"),
        ({"waiting": 2**53}, "integer"),
    ],
)
def test_what_makes_no_sense_is_named(given, named):
    with pytest.raises(InvalidRequest, match=named) as refused:
        parse_limits(given, "/limits")
    assert refused.value.faults


def test_every_fault_is_named_at_once():
    with pytest.raises(InvalidRequest) as refused:
        parse_limits({"runing": 1, "waiting": -1}, "/limits")
    assert [fault.pointer for fault in refused.value.faults] == ["/limits/runing", "/limits/waiting"]


def test_a_keys_own_limits_go_before_its_roles():
    of_role = limits_of("running=4 waiting=100")
    assert of_role.over({"running": None, "sockets": 7}) == Limits(waiting=100, sockets=7)
    assert of_role.over({}) == of_role


def test_a_burst_that_is_not_said_is_twice_the_rate():
    assert limits_of("requests_per_second=10").burst_size == 20
    assert limits_of("requests_per_second=0.1").burst_size == 1
    assert limits_of("requests_per_second=10 burst=5").burst_size == 5


def test_of_several_keys_the_most_generous_counts():
    tight, wide = limits_of("running=1 waiting=5 sockets=3"), limits_of("running=4 waiting=2")
    assert most_generous([tight, wide]) == Limits(running=4, waiting=5)
    assert most_generous([]) == Limits()


def test_a_priority_may_be_negative_and_is_compared_with_the_limit() -> None:
    limits = limits_of("priority=-5")
    assert limits.priority == -5
    check_priority(limits, -5)
    check_priority(UNLIMITED, MOST_PRIORITY)
    with pytest.raises(InvalidRequest, match="at most the priority -5"):
        check_priority(limits, -4)
