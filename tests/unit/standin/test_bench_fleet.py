"""What `make bench` says of several backends comes from their logs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.bench.fleet import Seen
from tests.bench.workload import with_checkpoint

if TYPE_CHECKING:
    from unit.standin.standin_client import StartStandin


def seen(*backends: list[tuple[float, float]]) -> Seen:
    executions = [[{"started": began, "ended": ended} for began, ended in runs] for runs in backends]
    return Seen(executions, 0, {})


def test_backends_are_busy_for_the_share_of_the_time_in_which_all_of_them_have_jobs() -> None:
    # The one is busy from 0 to 4, but for a second; the other one begins at 1, and ends at 5.
    of_two = seen([(0.0, 2.0), (3.0, 4.0)], [(1.0, 5.0)])
    assert of_two.busy_share == pytest.approx((2 + 3) / 6)
    assert of_two.seconds == 5.0


async def test_a_job_with_a_checkpoint_loads_it_unless_it_is_loaded_and_is_never_taken_from_the_cache(
    running_standin: StartStandin,
) -> None:
    async with running_standin() as client:
        one, other = client.standin.options.checkpoints[:2]
        for checkpoint in (one, one, other, one):
            await client.run(with_checkpoint(checkpoint, 0.01))
        log = (await client.get("/standin/log"))[1]
    assert log["loads"] == 3
    ran = [{"7", "8", "3", "2"} <= set(each["nodes"]) for each in log["executions"]]
    assert ran == [True] * 4
