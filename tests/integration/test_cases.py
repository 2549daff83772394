"""The service held to every graph whose right answer is known: behind it each ends as it ended in ComfyUI."""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

import pytest
from integration.known_cases import AGES, DATA, Case, cases_of, fill

from harness import Service
from worker.comfyui import backend as backend_module
from worker.comfyui import vital_signs
from worker.comfyui.server_log import LogSays

BETTER: Final[Mapping[str, str]] = {
    "ui_gif": "its one file is not there: nothing was kept, so the job is not called completed",
    "extra_input_link_bad_slot": "with its source cached it ends 0.33's execution thread: refused where that is seen",
}
"""Graphs with which the service does otherwise than ComfyUI on purpose, and why."""

REFUSED_AT_ONCE: Final = re.compile(r"\w+ after [01]: ComfyUI refused the workflow")


@pytest.fixture
def quick_death(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a dead backend be noticed in a moment."""
    monkeypatch.setattr(backend_module, "LOOK_S", 0.1)
    monkeypatch.setattr(vital_signs, "QUIET_S", 0.3)
    monkeypatch.setattr(vital_signs, "DOUBT_S", 0.6)
    monkeypatch.setattr(vital_signs, "DEAD_S", dict.fromkeys(LogSays, 1.2))


@pytest.fixture
def start_service(client: Any, start_standin: Any, start_worker: Any) -> Callable[..., Any]:
    """Start the service in front of one stand-in of an age."""

    async def start(age: str) -> Service:
        standin = await start_standin(version=age, checkpoints=("tiny-random.safetensors",))
        fill(standin)
        worker = await start_worker(f"standin={standin.url}")
        service = Service(client, standin, worker)
        await service.backend_online()
        return service

    return start


async def submitted(service: Service, graph: dict[str, Any], **more: Any) -> tuple[int, dict[str, Any]]:
    """Submit a case's graph; return status and body of the answer."""
    body = {"user_id": "cases", "job_type": "workflow", "workflow": graph, "max_attempts": 2, **more}
    answer = await service.client.post("/api/v1/generation-jobs/", json=body)
    return answer.status, await answer.json()


async def outcome(service: Service, case: Case) -> tuple[str, list[str], str]:
    """Run a case through the service; return how it ended, what was kept, and what is said of it."""
    if case.first is not None:
        _, job = await submitted(service, case.first)
        await service.finished(job["job_id"])
    status, body = await submitted(service, case.graph, overrides=case.overrides)
    if status != 201:
        codes = [error["code"] for error in body.get("errors", [])]
        return "refused", [], str(codes or body)
    job = await service.finished(body["job_id"])
    kept = [(shown_as(case, one), one["kind"]) for one in job["outputs"]]
    data = {shown for shown, kind in kept if kind == "data"}
    said = f"{job['error_code']} after {job['attempt']}: {job['error_message']}"
    found = sorted([shown for shown, _ in kept if shown not in data] + [f"{shown} as data" for shown in data])
    return {"completed": "success", "failed": "error"}.get(job["status"], job["status"]), found, said


def shown_as(case: Case, output: Mapping[str, Any]) -> str:
    """Return an output as node and key; a picture that came by the WebSocket alone has no key."""
    key = (output.get("source") or {}).get("key", output["kind"])
    return f"{output['node_id']}.{'sent' if output['node_id'] in case.sending_nodes else key}"


def is_right(case: Case, end: str, kept: list[str], said: str) -> bool:
    """Tell whether the service did with a case what ComfyUI did.

    What is no file and no text is one output for each key, however many values there are. What custom nodes take cannot
    be known before: of a graph with one of them ComfyUI's own refusal may be what ends the job, at once and once.
    """
    if case.end == "refused":
        late = end == "error" and REFUSED_AT_ONCE.match(said) is not None
        return end == "refused" or (late and case.has_custom_nodes)
    expected = [f"{one} as data" if f"{one} as data" in kept else one for one in (*case.outputs, *case.sent)]
    once = {one for one in expected if one.endswith(" as data")}
    return end == case.end and kept == sorted([one for one in expected if one not in once] + list(once))


@pytest.mark.slow
@pytest.mark.parametrize("age", AGES)
async def test_every_graph_ends_behind_the_service_as_it_ended_in_comfyui(age: str, start_service: Any) -> None:
    service = await start_service(age)
    differ = {}
    for case in cases_of(age):
        if case.end == "dead" or case.name in BETTER:
            continue
        end, kept, said = await outcome(service, case)
        if not is_right(case, end, kept, said):
            differ[case.name] = {"expected": (case.end, case.outputs), "found": (end, kept, said)}
    assert differ == {}


DEADLY: Final = [case for case in cases_of("0.33.0") if case.end == "dead"]


@pytest.mark.usefixtures("quick_death")
@pytest.mark.parametrize("case", DEADLY, ids=[case.name for case in DEADLY])
async def test_a_graph_that_ends_comfyuis_thread_is_refused_or_fails_and_is_sent_to_one_backend(
    case: Case, start_service: Any, start_standin: Any, start_worker: Any
) -> None:
    service = await start_service("0.33.0")
    end, kept, said = await outcome(service, case)
    assert end in ("refused", "error"), said
    assert kept == []


async def test_a_graph_whose_one_file_is_not_there_fails_once(start_service: Any) -> None:
    service = await start_service("0.33.0")
    (case,) = [case for case in cases_of("0.33.0") if case.name == "ui_gif"]
    end, _, said = await outcome(service, case)
    assert end == "error"
    assert "after 1:" in said


def report(name: str) -> dict[str, Any]:
    """Return a case after a public report."""
    found: dict[str, Any] = json.loads((DATA / "cases" / "reports" / f"{name}.json").read_text())
    return found


@pytest.mark.parametrize(
    ("name", "texts"),
    [("tags_are_no_output", ["1girl, solo", "lamp"]), ("text_in_letters", ["A cat sits on the mat."])],
)
async def test_what_a_node_says_in_words_is_kept_as_it_was_meant(
    name: str, texts: list[str], start_service: Any
) -> None:
    service = await start_service("0.33.0")
    ((node, ui),) = report(name)["history_outputs"].items()
    graph = {node: {"class_type": "ToldUi", "inputs": {"ui": json.dumps(ui), "raw": True}}}
    job = await service.run(job_type="workflow", workflow=graph)
    assert (job["status"], job["attempt"]) == ("completed", 1)
    assert [await text_of(service, output) for output in job["outputs"]] == texts


async def text_of(service: Service, output: Mapping[str, Any]) -> str:
    """Return the text that an output is."""
    return str(await (await service.client.get(output["url"])).text())


async def test_a_picture_that_only_the_websocket_brings_is_an_output(start_service: Any) -> None:
    service = await start_service("0.33.0")
    picture = {"class_type": "EmptyImage", "inputs": {"width": 16, "height": 16, "batch_size": 2, "color": 7}}
    graph = {"1": picture, "2": {"class_type": "SaveImageWebsocket", "inputs": {"images": ["1", 0]}}}
    job = await service.run(job_type="workflow", workflow=graph)
    assert (job["status"], [output["node_id"] for output in job["outputs"]]) == ("completed", ["2", "2"])


async def test_an_empty_text_costs_no_second_run_and_no_picture(start_service: Any) -> None:
    service = await start_service("0.33.0")
    job = await service.run(job_type="workflow", workflow=report("empty_text_reruns_the_gpu")["workflow"])
    assert (job["status"], job["attempt"]) == ("completed", 1)
    assert "3" in [output["node_id"] for output in job["outputs"]]
