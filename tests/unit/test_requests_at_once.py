"""How many requests of one key are worked on at once, and who begins next."""

import asyncio

import pytest

from app.web.requests_at_once import RequestsAtOnce


def waiting(requests: RequestsAtOnce, key_id: int = 1) -> asyncio.Task[None]:
    return asyncio.create_task(requests.begin(key_id))


async def begun(*tasks: asyncio.Task[None]) -> list[bool]:
    # Each may take two rounds of the loop: its turn is given, and then it goes on.
    for _ in range(3):
        await asyncio.sleep(0)
    return [task.done() for task in tasks]


async def test_of_one_key_so_many_are_worked_on_and_the_next_one_begins_when_one_ends():
    requests = RequestsAtOnce(at_once=2, patience_s=60)
    tasks = [waiting(requests) for _ in range(4)]
    assert await begun(*tasks) == [True, True, False, False]
    requests.end(1)
    assert await begun(*tasks) == [True, True, True, False]
    requests.end(1)
    assert await begun(*tasks) == [True] * 4
    for _ in range(2):
        requests.end(1)
    assert requests.begun(1) == 0


async def test_another_key_does_not_wait():
    requests = RequestsAtOnce(at_once=1, patience_s=60)
    await requests.begin(1)
    mine, other = waiting(requests), waiting(requests, 2)
    assert await begun(mine, other) == [False, True]
    requests.end(1)
    await mine


async def test_one_that_waits_for_something_else_holds_up_nobody_for_ever():
    requests = RequestsAtOnce(at_once=1, patience_s=0.01)
    await requests.begin(1)
    await requests.begin(1)
    assert requests.begun(1) == 2
    for left in (1, 0):
        requests.end(1)
        assert requests.begun(1) == left


async def test_a_place_beyond_those_that_there_are_is_not_passed_on():
    requests = RequestsAtOnce(at_once=1, patience_s=0.01)
    for _ in range(3):
        await requests.begin(1)
    patient = waiting(requests)
    assert await begun(patient) == [False]
    requests.end(1)
    assert requests.begun(1) == 2
    patient.cancel()
    with pytest.raises(asyncio.CancelledError):
        await patient


@pytest.mark.parametrize("given", [False, True])
async def test_one_that_goes_away_takes_no_place_with_it(given: bool):
    requests = RequestsAtOnce(at_once=1, patience_s=60)
    await requests.begin(1)
    gone, next_one = waiting(requests), waiting(requests)
    assert await begun(gone, next_one) == [False, False]
    if given:
        requests.end(1)
    gone.cancel()
    if not given:
        await begun(gone)
        requests.end(1)
    assert (await begun(next_one)) == [True]
    assert gone.cancelled()
    requests.end(1)
    assert requests.begun(1) == 0
