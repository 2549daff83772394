"""Which waiting job a backend gets: those whose models it has loaded first, within bounds, whoever drives it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from samples import new_job

from app.domain.scheduling.choice import CANDIDATES
from app.domain.scheduling.jobs import Choice, Reason
from app.storage.attempts import AttemptStore, By
from harness import Service, StandinServer, Workers, eventually
from worker.attempts.job_choice import own_state
from worker.standin.faults import Fault, FaultKind

if TYPE_CHECKING:
    from app.storage.database import Database
    from worker.main import WorkerProcess

A, B = ("checkpoints/a.safetensors",), ("checkpoints/b.safetensors",)


def by(backend: str = "here", prompt_id: str = "p") -> By:
    return By("w", backend, prompt_id, 60)


@pytest.fixture
def store(database: Database) -> AttemptStore:
    return AttemptStore(database)


async def wait_with(store: AttemptStore, *models: tuple[str, ...], **more: Any) -> list[int]:
    """Accept a job for each of these sets of models, and return their ids."""
    ids = []
    for each in models:
        job = await store.create(new_job(models=each, cost_s=1.0, **more))
        assert job is not None
        ids.append(job.job_id)
    return ids


async def test_the_first_job_is_taken_at_hand_if_its_models_are_loaded(store, plain):
    first, second = await wait_with(store, A, B)
    assert await store.claim_at_hand(by(), B, Reason.DUE) is None
    taken = await store.claim_at_hand(by(), {*A, *B}, Reason.DUE)
    assert taken is not None
    assert taken.job_id == first
    told = await plain.fetchrow(
        "SELECT choice::text, (SELECT data::text FROM job_events WHERE event = 'claimed') AS data FROM job_attempts"
    )
    assert '"reason": "due"' in told["choice"]
    assert '"reason": "due"' in told["data"]
    assert '"backend": "here"' in told["data"]
    taken = await store.claim_at_hand(by(), None)
    assert taken is not None
    assert taken.job_id == second
    assert await plain.fetchval("SELECT choice FROM job_attempts WHERE job_id = $1", second) is None


async def test_a_job_without_models_is_always_at_hand(store):
    (only,) = await wait_with(store, ())
    taken = await store.claim_at_hand(by(), frozenset(), Reason.DUE)
    assert taken is not None
    assert taken.job_id == only


async def test_a_job_with_a_wish_is_weighed(store):
    (only,) = await wait_with(store, A, prefer="there")
    assert await store.claim_at_hand(by(), A, Reason.DUE) is None
    assert [(each.job_id, each.prefer) for each in await store.candidates(by(), (), 32)] == [(only, "there")]
    # Where nothing is chosen a wish counts for nothing.
    assert await store.claim_at_hand(by(), None) is not None


async def test_candidates_are_in_turn_and_tell_what_a_choice_needs(store, plain):
    ids = await wait_with(store, A, B, A)
    await plain.execute(
        "UPDATE generation_jobs SET overtaken = 3, overtaken_s = 1.5, backend = 'here' WHERE id = $1", ids[1]
    )
    await plain.execute(
        "UPDATE generation_jobs SET refused_by = '{other}', available_at = now() - interval '1 minute' WHERE id = $1",
        ids[2],
    )
    found = await store.candidates(by(), (), 32)
    assert [each.job_id for each in found] == ids
    assert [each.models for each in found] == [frozenset(A), frozenset(B), frozenset(A)]
    assert (found[1].overtaken, found[1].overtaken_s, found[1].only) == (3, 1.5, "here")
    assert [each.refused_by for each in found] == [frozenset(), frozenset(), {"other"}]
    assert [each.fair_tag for each in found] == sorted(each.fair_tag for each in found)
    assert {each.tenant for each in found} == {"someone"}
    # What may not run here is not looked at, nor what needs a model that is not here, nor more than asked for.
    assert [each.job_id for each in await store.candidates(by("elsewhere"), (), 32)] == [ids[0], ids[2]]
    assert [each.job_id for each in await store.candidates(by("other"), (), 32)] == ids[:1]
    assert [each.job_id for each in await store.candidates(by(), A, 32)] == [ids[1]]
    assert [each.job_id for each in await store.candidates(by(), (), 2)] == ids[:2]
    await plain.execute("UPDATE generation_jobs SET available_at = now() - interval '1 hour'")
    assert [each.refused_by for each in await store.candidates(by(), (), 32)] == [frozenset()] * 3


def passing(job_id: int, overtook: list[int], due_tag: int = 0, put_off_s: float = 2.5) -> Choice:
    return Choice(job_id, Reason.WARM, len(overtook), tuple(overtook), put_off_s, 0.0, len(overtook), due_tag=due_tag)


async def test_a_chosen_job_is_taken_and_those_it_overtook_are_told_so(store, plain):
    ids = await wait_with(store, A, A, B, A)
    taken = await store.claim_chosen(by(), passing(ids[2], ids[:2]))
    assert taken is not None
    assert taken.job_id == ids[2]
    rows = await plain.fetch("SELECT overtaken, overtaken_s FROM generation_jobs ORDER BY id")
    assert [tuple(row) for row in rows] == [(1, 2.5), (1, 2.5), (0, 0), (0, 0)]
    told = await plain.fetchval("SELECT choice FROM job_attempts WHERE job_id = $1", ids[2])
    for part in ('"reason": "warm"', '"rank": 2', '"overtook": 2', '"load_s": 0.0', '"alternatives": 2'):
        assert part in told


async def test_who_comes_too_late_takes_nothing_and_nobody_was_overtaken(store, plain):
    ids = await wait_with(store, A, B)
    assert await store.claim_chosen(by(), passing(ids[1], ids[:1])) is not None
    assert await store.claim_chosen(by(), passing(ids[1], ids[:1])) is None
    assert await plain.fetchval("SELECT overtaken FROM generation_jobs WHERE id = $1", ids[0]) == 1


async def test_of_two_who_choose_the_same_job_at_once_one_gets_it(store, database, plain):
    ids = await wait_with(store, A, B)
    got = await asyncio.gather(*(store.claim_chosen(by(prompt_id=str(n)), passing(ids[1], ids[:1])) for n in range(6)))
    assert [job.job_id for job in got if job is not None] == [ids[1]]
    assert await plain.fetchval("SELECT overtaken FROM generation_jobs WHERE id = $1", ids[0]) == 1


async def test_a_job_that_another_holds_is_not_waited_for_when_it_is_overtaken(store, plain):
    ids = await wait_with(store, A, B)
    async with plain.transaction():
        await plain.execute("SELECT FROM generation_jobs WHERE id = $1 FOR UPDATE", ids[0])
        async with asyncio.timeout(30):
            assert await store.claim_chosen(by(), passing(ids[1], ids[:1])) is not None


async def test_the_clock_goes_by_what_was_due_first(store, plain):
    ids = await wait_with(store, A, A, B)
    tags = [row["fair_tag"] for row in await plain.fetch("SELECT fair_tag FROM generation_jobs ORDER BY id")]
    assert await store.claim_chosen(by(), passing(ids[2], ids[:2], due_tag=tags[0])) is not None
    assert await plain.fetchval("SELECT tag FROM queue_clocks WHERE priority = 0") == tags[0]


# Together with workers and stand-ins.


CHECKPOINTS = ("sd_xl_base_1.0.safetensors", "dreamshaper_8.safetensors")
Start = Callable[..., Awaitable[StandinServer]]


class Pair:
    """Two backends that take time to load a checkpoint."""

    def __init__(self, service: Service, standins: list[StandinServer], workers: list[WorkerProcess]) -> None:
        self.service = service
        self.standins = standins
        self.workers = workers

    @property
    def loads(self) -> int:
        """How often they have loaded a checkpoint."""
        return sum(each.state.executor.models.loads for each in self.standins)

    async def run_by_turns(self) -> list[str]:
        """Have each backend load one of the checkpoints, run jobs of both by turns, and return where they ran."""
        for name, checkpoint in zip("ab", CHECKPOINTS, strict=True):
            await self.service.run(backend=name, checkpoint_model=checkpoint)
            await eventually(partial(self._is_heard_of, name, checkpoint))
        done = [await self.service.run(checkpoint_model=each) for each in (*CHECKPOINTS * 3, *CHECKPOINTS[::-1])]
        return [job["backend_name"] for job in done]

    async def _is_heard_of(self, name: str, checkpoint: str) -> bool:
        """Whether all workers know that a backend has this checkpoint, and nothing to do."""
        states = [
            own_state(worker.pool.backends[name]) if name in worker.pool.backends else worker.choice.fleet.get(name)
            for worker in self.workers
        ]
        return all(each is not None and each.warm == {f"checkpoints/{checkpoint}"} and not each.busy for each in states)


@pytest.fixture
async def make_pair(service: Service, start_standin: Start, start_worker: Workers) -> Callable[..., Awaitable[Pair]]:
    """Start them, with a worker for both, or with one for each."""

    async def make(*, workers: int = 1, **changes: Any) -> Pair:
        standins = [await start_standin(model_load_seconds=1) for _ in "ab"]
        urls = [f"{name}={each.url}" for name, each in zip("ab", standins, strict=True)]
        await start_worker.stop(service.worker)
        started = [await start_worker(each, **changes) for each in ([",".join(urls)] if workers == 1 else urls)]
        for worker in started:
            await service.heard_of(worker)
        return Pair(service, standins, started)

    return make


@pytest.mark.parametrize("heartbeat_seconds", [4.0], ids=["calm"])
@pytest.mark.parametrize("workers", [1, 2])
async def test_a_job_runs_where_its_checkpoint_is_loaded_whoever_drives_that_backend(make_pair, workers):
    pair = await make_pair(workers=workers)
    assert await pair.run_by_turns() == [*"ab" * 3, *"ba"]
    assert pair.loads == 2


async def test_without_it_the_first_backend_gets_the_first_job(make_pair, plain):
    pair = await make_pair(prefer_loaded_models=False)
    done = [await pair.service.run(checkpoint_model=each) for each in CHECKPOINTS * 2]
    assert [job["backend_name"] for job in done] == [*"aaaa"]
    assert pair.loads == 4
    assert await plain.fetchval("SELECT count(choice) FROM job_attempts") == 0


async def test_of_jobs_that_wait_together_those_go_first_whose_checkpoint_is_loaded(make_pair, plain):
    pair = await make_pair()
    # How long loads and runs take is known by then.
    for checkpoint in CHECKPOINTS:
        await pair.service.run(backend="a", checkpoint_model=checkpoint)
    for name in "ab":
        await pair.service.drain(name)
    ids = [(await pair.service.submit(checkpoint_model=each))["job_id"] for each in CHECKPOINTS * 2]
    assert (await pair.service.client.post("/api/v1/backends/a/resume")).status == 200
    for job_id in ids:
        assert (await pair.service.finished(job_id))["status"] == "completed"
    first = await plain.fetchrow(
        "SELECT job_id, choice FROM job_attempts WHERE job_id = ANY ($1) ORDER BY claimed_at", ids
    )
    assert first["job_id"] == ids[1]
    assert '"overtook": 1' in first["choice"]
    assert await plain.fetchval("SELECT overtaken FROM generation_jobs WHERE id = $1", ids[0]) >= 1


XL, DREAM = CHECKPOINTS


@pytest.mark.parametrize("fault", [FaultKind.FOREIGN_PROMPT, FaultKind.RESTART, FaultKind.DROP_SOCKETS])
async def test_what_is_loaded_is_forgotten_when_it_may_be_gone(service, fault):
    await service.run(checkpoint_model=XL)
    memory = service.worker.pool.backends["standin"].memory
    assert memory.models == [f"checkpoints/{XL}"]
    await service.standin.state.apply(Fault(kind=fault))

    async def forgotten() -> bool:
        return not memory.models

    await eventually(forgotten)


async def test_a_run_that_failed_has_loaded_its_models_all_the_same(service):
    await service.standin.state.apply(Fault(kind=FaultKind.NODE_ERROR))
    assert (await service.run(checkpoint_model=XL, max_attempts=1))["status"] == "failed"
    assert service.worker.pool.backends["standin"].memory.models == [f"checkpoints/{XL}"]


async def test_models_that_ran_out_of_memory_are_avoided_there(service):
    await service.standin.state.apply(Fault(kind=FaultKind.OUT_OF_MEMORY))
    assert (await service.run(checkpoint_model=XL, max_attempts=1))["status"] == "failed"
    state = own_state(service.worker.pool.backends["standin"])
    assert (state.avoids, state.warm) == (frozenset({frozenset({f"checkpoints/{XL}"})}), frozenset())
    # As nobody else could, it tries again.
    assert (await service.run(checkpoint_model=XL))["status"] == "completed"


async def test_how_long_its_models_took_to_load_is_kept_with_an_attempt(make_pair, plain):
    pair = await make_pair()
    for _ in range(2):
        await pair.service.run(backend="a", checkpoint_model=XL)
    first, second = [row["load_s"] for row in await plain.fetch("SELECT load_s FROM job_attempts ORDER BY job_id")]
    assert first >= 1
    assert second == 0


async def test_a_job_goes_to_the_backend_that_has_its_models(service, start_standin, start_worker):
    """Without it the first that is asked would be given the job, and refuse it."""
    few = [await start_standin(checkpoints=(name,)) for name in (DREAM, XL)]
    urls = ",".join(f"{name}={each.url}" for name, each in zip("ab", few, strict=True))
    await service.exchange_worker(start_worker, urls)
    done = await service.run(checkpoint_model=XL)
    assert (done["status"], done["backend_name"], done["attempt"]) == ("completed", "b", 1)


async def test_jobs_that_cannot_run_here_hold_up_no_others(service, start_standin, start_worker, plain):
    few = [await start_standin(checkpoints=(name,)) for name in (DREAM, XL)]
    urls = ",".join(f"{name}={each.url}" for name, each in zip("ab", few, strict=True))
    await service.exchange_worker(start_worker, urls)
    await service.drain("b")
    waiting = [await service.submit(checkpoint_model=XL) for _ in range(CANDIDATES + 3)]
    assert (await service.run(checkpoint_model=DREAM))["backend_name"] == "a"
    assert await plain.fetchval("SELECT count(*) FROM job_attempts") == 1
    await service.client.post("/api/v1/backends/b/resume")
    for each in waiting:
        assert (await service.finished(each["job_id"]))["attempt"] == 1


async def test_a_preferred_backend_gets_the_job_though_it_is_not_the_first(make_pair):
    pair = await make_pair()
    for prefer in "bab":
        assert (await pair.service.run(checkpoint_model=XL, prefer=prefer))["backend_name"] == prefer
    await pair.service.drain("b")
    assert (await pair.service.run(checkpoint_model=XL, prefer="b"))["backend_name"] == "a"
