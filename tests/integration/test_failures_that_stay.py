"""What cannot get better is not run again, and what another backend may do costs no attempt to find out."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from samples import running_for
from sqlalchemy import text

from harness import eventually
from worker.standin.faults import Fault, FaultKind, ViewFault

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from app.storage.database import Database
    from harness import Service, StandinServer
    from worker.main import WorkerProcess

    StartStandin = Callable[..., Awaitable[StandinServer]]
    StartWorker = Callable[..., Awaitable[WorkerProcess]]


def refusal(kind: str, details: str, status: int = 400, times: int | None = None) -> Fault:
    """A ComfyUI that refuses each graph for one fault of its sampler."""
    error = {"type": kind, "message": "Said by ComfyUI", "details": details, "extra_info": {}}
    said = {
        "error": {"type": "prompt_outputs_failed_validation", "message": "Prompt outputs failed validation"},
        "node_errors": {"sampler": {"errors": [error], "dependent_outputs": ["save"], "class_type": "KSampler"}},
    }
    body = json.dumps(said)
    return Fault(kind=FaultKind.REFUSE_PROMPT, status=status, body=body, content_type="application/json", times=times)


STUMBLES = Fault(kind=FaultKind.REFUSE_PROMPT, status=500, body="500 Internal Server Error", times=None)
LACKS = refusal("value_not_in_list", "ckpt_name: 'a' not in ['b']")
WRONG = refusal("return_type_mismatch", "model, received_type(CLIP) mismatch input_type(MODEL)")


async def ended(service: Service, **changes: Any) -> dict[str, Any]:
    """Submit a job, and return it when it has ended: between two attempts it may wait for a while."""
    return await service.finished((await service.submit(**changes))["job_id"])


def asked(standin: StandinServer) -> int:
    """How often the stand-in was sent a prompt."""
    return standin.state.log.requests["POST /prompt"]


async def reason(service: Service, name: str) -> Any:
    ready = await (await service.client.get("/health/ready")).json()
    return next(each["reason"] for each in ready["backends"] if each["name"] == name)


async def another(service: Service, start_standin: StartStandin, start_worker: StartWorker) -> StandinServer:
    """Start a second backend that is taken only when the first is avoided."""
    other = await start_standin()
    await start_worker(f"other={other.url}")
    await service.backend_online(2)
    return other


async def test_a_refusal_ends_the_job_at_once_in_comfyuis_words(service: Service) -> None:
    await service.standin.state.apply(WRONG)
    job = await ended(service)
    assert (job["status"], job["error_code"], job["attempt"]) == ("failed", "invalid_workflow", 1)
    assert "KSampler (node sampler): Said by ComfyUI: model, received_type(CLIP) mismatch" in job["error_message"]
    (attempt,) = job["attempts"]
    assert (attempt["node_id"], attempt["node_type"]) == ("sampler", "KSampler")
    assert asked(service.standin) == 1
    assert await reason(service, "standin") is None


async def test_a_refusal_of_the_same_nodes_is_not_looked_for_on_another_backend(
    service: Service, start_standin: StartStandin, start_worker: StartWorker
) -> None:
    other = await another(service, start_standin, start_worker)
    for standin in (service.standin, other):
        await standin.state.apply(WRONG)
    job = await ended(service)
    assert (job["status"], job["attempt"]) == ("failed", 1)
    assert asked(service.standin) + asked(other) == 1


@pytest.mark.slow
@pytest.mark.parametrize("fault", [LACKS, STUMBLES], ids=["lacks a model", "stumbles"])
async def test_what_a_backend_has_not_is_looked_for_elsewhere_and_uses_up_no_attempt(
    service: Service, start_standin: StartStandin, start_worker: StartWorker, fault: Fault
) -> None:
    await service.standin.state.apply(fault)
    other = await another(service, start_standin, start_worker)
    # So that the one that refuses it is the first.
    await service.drain("other")
    job_id = (await service.submit(max_attempts=1))["job_id"]

    async def refused() -> bool:
        return bool((await service.job(job_id))["attempt"] == 2)

    await eventually(refused)
    await service.client.post("/api/v1/backends/other/resume")
    job = await service.finished(job_id)
    assert (job["status"], job["backend_name"], job["attempt"]) == ("completed", "other", 2)
    assert [each["outcome"] for each in job["attempts"]] == ["retried", "completed"]
    assert job["attempts"][0]["error_code"] in ("not_offered_by_backend", "invalid_workflow")
    assert asked(other) == 1


@pytest.mark.parametrize(
    ("fault", "code", "sent"),
    [(LACKS, "not_offered_by_backend", 1), (STUMBLES, "invalid_workflow", 2)],
    ids=["lacks a model", "stumbles"],
)
async def test_what_no_backend_takes_fails_without_another_attempt(
    service: Service, fault: Fault, code: str, sent: int
) -> None:
    await service.standin.state.apply(fault)
    job = await ended(service)
    assert (job["status"], job["error_code"], job["attempt"]) == ("failed", code, 1)
    assert asked(service.standin) == sent
    assert await reason(service, "standin") is None
    assert service.executions() == {}


@pytest.mark.slow
async def test_of_two_backends_that_both_refuse_each_is_asked_once(
    service: Service, start_standin: StartStandin, start_worker: StartWorker
) -> None:
    other = await another(service, start_standin, start_worker)
    for standin in (service.standin, other):
        await standin.state.apply(LACKS)
    job = await ended(service, max_attempts=1)
    assert (job["status"], job["error_code"]) == ("failed", "not_offered_by_backend")
    assert (asked(service.standin), asked(other)) == (1, 1)


async def test_a_refusal_that_is_not_comfyuis_own_word_is_told_as_such(service: Service) -> None:
    await service.standin.state.apply(Fault(kind=FaultKind.REFUSE_PROMPT, status=403, body="<h1>no</h1>", times=None))
    alone = await ended(service)
    assert (alone["status"], alone["attempt"]) == ("failed", 1)
    assert "403" in alone["error_message"]


async def test_a_run_that_took_its_whole_time_is_not_made_again_there(service: Service) -> None:
    job = await ended(service, **running_for(30), timeout_seconds=1)
    assert (job["status"], job["error_code"], job["attempt"]) == ("failed", "timeout", 1)
    assert [str(each.outcome) for each in service.standin.state.log.executions] == ["interrupted"]


async def test_a_run_that_took_its_whole_time_is_made_once_more_where_it_may_be_faster(
    service: Service, start_standin: StartStandin, start_worker: StartWorker
) -> None:
    other = await another(service, start_standin, start_worker)
    job = await ended(service, **running_for(30), timeout_seconds=1)
    assert (job["status"], job["error_code"], job["attempt"]) == ("failed", "timeout", 2)
    assert sorted(each["backend"] for each in job["attempts"]) == ["other", "standin"]
    log = [*service.standin.state.log.executions, *other.state.log.executions]
    assert [str(each.outcome) for each in log] == ["interrupted"] * 2


async def test_when_nobody_else_takes_it_a_run_that_took_its_whole_time_fails_without_another(
    service: Service, database: Database, start_standin: StartStandin, start_worker: StartWorker
) -> None:
    other = await start_standin()
    aside = await start_worker(f"other={other.url}")
    await service.backend_online(2)
    await service.drain("other")
    job_id = (await service.submit(**running_for(30), timeout_seconds=1))["job_id"]

    async def waits() -> bool:
        return bool((await service.job(job_id))["attempt"] == 2)

    await eventually(waits)
    assert (await service.job(job_id))["status"] == "pending"
    async with database.transaction() as session:
        moment = "UPDATE generation_jobs SET available_at = now() - interval '6 minutes' WHERE id = :id"
        await session.execute(text(moment), {"id": job_id})
    await service.submit()  # whose turn finds the other one
    job = await service.finished(job_id)
    assert (job["status"], job["error_code"], job["attempt"]) == ("failed", "timeout", 2)
    assert len([each for each in service.standin.state.log.executions if str(each.outcome) == "interrupted"]) == 1
    aside.stop()


@pytest.mark.parametrize("how", [ViewFault.MISSING, ViewFault.EMPTY, ViewFault.NOT_AN_IMAGE])
async def test_a_file_that_is_not_there_or_damaged_costs_no_other_run(service: Service, how: ViewFault) -> None:
    await service.standin.state.apply(Fault(kind=FaultKind.VIEW, how=how, times=None))
    job = await ended(service)
    assert (job["status"], job["error_code"], job["attempt"]) == ("failed", "output_invalid", 1)
    assert set(service.executions().values()) == {1}
