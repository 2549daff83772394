"""The queue in virtual time: the same seed gives the same play, and the goals of the rules hold in it."""

from __future__ import annotations

from functools import partial
from random import Random
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.commands.simulating import UnknownSimulation, simulate
from app.domain.scheduling.choice import CANDIDATES
from app.domain.scheduling.jobs import Candidate
from app.domain.scheduling.reach import MOST_OVERTAKEN
from app.settings import load_settings
from app.simulation.measures import Measures, Waits
from app.simulation.play import Mode, Play
from app.simulation.report import row, tenant_rows
from app.simulation.scenario import Arrival, Hardware, Scenario, day_and_night
from app.simulation.scenarios import SCENARIOS, USUAL, days, flood, loads, million, mix, steady, weights, zipf_bursts
from app.simulation.waiting import Waiting

if TYPE_CHECKING:
    from collections.abc import Iterator

PLAYED: dict[tuple[str, Mode, int], Measures] = {}


def played(scenario: Scenario, mode: Mode, seed: int = 1) -> Measures:
    """Return what comes out; each play is made once."""
    key = scenario.about, mode, seed
    if key not in PLAYED:
        play = Play(scenario, mode, seed)
        for _ in play.steps():
            pass
        PLAYED[key] = play.measures
    return PLAYED[key]


@pytest.mark.parametrize("seed", range(1, 9))
def test_two_models_on_two_backends_are_hardly_loaded_more_often_than_once(seed: int) -> None:
    fifo, both = played(mix(), Mode.FIFO, seed), played(mix(), Mode.BOTH, seed)
    assert both.loads <= 6
    assert both.last_end <= fifo.last_end / 2


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_five_models_on_three_backends_are_loaded_a_third_as_often_and_nobody_waits_for_longer(seed: int) -> None:
    fifo, both = played(zipf_bursts(8), Mode.FIFO, seed), played(zipf_bursts(8), Mode.BOTH, seed)
    assert both.loads <= fifo.loads / 3
    assert both.waits().p95 <= fifo.waits().p95


def test_one_by_one_they_are_loaded_less_often_too() -> None:
    fifo, both = played(steady(count=800), Mode.FIFO), played(steady(count=800), Mode.BOTH)
    assert both.loads <= fifo.loads * 0.7
    assert both.waits().p95 <= fifo.waits().p95


@pytest.mark.parametrize("seed", range(1, 6))
def test_three_jobs_beside_a_flood_come_soon(seed: int) -> None:
    both = played(flood(), Mode.BOTH, seed)
    assert both.waits("three").longest <= both.waits("flood").longest / 5


def test_floods_share_by_weight_while_all_wait() -> None:
    shares = played(weights(150), Mode.BOTH).shares()
    assert sorted(shares) == ["large", "medium", "small"]
    assert all(share == pytest.approx(1.0, abs=0.1) for share in shares.values())
    assert played(weights(150), Mode.AFFINITY).shares()["small"] < 0.1


def test_every_job_ends_although_backends_die() -> None:
    both = played(days(1_500), Mode.BOTH, seed=3)
    assert both.lost_runs > 0
    assert (both.done, both.left) == (1_500, 0)
    assert both.most_overtaken <= MOST_OVERTAKEN


def test_bursts_and_many_backends_are_played() -> None:
    both = played(million(5_000), Mode.BOTH)
    assert (both.done, both.left) == (5_000, 0)


def test_without_choosing_nobody_is_overtaken() -> None:
    assert played(flood(), Mode.FIFO).most_overtaken == played(flood(), Mode.FAIR).most_overtaken == 0


def test_the_same_seed_gives_the_same_play() -> None:
    rows = [row(scenario, mode, _again(scenario, mode, 5)) for _ in "ab" for scenario in SMALL for mode in Mode]
    assert rows[: len(rows) // 2] == rows[len(rows) // 2 :]
    assert row(mix(), Mode.BOTH, _again(mix(), Mode.BOTH, 6)) != rows[3]


SMALL = (mix(), flood(), days(300))


def _again(scenario: Scenario, mode: Mode, seed: int) -> Measures:
    play = Play(scenario, mode, seed)
    for _ in play.steps():
        pass
    return play.measures


arrivals = st.lists(
    st.tuples(
        st.floats(0.0, 30.0),
        st.sampled_from(["ann", "bob"]),
        st.integers(0, 3),
        st.floats(0.1, 4.0),
        st.sampled_from([0, 0, 0, 9]),
    ),
    min_size=1,
    max_size=60,
)


@settings(max_examples=60)
@given(arrivals, st.lists(st.sampled_from([0.5, 1.0, 2.0]), min_size=1, max_size=4), st.booleans(), st.booleans())
def test_in_no_history_is_a_job_overtaken_beyond_the_bound(
    drawn: list[tuple[float, str, int, float, int]], speeds: list[float], dies: bool, fair: bool
) -> None:
    def jobs(_random: Random) -> Iterator[Arrival]:
        for at, tenant, model, run_s, priority in sorted(drawn):
            yield Arrival(at, tenant, frozenset({f"model-{model}.safetensors"}), run_s, run_s, priority)

    hardware = [Hardware(speed, dies_every_s=40.0 if dies else None, down_s=5.0) for speed in speeds]
    scenario = Scenario("drawn", "", hardware, dict.fromkeys(loads(4, 5.0), 5.0), jobs, {"bob": 2.0})
    found = _again(scenario, Mode.BOTH if fair else Mode.AFFINITY, 1)
    assert (found.done, found.left) == (len(drawn), 0)
    assert found.most_overtaken <= MOST_OVERTAKEN
    if not dies and set(speeds) == {1.0}:
        # What is expected is what happens, but for a first load, and speeds that are not known yet.
        assert found.most_put_off <= 2.0


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 50)), min_size=1, max_size=90), st.data())
def test_the_first_jobs_are_those_of_the_whole_queue(keys: list[tuple[int, int]], data: st.DataObject) -> None:
    waiting, whole = Waiting(), []
    for number, (priority, tag) in enumerate(keys):
        waiting.add((priority, tag, number), Candidate(number, "ann", frozenset(), 1.0))
        whole.append((priority, tag, number))
        if number % 3 == 2:
            whole.sort()
            rank = data.draw(st.integers(0, min(len(whole), CANDIDATES) - 1))
            key, job = waiting.take(rank, 0.5)
            assert key == whole.pop(rank)
            assert [each.job_id for each in waiting.first] == [each[2] for each in sorted(whole)[:CANDIDATES]]
            assert len(waiting) == len(whole)
            assert job.job_id == key[2]


def test_those_before_a_job_that_is_taken_are_put_off() -> None:
    waiting = Waiting()
    for number in range(3):
        waiting.add((0, number, number), Candidate(number, "ann", frozenset(), 1.0, overtaken=number))
    waiting.take(1, 0.5)
    assert [(job.job_id, job.overtaken, job.overtaken_s) for job in waiting.first] == [(0, 1, 0.5), (2, 2, 0.0)]


def test_waits_and_shares_are_as_they_are_told() -> None:
    found = Measures({"bob": 3.0})
    for number in range(100):
        found.ran("ann", float(number), 0.0, 1.0)
    assert found.waits() == found.waits("ann") == Waits(50.0, 95.0, 99.0)
    assert (found.jain(), found.shares()) == (None, {})
    for tenant in ("ann", "bob"):
        found.joined(tenant)
    found.given("ann", 1.0)
    found.given("bob", 1.0)
    assert found.shares() == {"ann": 2.0, "bob": pytest.approx(2 / 3)}
    assert found.jain() == pytest.approx(0.8)


def test_by_day_more_jobs_come_than_by_night() -> None:
    moments = list(day_and_night(Random(1), 1.0, 5_000, 1_000.0))
    noon = sum(250 < at % 1_000 < 750 for at in moments)
    assert len(moments) == 5_000
    assert 0.7 < noon / 5_000 < 0.85


def test_of_many_tenants_the_first_and_the_last_are_shown() -> None:
    shown = list(tenant_rows("both", played(days(1_500), Mode.BOTH, seed=3)))
    assert len(shown) == 2
    assert len(list(tenant_rows("both", played(flood(), Mode.BOTH)))) == 2
    assert list(tenant_rows("both", played(mix(), Mode.BOTH))) == []


async def test_the_command_prints_the_same_for_the_same_seed(capsys: pytest.CaptureFixture[str]) -> None:
    run = partial(simulate, load_settings("test"), ["mix", "flood"], "fifo,both", 3)
    texts = []
    for _ in "ab":
        assert await run() == 0
        texts.append(capsys.readouterr())
    assert texts[0].out == texts[1].out
    assert [line.split()[0] for line in texts[0].out.splitlines()[:4]] == ["mix:", "MODE", "fifo", "both"]
    assert "decisions a second" in texts[0].err


@pytest.mark.parametrize(("scenarios", "modes"), [(["mixed"], ""), (["mix"], "fifo,lifo")])
async def test_an_unknown_scenario_or_mode_is_named(scenarios: list[str], modes: str) -> None:
    with pytest.raises(UnknownSimulation, match=r"mixed|lifo"):
        await simulate(load_settings("test"), scenarios, modes, 1)


def test_each_scenario_is_told_by_its_name() -> None:
    assert all(make().name == name for name, make in SCENARIOS.items())
    assert set(USUAL) <= set(SCENARIOS)
