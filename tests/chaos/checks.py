"""The promises, checked on what PostgreSQL holds and on what the stand-ins executed. Each check yields violations."""

from __future__ import annotations

from collections import Counter, defaultdict
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from app.domain.job import TRANSITIONS, JobEvent, Phase
from app.domain.scheduling.reach import MOST_OVERTAKEN
from tests.chaos.clients import TERMINAL, Kind
from tests.chaos.evidence import Evidence, Violation
from tests.chaos.harms import was_suspected
from tests.chaos.sweeps import is_excused

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.chaos.evidence import Row
    from tests.chaos.executions import Execution

FOUND_OUT: Final = "output_not_own"
MOST_FOUND_OUT: Final = 6
"""Runs that three backends have at once."""
LEGITIMATE: Final = frozenset({"backend_lost", "backend_forgot", "backend_stalled", "backend_unclear"})
"""Reasons for another attempt, when the backend itself was hit."""
AFTER_S: Final = 2.0
"""A backend that has come back so long before a claim may not have been found again."""
STOP_S: Final = 0.25
"""The confirmation's time is that at which its transaction began; the server's log is written a moment later."""
_CONFIRMED: Final = (JobEvent.CANCELLED, JobEvent.WITHDRAWN)


def accepted_jobs(evidence: Evidence) -> Iterator[Violation]:
    """What was answered 201 is there, once; what was refused is not; an unclear POST left one job at most."""
    by_tag: dict[str, list[int]] = defaultdict(list)
    for row in evidence.jobs.values():
        by_tag[row["tag"]].append(row["id"])
    for each in evidence.record.tries:
        found = by_tag.pop(each.tag, [])
        if len(found) > 1:
            yield Violation("accepted once", f"POST {each.tag} made jobs {found}", tuple(found))
        if each.status == 201 and found != [each.job_id]:
            jobs = (each.job_id,) if each.job_id else ()
            yield Violation("no job is lost", f"POST {each.tag} answered job {each.job_id}, there is {found}", jobs)
    for tag, found in by_tag.items():
        yield Violation("accepted once", f"jobs {found} come from POST {tag}, which nobody sent", tuple(found))


def ended_jobs(evidence: Evidence) -> Iterator[Violation]:
    """Each job has ended, and as its plan lets it end; one under which two backends died may be taken for poison."""
    asked = {each.job_id for each in evidence.record.asked if each.what == "cancel"}
    meant_to_fail = (Kind.FAILING, Kind.POISON)
    failing = {str(plan.number) for plan in evidence.record.planned if plan.kind in meant_to_fail}
    for job_id, row in evidence.jobs.items():
        status = row["status"]
        if status not in TERMINAL:
            yield Violation("every job ends", f"job {job_id} is {status} ({row['phase']})", (job_id,))
            continue
        wanted = "failed" if str(row["tag"]).partition(":")[0] in failing else "completed"
        if status == "cancelled" and job_id not in asked:
            yield Violation("as asked for", f"job {job_id} is cancelled, and nobody asked for it", (job_id,))
        elif wanted == "completed" and _failed_by_right(evidence, job_id, row):
            continue
        elif status not in (wanted, "cancelled"):
            told = f"{row['error_code']}: {row['error_message']}"
            yield Violation("as asked for", f"job {job_id} is {status} instead of {wanted} ({told})", (job_id,))
        if row["worker_id"] or row["lease_expires_at"]:
            yield Violation("nothing is stuck", f"job {job_id} is {status} and still has a lease", (job_id,))


def _failed_by_right(evidence: Evidence, job_id: int, row: Row) -> bool:
    """Whether a job that should be completed was taken for poison with reason, or its picture had had its day."""
    suspected = row["error_code"] == "poisonous" and was_suspected(evidence, job_id)
    return suspected or is_excused(evidence, job_id)


def histories(evidence: Evidence) -> Iterator[Violation]:
    """The events of each job are gapless, and follow the table of transitions to where the job is now."""
    for job_id, row in evidence.jobs.items():
        events = evidence.events.get(job_id, [])
        numbers = [event["seq"] for event in events]
        if numbers != list(range(1, row["seq"] + 1)):
            yield Violation("gapless history", f"job {job_id} is at {row['seq']} with events {numbers}", (job_id,))
            continue
        if (events[0]["event"], events[0]["phase"], events[0]["attempt"]) != ("submitted", "queued", 1):
            yield Violation("lawful history", f"job {job_id} began with {events[0]}", (job_id,))
        for before, after in pairwise(events):
            if not _lawful(before, after):
                step = f"{before['phase']}/{before['attempt']} –{after['event']}→ {after['phase']}/{after['attempt']}"
                yield Violation("lawful history", f"job {job_id}: {step}", (job_id,))
        if (events[-1]["phase"], events[-1]["attempt"]) != (row["phase"], row["attempt"]):
            yield Violation("lawful history", f"job {job_id} is not where its history ends", (job_id,))
        ends = sum(event["phase"] in TERMINAL for event in _transitions(events))
        if ends != 1 + sum(event["event"] == JobEvent.RETRIED for event in events) and row["status"] in TERMINAL:
            yield Violation("ended once", f"job {job_id} ended {ends} times", (job_id,))


def cancels(evidence: Evidence) -> Iterator[Violation]:
    """No attempt of a cancelled job begins, or goes on, after the confirmation; what was answered is true."""
    runs = _runs(evidence)
    for job_id, events in evidence.events.items():
        for event in events:
            if event["event"] not in _CONFIRMED:
                continue
            at = event["at"].timestamp()
            for attempt in evidence.attempts.get(job_id, []):
                if attempt["number"] > event["attempt"]:
                    continue
                for run in runs[attempt["prompt_id"]]:
                    told = f"job {job_id}, {run.prompt_id} on {run.standin}/{run.life} ({run.outcome})"
                    if run.started > at:
                        late = f"{told} began {run.started - at:.3f} s after the confirmation"
                        yield Violation("cancelled means stopped", late, (job_id,))
                    elif (
                        run.outcome != "lost"
                        and evidence.logs.is_last_life(run)
                        and (run.ended is None or run.ended > at + STOP_S)
                    ):
                        late = f"{run.ended - at:.3f} s" if run.ended else "for ever"
                        yield Violation("cancelled means stopped", f"{told} went on for {late}", (job_id,))
    for asked in evidence.record.asked:
        if asked.what == "cancel" and asked.status == 200:
            history = [each["event"] for each in evidence.events.get(asked.job_id, ())]
            if asked.told != "cancelled" or not set(history) & set(_CONFIRMED):
                text = f"cancel of job {asked.job_id} was answered 200 {asked.told}; its history: {history}"
                yield Violation("cancelled means stopped", text, (asked.job_id,))


def executions(evidence: Evidence) -> Iterator[Violation]:
    """No prompt is executed twice in one life of a server, none on two servers, none that nobody asked for."""
    for prompt_id, runs in _runs(evidence).items():
        attempt = evidence.attempt_of_prompt.get(prompt_id)
        if attempt is None:
            yield Violation("executed once", f"prompt {prompt_id} belongs to no attempt: {runs}")
            continue
        jobs = (attempt["job_id"],)
        told = f"job {jobs[0]}, attempt {attempt['number']}"
        where = Counter((run.standin, run.life) for run in runs)
        if max(where.values()) > 1 or len({run.standin for run in runs}) > 1:
            yield Violation("executed once", f"{told}: prompt {prompt_id} was executed {_shown(runs)}", jobs)
        elif any(run.ended is None and evidence.logs.is_last_life(run) for run in runs):
            yield Violation("nothing is stuck", f"{told}: {prompt_id} still runs: {_shown(runs)}", jobs)


def attempts(evidence: Evidence) -> Iterator[Violation]:
    """Another attempt only after one that failed for a reason that stands; work that was done is not thrown away."""
    runs, logs = _runs(evidence), evidence.logs
    for job_id, rows in evidence.attempts.items():
        last = rows[-1]
        for row in rows:
            began, name = row["claimed_at"].timestamp(), row["backend_name"]
            ended = row["ended_at"].timestamp() if row["ended_at"] else None
            if ended is None:
                yield Violation("every attempt ends", f"job {job_id}: attempt {row['number']} has no end", (job_id,))
                continue
            hit = logs.was_harmed(name, began - AFTER_S, ended)
            learnt = row["error_code"] == FOUND_OUT
            legitimate = (row["error_code"] in LEGITIMATE and hit) or logs.was_broken(name, began, ended) or learnt
            if row["outcome"] == "retried" and not legitimate:
                why = f"{row['error_code']} ({row['error_message']}) with {name} {'hit' if hit else 'unharmed'}"
                yield Violation("retried for a reason", f"job {job_id}: attempt {row['number']}: {why}", (job_id,))
            done = [run for run in runs[row["prompt_id"]] if run.outcome == "success"]
            harmed = bool(done) and logs.was_harmed(name, done[0].started, ended)
            if done and row["outcome"] == "retried" and not harmed and not learnt:
                text = f"job {job_id}: attempt {row['number']} was executed, and then given up: {row['error_code']}"
                yield Violation("no work is thrown away", text, (job_id,))
            if row is last and row["outcome"] == "completed" and not done and not hit:
                yield Violation("executed once", f"job {job_id} is completed and was never executed", (job_id,))


def found_out(evidence: Evidence) -> Iterator[Violation]:
    """A saver that does not use its folder is found out by the runs that a worker has under way, and by no more."""
    rows = [row for each in evidence.attempts.values() for row in each]
    found = [row for row in rows if row["error_code"] == FOUND_OUT]
    workers = {row["worker_id"] for row in rows}
    if len(found) > MOST_FOUND_OUT * len(workers):
        jobs = tuple({row["job_id"] for row in found})
        text = f"{len(found)} runs of {len(workers)} workers saved outside their folders"
        yield Violation("no work is thrown away", text, jobs)


def overtaken(evidence: Evidence) -> Iterator[Violation]:
    """Nobody is passed over more often than is allowed; of claims at the same moment each may do so once."""
    workers = {row["worker_id"] for each in evidence.attempts.values() for row in each}
    for job_id, row in evidence.jobs.items():
        if row["overtaken"] > MOST_OVERTAKEN + len(workers) - 1:
            yield Violation(
                "nobody waits for ever", f"job {job_id} was passed over {row['overtaken']} times", (job_id,)
            )


def _lawful(before: Row, after: Row) -> bool:
    """Whether the table allows this step; an event that is not in it, a repair, changes nothing."""
    try:
        move = TRANSITIONS[JobEvent(after["event"])]
    except (KeyError, ValueError):
        return (before["phase"], before["attempt"]) == (after["phase"], after["attempt"])
    steps = 1 if after["event"] in (JobEvent.REQUEUED, JobEvent.RETRIED) else 0
    return (
        Phase(before["phase"]) in move.sources
        and move.target == after["phase"]
        and after["attempt"] == before["attempt"] + steps
    )


def _transitions(events: list[Row]) -> list[Row]:
    known = {str(event) for event in TRANSITIONS}
    return [event for event in events if event["event"] in known]


def _runs(evidence: Evidence) -> dict[str, list[Execution]]:
    found: dict[str, list[Execution]] = defaultdict(list)
    for run in evidence.logs.executions():
        found[run.prompt_id].append(run)
    return found


def _shown(runs: list[Execution]) -> str:
    return ", ".join(f"{run.standin}/{run.life} at {run.started:.3f} ({run.outcome})" for run in runs)
