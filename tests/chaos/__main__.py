"""`make chaos`: the whole service as processes, hundreds of jobs, and everything goes wrong; does each job end once?

`python -m tests.chaos [--seed N] [--seconds S] [--jobs J]`. The same seed repeats the jobs and the schedule of faults.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from aiohttp import ClientSession, DummyCookieJar, TCPConnector

from app.commands.stop_signals import Interrupted, until_signalled
from app.embedded.accounts import outside_folder
from app.runtime.end_tasks import end_tasks
from tests.chaos import checks, harms, leftovers, permits, received, report, sweeps
from tests.chaos.clients import Client, Record, draw_plans, holder_of, with_owners
from tests.chaos.evidence import Violation, gather
from tests.chaos.executions import ExecutionLogs
from tests.chaos.faults import Injector
from tests.chaos.keyring import Keyring
from tests.chaos.planting import Planter
from tests.chaos.processes import Fleet
from tests.chaos.schedule import OF_KEYS, SMALL, SMALL_OF_KEYS, Fault, draw_schedule
from tests.chaos.steering import Steering

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.chaos.clients import Plan
    from tests.chaos.evidence import Evidence
    from tests.chaos.faults import Injection

REST_S: Final = 75.0
"""So long after the last fault everything may take to come to rest: the longest lock, and what waits behind it."""
KEY_PAUSE_S: Final = 3.0
"""Mean seconds between faults of keys: each of them takes some."""
CHECKS: Final = (
    checks.accepted_jobs,
    checks.ended_jobs,
    checks.histories,
    checks.cancels,
    checks.executions,
    checks.attempts,
    checks.found_out,
    checks.overtaken,
    received.frames,
    leftovers.pictures,
    harms.poisons,
    harms.broken_gpus,
    harms.colors,
    harms.painted_over,
    sweeps.needed_uploads,
    permits.foreign_requests,
    permits.refusals,
    permits.sockets,
    permits.limits,
    permits.audited,
)


def parse_arguments() -> argparse.Namespace:
    """Return what the command line asks for; CHAOS_SEED, CHAOS_SECONDS and CHAOS_JOBS of the environment come next."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    seed = os.environ.get("CHAOS_SEED") or random.SystemRandom().randrange(10_000)
    parser.add_argument("--seed", type=int, default=int(seed))
    parser.add_argument("--seconds", type=float, default=float(os.environ.get("CHAOS_SECONDS") or 180))
    parser.add_argument("--jobs", type=int, default=int(os.environ.get("CHAOS_JOBS") or 600))
    parser.add_argument("--small", action="store_true", help="fewer processes and faults, for `make test`")
    parser.add_argument(
        "--only", action="append", type=lambda name: Fault[name], help="inject this fault only; repeatable"
    )
    parser.add_argument("--pause", type=float, default=0.0, help="mean seconds between faults")
    without = os.environ.get("CHAOS_KEYS") == "0"
    parser.add_argument("--no-keys", dest="keys", action="store_false", default=not without, help="or CHAOS_KEYS=0")
    parser.add_argument("--keep", action="store_true", help="keep the run's folder also when all is well")
    return parser.parse_args()


async def run(arguments: argparse.Namespace) -> int:
    """Run once, tell what was found, and return the exit code."""
    folder = Path(tempfile.mkdtemp(prefix="genonaut-chaos-")).resolve()
    # PostgreSQL's own user must get in.
    folder.chmod(0o711)
    say(f"seed {arguments.seed}, {arguments.jobs} jobs, {arguments.seconds:.0f} s of faults; everything is in {folder}")
    clean = False
    try:
        async with ClientSession(cookie_jar=DummyCookieJar(), connector=TCPConnector(limit=0)) as session:
            clean = await _run_in(folder, session, arguments)
    finally:
        if clean and not arguments.keep:
            shutil.rmtree(folder, ignore_errors=True)
            shutil.rmtree(outside_folder(folder / "postgres"), ignore_errors=True)
        else:
            say(f"Kept: {folder}")
    return 0 if clean else 1


async def _run_in(folder: Path, session: ClientSession, arguments: argparse.Namespace) -> bool:
    counts = (2, 2, 2) if arguments.small else (3, 2, 3)
    fleet = Fleet(folder, session, workers=counts[0], apps=counts[1], standins=counts[2])
    logs = ExecutionLogs(session, fleet.standin_urls)
    record = Record()
    keyring = Keyring(fleet, session) if arguments.keys else None
    planter = Planter(fleet, session, record, keyring)
    injector = Injector(fleet, session, logs, planter, record, keyring)
    steering: Steering | None = None
    began = time.monotonic()
    try:
        await fleet.start(keyring.found if keyring is not None else None)
        if keyring is not None:
            await keyring.hand_out()
            record.revocations = keyring.revocations
        sweeping = sweeps.Sweeps(fleet)
        if keyring is not None:
            steering = Steering(fleet, session, record, keyring, arguments.seed)
        polling = [
            asyncio.create_task(logs.poll(), name="logs"),
            asyncio.create_task(sweeping.run(), name="sweeps"),
        ]
        try:
            say(f"{len(fleet.members)} processes, PostgreSQL and Redis are up after {time.monotonic() - began:.1f} s")
            left = await _disturb(fleet, session, injector, planter, record, logs, keyring, steering, arguments)
        finally:
            _raise(await end_tasks(polling))
        for name in fleet.standin_urls:
            await logs.collect(name)
        evidence = await gather(fleet, record, logs)
        if steering is not None:
            evidence.overheard = steering.overheard
        swept, unswept = await leftovers.sweep(fleet)
    finally:
        await fleet.stop()
    surprises = [text for member in fleet.members for text in member.surprises]
    say(f"everything was stopped after {time.monotonic() - began:.0f} s; {swept}")
    violations = [violation for check in CHECKS for violation in check(evidence)]
    violations += left + sweeping.violations + unswept
    violations += [Violation("no orphan in the store", text) for text in leftovers.orphans(evidence)]
    violations += [Violation("processes end when asked", text) for text in surprises]
    violations += leftovers.tracebacks(folder)
    say(f"{sweeping.asked} sweeps were asked for, and {sweeping.looked_for} files that jobs needed were looked for")
    return _tell(evidence, injector.injections, violations, arguments)


async def _disturb(
    fleet: Fleet,
    session: ClientSession,
    injector: Injector,
    planter: Planter,
    record: Record,
    logs: ExecutionLogs,
    keyring: Keyring | None,
    steering: Steering | None,
    arguments: argparse.Namespace,
) -> list[Violation]:
    """Let clients and faults loose, and return what is not done when it should be."""
    faults = arguments.only or ((*SMALL, *SMALL_OF_KEYS) if arguments.small else list(Fault))
    pause_s = arguments.pause or (1.3 if arguments.small else 4.0)
    if keyring is None:
        faults = [fault for fault in faults if fault not in OF_KEYS]
    schedule = draw_schedule(
        arguments.seed, arguments.seconds, [each for each in faults if each not in OF_KEYS], pause_s
    )
    if of_keys := [each for each in faults if each in OF_KEYS]:
        schedule += draw_schedule(arguments.seed, arguments.seconds, of_keys, arguments.pause or KEY_PAUSE_S)
    schedule.sort(key=lambda planned: planned.at_s)
    began = time.monotonic()
    clients = [
        asyncio.create_task(
            _client(fleet, session, record, group, began + at_s, keyring), name=f"client-{group[0].number}"
        )
        for group, at_s in _starts(arguments, record, keyring)
    ]
    following = [asyncio.create_task(steering.follow(), name="events")] if steering is not None else []
    orders = [asyncio.create_task(steering.act(), name="operator")] if steering is not None else []
    try:
        await injector.run(schedule, began)
        if steering is not None:
            _raise(await end_tasks(orders))
            await steering.settle()
        await injector.clear()
        clients += planter.clients
        say(f"{len(schedule)} faults in {time.monotonic() - began:.0f} s, {record.submitted} jobs; waiting for rest")
        deadline = time.monotonic() + REST_S
        done, late = await asyncio.wait(clients, timeout=REST_S)
        for task in done:
            task.result()
        left = await leftovers.until_at_rest(fleet, logs, max(5.0, deadline - time.monotonic()))
        stuck = [Violation("nothing is stuck", f"{task.get_name()} still waits for its jobs") for task in late]
        return left + stuck
    finally:
        await end_tasks([*clients, *planter.clients, *orders])
        _raise(await end_tasks(following))


def _raise(results: Iterable[object]) -> None:
    """Raise what one of the tasks has raised."""
    for result in results:
        if isinstance(result, Exception):
            raise result


def _starts(arguments: argparse.Namespace, record: Record, keyring: Keyring | None) -> list[tuple[list[Plan], float]]:
    draw = random.Random(f"starts {arguments.seed}")
    groups = draw_plans(arguments.seed, arguments.jobs)
    if keyring is not None:
        groups = with_owners(groups, keyring.holders)
    record.planned = [plan for group in groups for plan in group]
    return [(group, draw.uniform(0.2, arguments.seconds - 2)) for group in groups]


async def _client(
    fleet: Fleet, session: ClientSession, record: Record, group: list[Plan], at: float, keyring: Keyring | None
) -> None:
    await asyncio.sleep(max(0.0, at - time.monotonic()))
    holder = holder_of(group, keyring.holders) if keyring is not None else None
    await Client(session, fleet.api_urls, record, group, holder).run()


def _tell(
    evidence: Evidence, injections: list[Injection], violations: list[Violation], arguments: argparse.Namespace
) -> bool:
    found = report.recoveries(evidence, injections)
    missed, excused = report.missed_targets(found)
    unnoticed = [f"{each.planned.fault} at {each.at:.1f}: {each.note}" for each in injections if each.unnoticed]
    violations = violations + missed + [Violation("a stall is noticed", text) for text in unnoticed]
    path = report.write_evidence(evidence, injections)
    say("", report.table(found), "")
    for text in excused:
        say(f"Late, with another fault at work at the same time: {text}")
    for injection in injections:
        if injection.note:
            say(f"{injection.planned.fault} at {injection.at:.1f}: {injection.note}")
    say(*_summary(evidence))
    if violations:
        say("", report.violations_told(evidence, violations), "", f"Everything in full: {path}")
    say(f"seed {arguments.seed}: {f'{len(violations)} violations' if violations else 'all promises kept'}")
    return not violations


def _summary(evidence: Evidence) -> list[str]:
    statuses: dict[str, int] = {}
    for row in evidence.jobs.values():
        statuses[row["status"]] = statuses.get(row["status"], 0) + 1
    record = evidence.record
    unclear = sum(each.status is None for each in record.tries)
    refused = sum(each.status not in (None, 201) for each in record.tries)
    runs = list(evidence.logs.executions())
    events = [event["event"] for rows in evidence.events.values() for event in rows]
    repairs = {name: events.count(name) for name in ("requeued", "taken_over", "turn_renewed", "retried")}
    frames = sum(len(connection.frames) for connection in record.connections)
    painted = [row["status"] for _, row, plan in harms.planned(evidence) if plan.picture is not None]
    new = sum(each.new for each in record.handed)
    deletions = [each.status for each in record.deletions]
    granted = deletions.count(204)
    return [
        f"jobs {statuses}; POSTs: {record.submitted} accepted, {refused} refused, {unclear} without an answer",
        f"{len(painted)} jobs from pictures, {painted.count('completed')} completed",
        f"{len(record.handed)} uploads, {new} of them new; {len(deletions)} deletions asked for, {granted} granted",
        f"{len(runs)} executions of {len({run.prompt_id for run in runs})} prompts; {repairs}",
        f"{len(record.connections)} sockets, {frames} frames; {len(record.asked)} cancels and retries",
        *permits.told(evidence),
    ]


def say(*lines: str) -> None:
    """Tell the person at the terminal."""
    print(*lines, sep="\n", flush=True)


def main() -> int:
    """Run, and return the exit code; a signal stops everything that was started."""
    try:
        return asyncio.run(until_signalled(run(parse_arguments())))
    except Interrupted as interrupted:
        return interrupted.exit_code


if __name__ == "__main__":
    sys.exit(main())
