"""A job may name a backend that it would like best: that is a hint, and no fault where the backend is not there."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
from integration.monitor_fixtures import read

from app.domain.job import ASKED_AGAIN
from app.keys import SUBMITTING, VIEWS
from harness import SMALL_BODY, Service

if TYPE_CHECKING:
    from aiohttp.test_utils import TestClient

JOBS = "/api/v1/generation-jobs"


async def test_the_preferred_backend_is_kept_and_told(service: Service) -> None:
    job = await service.submit(prefer="standin")
    assert (job["prefer"], job["backend"], job["warnings"]) == ("standin", None, [])
    (listed,) = (await (await service.client.get(JOBS)).json())["items"]
    assert (await service.job(job["job_id"]))["prefer"] == listed["prefer"] == "standin"
    assert (await service.submit())["prefer"] is None


async def test_who_prefers_a_backend_that_is_not_there_is_warned_and_served(service: Service) -> None:
    job = await service.submit(prefer="standln")
    (warning,) = job["warnings"]
    assert "'standln'" in warning
    assert "'standin'" in warning
    done = await service.finished(job["job_id"])
    assert (done["status"], done["backend_name"]) == ("completed", "standin")
    told = await (await service.client.post(f"{JOBS}/check", json=SMALL_BODY | {"prefer": "standln"})).json()
    assert (told["accepted"], told["warnings"], told["eligible_backends"]) == (True, [warning], ["standin"])


async def test_while_no_backend_is_known_none_is_missed(client: TestClient[Any, Any]) -> None:
    job = await (await client.post(JOBS, json=SMALL_BODY | {"prefer": "gpu"})).json()
    assert not [warning for warning in job["warnings"] if "gpu" in warning]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [({"backend": "a", "prefer": "a"}, "names no backend"), ({"prefer": ""}, ""), ({"prefer": 5}, "")],
)
async def test_what_is_no_preference_is_a_fault(client: TestClient[Any, Any], wrong: Any, said: str) -> None:
    answer = await client.post(JOBS, json=SMALL_BODY | wrong)
    (fault,) = (await answer.json())["errors"]
    assert (answer.status, fault["pointer"]) == (422, "/prefer")
    assert said in fault["detail"]


async def test_a_job_that_is_sent_again_prefers_the_same(service: Service) -> None:
    assert "prefer" in ASKED_AGAIN
    first = await service.run(prefer="standin")
    job, _ = await service.client.app[SUBMITTING].again(await service.client.app[VIEWS].whole(first["job_id"]))
    assert (await service.job(job.job_id))["prefer"] == "standin"
    form = await (await service.client.get(f"/monitor/new?again={first['job_id']}")).text()
    (select,) = re.findall(r'<select id="prefer".*?</select>', form, re.DOTALL)
    assert "<option selected>standin</option>" in select
    assert "Backend preferred" in (await read(service.client, f"/monitor/jobs/{first['job_id']}")).text
