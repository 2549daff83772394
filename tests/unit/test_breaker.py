"""When a backend whose device fails is ill, and that one user's graphs alone never make it so."""

from __future__ import annotations

from app.domain.breaker import FAILURES, FIRST_PAUSE_S, LAST_PAUSE_S, MOST, PROVEN, Breaker


def broken(users: list[str]) -> Breaker:
    """One whose device failed a job of each of these users, at the moments 0, 1, 2 …"""
    found = Breaker()
    for number, user in enumerate(users):
        found.failed(number, user, now=number)
    return found


def test_jobs_that_succeed_elsewhere_make_it_ill() -> None:
    found = broken(["ann"] * 10)
    found.proven(range(PROVEN - 1), now=10)
    assert not found.is_open
    assert found.unproven == list(range(PROVEN - 1, 10))
    found.proven([PROVEN], now=10)
    assert found.is_open


def test_one_users_bad_graphs_never_make_it_ill() -> None:
    found = broken(["ann"] * 1000)
    assert not found.is_open
    assert found.slots(2, 0, now=1010) == 1
    assert len(found.unproven) == MOST


def test_many_users_in_a_row_make_it_ill_where_there_is_no_elsewhere() -> None:
    assert not broken(["ann", "bob"] * 10).is_open
    assert not broken(["ann", "bob", "cid"]).is_open
    assert broken(["ann", "bob", "cid", *["ann"] * (FAILURES - 3)]).is_open


def test_what_succeeds_elsewhere_but_did_not_fail_here_proves_nothing() -> None:
    found = broken(["ann"])
    found.proven([100, 101, 102, 103], now=1)
    assert not found.is_open


def test_a_success_makes_it_well() -> None:
    found = broken(["ann", "bob", "cid", "dan", "eve"])
    assert found.is_open
    found.succeeded()
    assert (found.is_open, found.in_doubt, found.slots(2, 1, now=0)) == (False, False, 2)


def test_in_doubt_it_gets_one_job_at_a_time_and_never_rests_longer_than_some_seconds() -> None:
    found = broken(["ann"] * 20)
    assert found.slots(2, 0, now=19) == 0
    assert found.slots(2, 0, now=24) == 1
    assert found.slots(2, 1, now=24) == 1


def test_an_ill_one_gets_a_trial_job_after_a_pause_that_doubles_with_each_failure() -> None:
    found = broken(["ann", "bob", "cid", "dan", "eve"])
    now, pause_s = 4.0, FIRST_PAUSE_S
    for number in range(10):
        assert found.slots(2, 0, now + pause_s - 0.1) == 0
        now += pause_s
        assert found.slots(2, 0, now) == 1
        found.failed(100 + number, "ann", now)
        pause_s = min(pause_s * 2, LAST_PAUSE_S)
    assert found.is_open
