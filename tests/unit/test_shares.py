"""How even users' shares are, and how often models were loaded: what the statistics say of what is counted."""

from __future__ import annotations

import pytest

from app.domain.statistics_report import Ends, TenantUse, evenness, together


def use(tenant: str, gpu_s: float, wait_s: float = 1e6, weight: float = 1.0) -> TenantUse:
    return TenantUse(tenant, weight, 1, gpu_s, wait_s)


def test_equal_shares_are_exact_and_one_who_has_all_is_as_far_from_it_as_can_be() -> None:
    assert evenness([use("ann", 50.0), use("bob", 50.0)]) == pytest.approx(1.0)
    assert evenness([use("ann", 1e5), use("bob", 1e-3)]) == pytest.approx(0.5)


def test_shares_are_compared_by_weight() -> None:
    assert evenness([use("ann", 100.0, weight=2.0), use("bob", 50.0)]) == pytest.approx(1.0)


def test_who_waited_less_than_it_ran_wanted_no_more_and_does_not_count() -> None:
    users = [use("ann", 50.0), use("bob", 50.0), use("now and then", 1.0, wait_s=0.5), use("never ran", 0.0)]
    assert evenness(users) == pytest.approx(1.0)
    assert evenness(users[1:]) is None


def test_loads_are_told_by_a_hundred_jobs() -> None:
    one, other = Ends(counts={"completed": 30}), Ends(counts={"failed": 10})
    assert Ends().loads_per_100 is None
    one.add_loads(4, 8.0)
    other.add_loads(2, 1.5)
    both = together([one, other])
    assert (both.loads_per_100, both.load_s) == (15.0, 9.5)
