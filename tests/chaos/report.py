"""What a run tells: the table of faults with their recoveries, and for each violation all that is known of its jobs."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Any, Final

from app.domain.message import SEQ_STRIDE
from tests.chaos.evidence import Violation
from tests.chaos.schedule import HEAVY, KILLS, TARGETS_S, Fault

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from tests.chaos.evidence import Evidence
    from tests.chaos.faults import Injection

AFTERMATH_S: Final = 6.0
"""So long after a kill or an outage a restart measures both, and is not held against the target of a restart."""
MOST_LINES: Final = 60
MOST_SHOWN: Final = 12


@dataclass
class Recovery:
    """How one injection was recovered from."""

    injection: Injection
    seconds: dict[str, float] = field(default_factory=dict)
    """Of whom → how long."""
    mixed: bool = False
    """Another fault was at work too."""

    @property
    def late(self) -> dict[str, float]:
        """Whoever took longer than the target."""
        target = TARGETS_S.get(self.injection.planned.fault)
        return {who: took for who, took in self.seconds.items() if target is not None and took > target}


def recoveries(evidence: Evidence, injections: Sequence[Injection]) -> list[Recovery]:
    """Measure from each injection to the next sign of life of whom it hit."""
    signs = _signs(evidence)
    found = []
    for injection in injections:
        if injection.backend or injection.worker_pid:
            injection.jobs = _hit_then(evidence, injection)
        recovery = Recovery(injection, mixed=_is_mixed(injection, injections))
        for job_id in injection.jobs:
            took = _next_sign(signs.get(job_id, []), injection)
            if took is not None:
                recovery.seconds[f"job {job_id}"] = took
        waits = [_next_sign(signs.get(job_id, []), injection) for job_id in injection.waiting]
        if first := [took for took in waits if took is not None]:
            recovery.seconds["the first waiting job"] = min(first)
        for number, took in enumerate(injection.answered_s):
            recovery.seconds[f"app answer {number}"] = took
        if injection.planned.fault is Fault.APP_KILL:
            recovery.seconds |= _reconnections(evidence, injection)
        found.append(recovery)
    return found


def missed_targets(found: Sequence[Recovery]) -> tuple[list[Violation], list[str]]:
    """Return the recoveries that took too long, and those that did so with another fault at work.

    A kill has its target whatever else is at work, but for a job whose ComfyUI stood still at that time: its next sign
    of life has to wait until that is noticed, for which there is no target.
    """
    missed, excused = [], []
    for recovery in found:
        fault = recovery.injection.planned.fault
        for who, took in recovery.late.items():
            text = f"{fault} at {recovery.injection.at:.1f}: {who} after {took:.1f} s, target {TARGETS_S[fault]:.0f} s"
            if (recovery.mixed and fault not in KILLS) or _stood_still(who, recovery, found):
                excused.append(text)
            else:
                jobs = (int(who.removeprefix("job ")),) if who.startswith("job ") else ()
                missed.append(Violation("recovery target", text, jobs))
    return missed, excused


def _stood_still(who: str, recovery: Recovery, found: Sequence[Recovery]) -> bool:
    """Whether the execution thread of a job's ComfyUI was dead while the job was to recover from something else."""
    began, ended = recovery.injection.at, recovery.injection.since + recovery.seconds[who]
    return any(
        other.injection.at < ended and began < other.injection.since + other.seconds[who]
        for other in found
        if other.injection.planned.fault in (Fault.DEAD_THREAD, Fault.POISON) and who in other.seconds
    )


def table(found: Sequence[Recovery]) -> str:
    """Return the table of faults."""
    rows = [("fault", "times", "alone", "jobs hit", "recovery p50", "max", "target")]
    for fault in Fault:
        mine = [recovery for recovery in found if recovery.injection.planned.fault is fault]
        if not mine:
            continue
        took = [seconds for recovery in mine for seconds in recovery.seconds.values()]
        p50, most = (f"{median(took):.2f} s", f"{max(took):.2f} s") if took else ("–", "–")
        hit = sum(len(recovery.injection.jobs) for recovery in mine)
        target = f"{TARGETS_S[fault]:.0f} s" if fault in TARGETS_S else "–"
        alone = sum(not recovery.mixed for recovery in mine)
        rows.append((fault.value, str(len(mine)), str(alone), str(hit), p50, most, target))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def violations_told(evidence: Evidence, violations: Sequence[Violation]) -> str:
    """Return the violations by rule, and everything that is known of the jobs in question."""
    by_rule: dict[str, list[Violation]] = defaultdict(list)
    for violation in violations:
        by_rule[violation.rule].append(violation)
    lines = []
    for rule, found in by_rule.items():
        lines.append(f"✗ {rule}: {len(found)}")
        lines += [f"    {violation.text}" for violation in found[:MOST_SHOWN]]
    jobs = dict.fromkeys(job_id for found in by_rule.values() for each in found[:3] for job_id in each.job_ids[:3])
    for job_id in list(jobs)[:MOST_SHOWN]:
        lines += ["", *job_told(evidence, job_id)]
    return "\n".join(lines)


def job_told(evidence: Evidence, job_id: int) -> list[str]:
    """Return a job's events, attempts, executions, frames and log lines."""
    row = evidence.jobs.get(job_id)
    lines = [f"── job {job_id}: " + (f"{row['phase']}, tag {row['tag']}" if row else "not in the database")]
    for event in evidence.events.get(job_id, []):
        at = event["at"].timestamp()
        lines.append(f"  {at:.3f} event {event['seq']} {event['event']} → {event['phase']}/{event['attempt']} "
                     f"by {event['actor']} {event['data']}")  # fmt: skip
    prompts = []
    for attempt in evidence.attempts.get(job_id, []):
        prompts.append(attempt["prompt_id"])
        told = {key: _plain(value) for key, value in attempt.items() if value is not None and key != "job_id"}
        lines.append(f"  attempt {told}")
    lines += [f"  {run}" for run in evidence.logs.executions() if run.prompt_id in prompts]
    lines += [f"  {asked}" for asked in evidence.record.asked if asked.job_id == job_id]
    for connection in evidence.record.connections:
        if job_id in connection.job_ids:
            lines.append(f"  socket of client {connection.number} at app{connection.app}: {connection.opened_at:.3f} "
                         f"to {connection.closed_at:.3f}, {connection.close_code}")  # fmt: skip
            mine = [(at, frame) for at, frame in connection.frames if frame.get("job_id") == job_id]
            lines += [f"    {at:.3f} {json.dumps(frame)}" for at, frame in mine[:MOST_LINES]]
    return lines + list(_log_lines(evidence.folder, job_id, prompts))


def write_evidence(evidence: Evidence, injections: Sequence[Injection]) -> Path:
    """Keep everything in one file of the run's folder."""
    path = evidence.folder / "evidence.json"
    whole = {
        "injections": [
            {"fault": each.planned.fault, "at": each.at, "since": each.since, "until": each.until, "jobs": each.jobs,
             "waiting": each.waiting, "note": each.note, "target": each.planned.target} for each in injections
        ],
        "jobs": list(evidence.jobs.values()),
        "events": evidence.events,
        "attempts": evidence.attempts,
        "executions": [str(run) for run in evidence.logs.executions()],
        "harms": evidence.logs.harms,
        "asked": [str(asked) for asked in evidence.record.asked],
        "tries": [str(each) for each in evidence.record.tries],
        "connections": [
            {"client": each.number, "app": each.app, "jobs": each.job_ids, "opened": each.opened_at,
             "closed": each.closed_at, "code": each.close_code, "frames": each.frames}
            for each in evidence.record.connections
        ],
    }  # fmt: skip
    path.write_text(json.dumps(whole, default=_plain, indent=1))
    return path


def _log_lines(folder: Path, job_id: int, prompts: Sequence[str]) -> Iterator[str]:
    wanted = [f"job {job_id}:", f"job {job_id} ", f"[{job_id}]", *prompts]
    found = [
        (line[:23], f"  {log.stem}: {line}")
        for log in folder.glob("logs/*.log")
        for line in log.read_text(errors="replace").splitlines()
        if any(each in line for each in wanted)
    ]
    yield from (line for _, line in sorted(found)[:MOST_LINES])


def _signs(evidence: Evidence) -> dict[int, list[tuple[float, int]]]:
    """Return for each job the times at which a client saw it go on, with the frame's number."""
    signs: dict[int, list[tuple[float, int]]] = defaultdict(list)
    revoked = {each.owner for each in evidence.record.revocations}
    for connection in evidence.record.connections:
        for at, frame in connection.frames:
            signs[frame["job_id"]].append((at, frame["seq"]))
    for job_id, events in evidence.events.items():
        # Who follows a job with a key that is revoked just then sees nothing of it, though it goes on.
        if job_id not in signs or evidence.record.owners.get(job_id) in revoked:
            signs[job_id] += [(event["at"].timestamp(), event["seq"] * SEQ_STRIDE) for event in events]
    return {job_id: sorted(found) for job_id, found in signs.items()}


def _next_sign(signs: Sequence[tuple[float, int]], injection: Injection) -> float | None:
    known = max((seq for at, seq in signs if at <= injection.at), default=-1)
    later = [at for at, seq in signs if at > injection.at and seq > known]
    return max(0.0, later[0] - injection.since) if later else None


def _hit_then(evidence: Evidence, injection: Injection) -> list[int]:
    """Return the jobs that ran on the backend or worker when the fault came, by their histories."""
    found = []
    for job_id, attempts in evidence.attempts.items():
        began = [row for row in attempts if row["claimed_at"].timestamp() <= injection.at]
        if not began or (began[-1]["ended_at"] and began[-1]["ended_at"].timestamp() <= injection.at):
            continue
        takers = [event for event in evidence.events[job_id] if event["event"] in ("claimed", "taken_over")]
        takers = [event["actor"] for event in takers if event["at"].timestamp() <= injection.at]
        on_worker = bool(takers) and f":{injection.worker_pid}:" in takers[-1]
        if began[-1]["backend_name"] == injection.backend or on_worker:
            found.append(job_id)
    return found


def _reconnections(evidence: Evidence, injection: Injection) -> dict[str, float]:
    """Return how long the clients of an app that was killed were without frames; their jobs are those it hit."""
    found: dict[str, float] = {}
    connections = evidence.record.connections
    revoked = {each.key.name for each in evidence.record.revocations}
    for each in connections:
        if each.key in revoked:
            # It may have been revoked at that time, and kept its clients away.
            continue
        if each.app == injection.app and each.opened_at <= injection.at < each.closed_at and each.close_code != 1000:
            injection.jobs += [job_id for job_id in each.job_ids if job_id not in injection.jobs]
            later = [at for other in connections if other.number == each.number for at, _ in other.frames]
            later = [at - injection.at for at in later if at > injection.at + 0.05]
            if later:
                found[f"client {each.number}"] = min(later)
    return found


def _is_mixed(injection: Injection, injections: Sequence[Injection]) -> bool:
    return any(
        other is not injection
        and other.planned.fault in HEAVY
        and other.at < injection.since + TARGETS_S.get(injection.planned.fault, 0.0)
        and max(other.until, other.at) > injection.at - AFTERMATH_S
        for other in injections
    )


def _plain(value: Any) -> Any:
    return f"{value.timestamp():.3f}" if hasattr(value, "timestamp") else str(value)
