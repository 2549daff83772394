"""No job harms another: deadly and suspect jobs, backends that execute nothing any more, and devices that fail."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import ClientSession

from app.domain import breaker
from app.storage import attempts
from harness import BOTH_AGES, eventually
from worker.attempts import stop_prompt
from worker.comfyui import backend as backend_module
from worker.comfyui import vital_signs
from worker.comfyui.server_log import LogSays
from worker.standin.faults import Fault, FaultKind
from worker.standin.gpu_faults import GpuFault

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from harness import Service, StandinServer, Workers

    StartStandin = Callable[..., Awaitable[StandinServer]]

pytestmark = pytest.mark.slow


def graph(**middle: Any) -> dict[str, Any]:
    """A picture that goes through this node, if one is given, and is saved."""
    nodes: dict[str, Any] = {
        "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 255}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["3" if middle else "1", 0], "filename_prefix": "x"}},
    }
    if middle:
        (class_type,) = middle
        nodes["3"] = {"class_type": class_type, "inputs": {"image": ["1", 0], **middle[class_type]}}
    return nodes


def running_for(seconds: float) -> dict[str, Any]:
    """Fields of a job whose prompt runs so long, in steps that are told."""
    return {
        "job_type": "workflow",
        "workflow": graph(SlowProgress={"steps": 20, "seconds_per_step": seconds / 20}),
    }


def silent_for(seconds: float) -> dict[str, Any]:
    """Fields of a job whose prompt runs so long without a frame."""
    return {"job_type": "workflow", "workflow": graph(SilentNode={"seconds": seconds})}


async def reasons(service: Service) -> dict[str, str | None]:
    """What ails each backend, None of those that are well."""
    ready = await (await service.client.get("/health/ready")).json()
    told = {each["name"]: None if each["healthy"] else each["reason"] for each in ready["backends"]}
    return {name: told[name] for name in ("a", "b") if name in told}


async def events(service: Service, job_id: int) -> list[dict[str, Any]]:
    answer = await service.client.get(f"/api/v1/generation-jobs/{job_id}/events")
    return list((await answer.json())["items"])


async def phase(service: Service, job_id: int, wanted: str) -> None:
    """Wait until the job is in this phase."""

    async def there() -> bool:
        return bool((await service.job(job_id))["phase"] == wanted)

    await eventually(there)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Silences are looked into at once, and mean death sooner."""
    monkeypatch.setattr(backend_module, "LOOK_S", 0.1)
    monkeypatch.setattr(vital_signs, "QUIET_S", 0.3)
    monkeypatch.setattr(vital_signs, "DOUBT_S", 0.6)
    monkeypatch.setattr(vital_signs, "DEAD_S", dict.fromkeys(LogSays, 2.5))


@pytest.fixture
async def pair(service: Service, start_standin: StartStandin, start_worker: Workers) -> StandinServer:
    """A second backend, `b`, beside that of the service, which is `a` now; one worker drives both."""
    other = await start_standin()
    await service.exchange_worker(start_worker, f"a={service.standin.url},b={other.url}", comfyui_poll_seconds=0.5)
    return other


# A backend that executes nothing any more.


@BOTH_AGES
async def test_a_job_that_kills_its_backend_for_certain_is_poisonous_and_the_other_backend_lives(
    service: Service, pair: StandinServer
) -> None:
    await service.standin.state.apply(Fault(kind=FaultKind.DEAD_THREAD_AT_START))
    deadly = await service.submit(backend="a")

    async def executed() -> bool:
        return bool(service.standin.state.log.executions)

    await eventually(executed)
    innocent = [await service.submit() for _ in range(6)]
    ended = await service.finished(deadly["job_id"])
    assert (ended["status"], ended["error_code"], ended["attempt"]) == ("failed", "poisonous", 1)
    assert "not sent to another" in ended["error_message"]
    assert (await events(service, deadly["job_id"]))[-1]["data"]["error_code"] == "poisonous"
    done = [await service.finished(job["job_id"]) for job in innocent]
    assert {(job["status"], job["backend_name"]) for job in done} == {("completed", "b")}
    assert "stands still" in str((await reasons(service))["a"])
    page = await (await service.client.get(f"/monitor/jobs/{deadly['job_id']}")).text()
    assert "poisonous" in page


async def test_a_suspect_waits_until_nothing_else_does_and_then_has_a_backend_to_itself(
    service: Service, start_standin: StartStandin, start_worker: Workers
) -> None:
    await service.exchange_worker(start_worker, f"a={service.standin.url}", comfyui_stall_seconds=1)
    await service.standin.state.apply(Fault(kind=FaultKind.DEAD_THREAD_AT_START, logged=False))
    suspect = (await service.submit())["job_id"]
    await phase(service, suspect, "retrying")  # where it stays: there is no other backend, and this one is dead
    assert "once more, alone" in (await service.job(suspect))["error_message"]
    assert [each["data"].get("suspect") for each in await events(service, suspect) if each["event"] == "requeued"] == [
        True
    ]
    innocent = [(await service.submit(**running_for(0.3 + number / 100)))["job_id"] for number in range(4)]
    other = await start_standin()
    await start_worker(f"b={other.url}")
    done = await service.finished(suspect)
    assert (done["status"], done["backend_name"], done["attempt"]) == ("completed", "b", 2)
    assert [(await service.job(job_id))["status"] for job_id in innocent] == ["completed"] * 4
    runs = other.state.log.executions
    assert runs[-1].prompt_id == done["comfyui_prompt_id"]
    assert runs[-1].started >= max(run.ended or 0 for run in runs[:-1])


async def test_on_the_backend_that_stopped_under_it_a_suspect_keeps_its_place(
    service: Service, start_worker: Workers
) -> None:
    """Or whoever runs one ComfyUI, and restarts it, would have its job wait as long as anything waits."""
    # Without a pause before the next attempt it is before those that are sent later.
    await service.exchange_worker(start_worker, f"only={service.standin.url}", retry_base_seconds=0)
    suspect = (await service.submit(**running_for(1.0)))["job_id"]
    await phase(service, suspect, "executing")
    await service.standin.state.apply(Fault(kind=FaultKind.RESTART, seconds=2))

    async def given_up() -> bool:
        return any(each["event"] == "requeued" for each in await events(service, suspect))

    await eventually(given_up)
    # Each another graph, or ComfyUI has them in its cache.
    later = [(await service.submit(**running_for(10 + number / 100)))["job_id"] for number in range(8)]
    done = await service.finished(suspect)
    assert (done["status"], done["attempt"]) == ("completed", 2)
    assert "pending" in {(await service.job(job_id))["status"] for job_id in later}


async def test_a_job_under_which_two_backends_stopped_is_tried_no_more(
    service: Service, start_standin: StartStandin, start_worker: Workers
) -> None:
    others = [await start_standin() for _ in range(2)]
    for standin in (service.standin, *others):
        await standin.state.apply(Fault(kind=FaultKind.DEAD_THREAD_AT_START, logged=False))
    await service.exchange_worker(start_worker, f"a={service.standin.url}", comfyui_stall_seconds=1)
    job_id = (await service.submit())["job_id"]
    await phase(service, job_id, "retrying")
    await start_worker(f"b={others[0].url},c={others[1].url}", comfyui_stall_seconds=1)
    ended = await service.finished(job_id)
    assert (ended["status"], ended["error_code"], ended["attempt"]) == ("failed", "poisonous", 2)
    assert ended["error_message"].startswith("2 backends stopped")
    assert sum(len(standin.state.log.executions) for standin in others) == 1


async def test_a_retry_by_hand_begins_anew(service: Service, pair: StandinServer) -> None:
    await service.standin.state.apply(Fault(kind=FaultKind.DEAD_THREAD_AT_START))
    job_id = (await service.submit(backend="a"))["job_id"]
    await service.finished(job_id)
    await service.standin.state.apply(Fault(kind=FaultKind.RESTART))
    assert (await service.client.post(f"/api/v1/generation-jobs/{job_id}/retry")).status == 200
    again = await service.finished(job_id)
    assert (again["status"], again["backend_name"]) == ("completed", "a")


@BOTH_AGES
async def test_jobs_behind_somebody_elses_deadly_prompt_move_on_when_the_log_tells(
    service: Service, pair: StandinServer
) -> None:
    deadly = graph()
    deadly["2"]["inputs"]["images"] = {"__value__": ["99", 0]}
    async with ClientSession(service.standin.url) as foreign:
        body = {"prompt": deadly, "client_id": "somebody-else"}
        assert (await foreign.post("/prompt", json=body)).status == 200
    jobs = [await service.submit() for _ in range(4)]
    done = [await service.finished(job["job_id"]) for job in jobs]
    assert {(job["status"], job["backend_name"]) for job in done} == {("completed", "b")}

    async def noticed() -> bool:
        return "stands still" in str((await reasons(service))["a"])

    await eventually(noticed)


@pytest.mark.usefixtures("quick")
async def test_a_node_that_is_silent_for_long_is_left_alone(service: Service, pair: StandinServer) -> None:
    jobs = [await service.submit(**silent_for(4), backend="a"), await service.submit(**silent_for(4), backend="b")]
    done = [await service.finished(job["job_id"]) for job in jobs]
    assert [(job["status"], job["attempt"]) for job in done] == [("completed", 1)] * 2
    assert await reasons(service) == {"a": None, "b": None}


async def test_a_node_may_be_silent_for_longer_than_the_stall_limit_as_long_as_its_job_has_time(
    service: Service, start_worker: Workers
) -> None:
    await service.exchange_worker(
        start_worker, f"a={service.standin.url}", comfyui_stall_seconds=1, comfyui_poll_seconds=0.2
    )
    done = await service.finished((await service.submit(**silent_for(4), timeout_seconds=60))["job_id"])
    assert (done["status"], done["attempt"]) == ("completed", 1)
    assert await reasons(service) == {"a": None}


async def test_a_run_whose_worker_was_replaced_is_given_the_same_time(service: Service, start_worker: Workers) -> None:
    job = await service.submit(**silent_for(5), timeout_seconds=60)
    await phase(service, job["job_id"], "executing")
    await service.exchange_worker(start_worker, comfyui_stall_seconds=1, comfyui_poll_seconds=0.2)
    done = await service.finished(job["job_id"])
    assert (done["status"], done["attempt"]) == ("completed", 1)


async def test_an_execution_that_ended_within_a_node_is_noticed_when_its_time_is_over(
    service: Service, start_worker: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stop_prompt, "LATE_LIMIT_S", 2.0)
    await service.exchange_worker(
        start_worker, f"a={service.standin.url}", comfyui_stall_seconds=1, comfyui_poll_seconds=0.2
    )
    job = await service.submit(**running_for(60), timeout_seconds=3)
    await phase(service, job["job_id"], "executing")
    await service.standin.state.apply(Fault(kind=FaultKind.DEAD_THREAD, logged=False))

    async def noticed() -> bool:
        return "stands still" in str((await reasons(service))["a"])

    await eventually(noticed)
    await phase(service, job["job_id"], "retrying")
    assert (await service.job(job["job_id"]))["attempts"][0]["error_code"] == "backend_stalled"


@BOTH_AGES
@pytest.mark.usefixtures("quick")
async def test_a_silence_between_two_nodes_is_a_standstill_though_no_log_tells(
    service: Service, pair: StandinServer
) -> None:
    await service.standin.state.apply(Fault(kind=FaultKind.DEAD_THREAD_AT_START, logged=False))
    await service.submit(backend="a")

    async def noticed() -> bool:
        return "stands still" in str((await reasons(service))["a"])

    await eventually(noticed)


@pytest.mark.usefixtures("quick")
async def test_a_backend_that_falls_silent_between_two_nodes_is_given_no_more_until_it_is_heard(
    service: Service, pair: StandinServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vital_signs, "DEAD_S", dict.fromkeys(LogSays, 60.0))
    await service.standin.state.apply(Fault(kind=FaultKind.SLOW_FIRST_NODE, seconds=8))
    slow = await service.submit(**running_for(0.2), backend="a")

    async def begun() -> bool:
        return bool(service.standin.state.log.executions)

    await eventually(begun)

    async def in_doubt() -> bool:
        return service.worker.pool.backends["a"].load.free == 0

    await eventually(in_doubt)
    later = [await service.submit(**running_for(0.2 + number / 100)) for number in range(4)]
    done = [await service.finished(job["job_id"]) for job in later]
    assert {job["backend_name"] for job in done} == {"b"}
    whole = await service.finished(slow["job_id"])
    assert (whole["status"], whole["attempt"]) == ("completed", 1)
    again = await service.run(backend="a")
    assert (again["status"], again["backend_name"]) == ("completed", "a")


async def test_a_cancel_on_a_backend_that_is_dead_for_certain_is_confirmed(
    service: Service, pair: StandinServer
) -> None:
    job_id = (await service.submit(**running_for(30), backend="a"))["job_id"]
    await phase(service, job_id, "executing")
    await service.standin.state.apply(Fault(kind=FaultKind.DEAD_THREAD))
    await service.client.post(f"/api/v1/generation-jobs/{job_id}/cancel")
    assert (await service.finished(job_id))["status"] == "cancelled"


# A device that fails.


@pytest.mark.parametrize("gpu", GpuFault)
async def test_a_broken_device_swallows_no_job_while_another_backend_is_well(
    service: Service, pair: StandinServer, gpu: GpuFault
) -> None:
    await service.standin.state.apply(Fault(kind=FaultKind.BROKEN_GPU, gpu=gpu, times=None))
    jobs = [await service.submit() for _ in range(16)]
    done = [await service.finished(job["job_id"]) for job in jobs]
    assert {(job["status"], job["backend_name"]) for job in done} == {("completed", "b")}
    codes = {each["error_code"] for job in done for each in job["attempts"]}
    assert codes <= {"device_error", None}


async def test_of_two_broken_devices_and_a_good_one_no_job_is_failed_for_good(
    service: Service, pair: StandinServer, start_standin: StartStandin, start_worker: Workers
) -> None:
    """What one of them failed waits for the good one, though that is busy and the other has nothing to do."""
    good = await start_standin()
    await start_worker(f"c={good.url}")
    await service.backend_online(3)
    for standin in (service.standin, pair):
        await standin.state.apply(Fault(kind=FaultKind.BROKEN_GPU, times=None))
    jobs = [await service.submit(**running_for(1.5 + number / 100)) for number in range(6)]
    done = [await service.finished(job["job_id"]) for job in jobs]
    assert {(job["status"], job["backend_name"]) for job in done} == {("completed", "c")}
    assert {each["backend"] for job in done for each in job["attempts"]} == {"a", "b", "c"}


async def test_a_device_whose_jobs_succeed_elsewhere_makes_its_backend_ill_until_a_trial_succeeds(
    service: Service, pair: StandinServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(breaker, "FIRST_PAUSE_S", 0.5)
    monkeypatch.setattr(breaker, "DOUBT_PAUSE_S", 0.1)
    await service.standin.state.apply(Fault(kind=FaultKind.BROKEN_GPU, times=None))

    async def ill() -> bool:
        for _ in range(4):
            await service.submit()
        return "error of its device" in str((await reasons(service))["a"])

    await eventually(ill)
    metrics = await (await service.client.get("/metrics")).text()
    assert 'genonaut_backend_well{backend="a"} 0.0' in metrics
    assert 'genonaut_backend_well{backend="b"} 1.0' in metrics
    page = await (await service.client.get("/monitor/backends")).text()
    assert "failed with an error of its device" in page
    service.standin.state.faults.clear()

    async def well() -> bool:
        await service.submit()
        return (await reasons(service))["a"] is None

    await eventually(well)


async def test_one_users_bad_graphs_take_no_good_backend_out(
    service: Service, pair: StandinServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(breaker, "DOUBT_PAUSE_S", 0.1)
    monkeypatch.setattr(attempts, "HEAD_START", timedelta(seconds=1))
    words = {"message": "CUDA error: device-side assert triggered", "kind": "RuntimeError"}
    bad = {"job_type": "workflow", "workflow": graph(RaiseError=words), "user_id": "mallory"}
    jobs = [await service.submit(**bad) for _ in range(4)]
    done = [await service.finished(job["job_id"]) for job in jobs]
    assert {(job["status"], job["error_code"], job["attempt"]) for job in done} == {("failed", "device_error", 2)}
    assert {each["backend"] for job in done for each in job["attempts"]} == {"a", "b"}
    good = [await service.submit(backend=name) for name in ("a", "b")]
    assert [(await service.finished(job["job_id"]))["status"] for job in good] == ["completed"] * 2
    assert await reasons(service) == {"a": None, "b": None}


async def test_where_there_is_no_other_backend_a_device_gets_its_chances_one_after_the_other(service: Service) -> None:
    await service.standin.state.apply(Fault(kind=FaultKind.BROKEN_GPU, times=2))
    job = await service.run()
    assert (job["status"], job["attempt"]) == ("completed", 3)
    assert [each["error_code"] for each in job["attempts"]] == ["device_error", "device_error", None]
