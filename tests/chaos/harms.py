"""The promises about jobs and backends that harm others, checked on what is left at the end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tests.chaos import pictures
from tests.chaos.clients import Kind
from tests.chaos.evidence import Evidence, Violation

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.chaos.clients import Plan
    from tests.chaos.evidence import Row

MOST_DEATHS: Final = 2
"""The backend that finds the poison out, and one more."""
_COLOURED: Final = (Kind.SLOW, Kind.FIXED)


def poisons(evidence: Evidence) -> Iterator[Violation]:
    """A job that ends the execution thread of its ComfyUI ends one more at most, and is told to be poisonous."""
    for job_id, row, plan in planned(evidence):
        if plan.kind is not Kind.POISON:
            continue
        prompts = {attempt["prompt_id"] for attempt in evidence.attempts.get(job_id, [])}
        starts = [run for run in evidence.logs.executions() if run.prompt_id in prompts]
        # A prompt that a restarted ComfyUI does not know is sent again by whoever takes its attempt over, if nobody
        # lived to note that it had begun: that is one attempt all the same.
        if len({run.prompt_id for run in starts}) > MOST_DEATHS:
            where = ", ".join(f"{run.standin}/{run.life}" for run in starts)
            yield Violation("poison is contained", f"job {job_id} was started {len(starts)} times: {where}", (job_id,))
        if (row["status"], row["error_code"]) != ("failed", "poisonous"):
            told = f"{row['status']}, {row['error_code']}: {row['error_message']}"
            yield Violation("poison is told", f"job {job_id} is {told}", (job_id,))


def broken_gpus(evidence: Evidence) -> Iterator[Violation]:
    """No job fails for good because one device is broken: there are others."""
    for job_id, row, plan in planned(evidence):
        attempts = evidence.attempts.get(job_id, [])
        if row["status"] != "failed" or plan.kind in (Kind.FAILING, Kind.POISON) or not attempts:
            continue
        last = attempts[-1]
        ended = (last["ended_at"] or last["claimed_at"]).timestamp()
        if evidence.logs.was_broken(last["backend_name"], last["claimed_at"].timestamp(), ended):
            told = f"{row['error_code']}: {row['error_message']}"
            text = f"job {job_id} failed on {last['backend_name']} while its device was broken ({told})"
            yield Violation("a broken device costs no job", text, (job_id,))


def colors(evidence: Evidence) -> Iterator[Violation]:
    """Each completed job has its own picture, whatever its saver did to the files of others."""
    for job_id, row, plan in planned(evidence):
        if row["status"] != "completed" or plan.kind not in _COLOURED or plan.picture is not None:
            continue
        for output in evidence.outputs.get(row["content_id"], []):
            found = pictures.color_of(evidence.store / output["path"])
            if found != plan.number:
                whose = f"{found:#08x} instead of {plan.number:#08x}" if found is not None else "no picture"
                text = f"job {job_id} ({plan.kind}): {output['path']} is {whose}"
                yield Violation("each job its own picture", text, (job_id,))


def painted_over(evidence: Evidence) -> Iterator[Violation]:
    """Each completed job that starts from a picture was made from its own one."""
    for job_id, row, plan in planned(evidence):
        if row["status"] != "completed" or plan.picture is None:
            continue
        for output in evidence.outputs.get(row["content_id"], []):
            found = pictures.color_of(evidence.store / output["path"])
            if found is None or pictures.picture_of(found) != plan.picture:
                whose = f"from picture {pictures.picture_of(found)}" if found is not None else "no picture"
                text = f"job {job_id} ({plan.kind}): {output['path']} is {whose} instead of {plan.picture}"
                yield Violation("each job from its own picture", text, (job_id,))


def was_suspected(evidence: Evidence, job_id: int) -> bool:
    """Whether two backends died under a job, so that it had to be taken for the cause, though it was not."""
    attempts = evidence.attempts.get(job_id, [])
    died = [
        attempt for attempt in attempts
        if attempt["ended_at"] and evidence.logs.was_harmed(
            attempt["backend_name"], attempt["claimed_at"].timestamp(), attempt["ended_at"].timestamp()
        )
    ]  # fmt: skip
    return len(died) >= MOST_DEATHS


def planned(evidence: Evidence) -> Iterator[tuple[int, Row, Plan]]:
    """Yield each job with the plan that it comes from."""
    plans = {str(plan.number): plan for plan in evidence.record.planned}
    for job_id, row in evidence.jobs.items():
        if plan := plans.get(str(row["tag"]).partition(":")[0]):
            yield job_id, row, plan
