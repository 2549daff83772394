"""The promises about keys, checked at the end: whom each let in, when it was refused, and whose jobs it reached."""

from __future__ import annotations

from collections import Counter, defaultdict
from statistics import median
from typing import TYPE_CHECKING, Final

from app.domain.job import STATUS_OF, JobStatus, Phase
from app.services.access import KNOWN_S
from app.web.socket_client import SIGNED_OUT
from app.web.websockets import KEYS_S
from tests.chaos.callers import TICKETED
from tests.chaos.evidence import Evidence, Violation
from tests.chaos.keyring import LIMITED, MOST_WAITING, OPERATOR
from tests.chaos.strangers import UNCLEAR

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.chaos.callers import Sent
    from tests.chaos.keyring import Revocation

MARGIN_S: Final = 3.0
"""What a busy machine may add to a promised time."""
HEARD_S: Final = 1.0
"""So near to a revocation an outage may have kept a server from hearing of it."""
AT_ONCE: Final = 3
"""So many jobs more than may wait are accepted at most: statements that are under way at once do not see each other."""
MUCH_LATER_S: Final = 90.0
"""After this an address is no more held back for wrong keys that came from it."""
_WAITING: Final = "too_many_waiting"
_WRONG: Final = "too_many_wrong_keys"


def foreign_requests(evidence: Evidence) -> Iterator[Violation]:
    """To a user's key nothing of another owner is there, and none of its requests has changed any."""
    for each in evidence.record.foreign:
        if each.told:
            yield Violation("others are not there", f"{each.what} with a key of {each.owner}: {each.told}")
    owners = evidence.record.owners
    names = {each.key: each.owner for each in evidence.record.sent}
    for job_id, events in evidence.events.items():
        for event in events:
            actor = names.get(event["actor"])
            if actor not in (None, OPERATOR, owners.get(job_id)) and job_id in owners:
                text = f"job {job_id} of {owners[job_id]}: {event['event']} by {event['actor']}"
                yield Violation("others are not there", text, (job_id,))
        whose = evidence.jobs[job_id]["user_id"]
        if job_id in owners and whose != owners[job_id]:
            yield Violation("each job its sender's", f"job {job_id} of {owners[job_id]} is {whose}'s", (job_id,))
    for overheard in evidence.overheard:
        for job_id in sorted(overheard.job_ids):
            if not overheard.sees_all and owners.get(job_id, overheard.owner) != overheard.owner:
                text = f"/ws/events told {overheard.owner} of job {job_id}, which is of {owners[job_id]}"
                yield Violation("others are not there", text, (job_id,))


def refusals(evidence: Evidence) -> Iterator[Violation]:
    """A key is refused when it is revoked, soon, by every server, and at no other time."""
    by_key = _by_key(evidence)
    for sent in evidence.record.sent:
        revocations = by_key.get(sent.key, [])
        told = f"app{sent.app}, {sent.at:.3f} to {sent.answered_at:.3f}: {sent.what} with {sent.key}: {sent.status}"
        if sent.status == 401 and not any(each.may_be_refused(sent.at, sent.answered_at) for each in revocations):
            # Redis has the tickets: emptied, it knows none of them any more.
            if sent.what != TICKETED or not _was_away(evidence, "redis", sent.at - MARGIN_S, sent.answered_at):
                yield Violation("a good key opens", f"{told}, and the key is not revoked")
        elif sent.status not in UNCLEAR or sent.code == _WAITING:
            for each in revocations:
                if _is_late(evidence, each, sent):
                    yield Violation("a revoked key opens nothing", f"{told}, {sent.at - each.done_at:.1f} s after")
        if sent.status == 429:
            yield from _limit(evidence, sent, told)


def _limit(evidence: Evidence, sent: Sent, told: str) -> Iterator[Violation]:
    """Whether a 429 was by right."""
    if sent.code == _WAITING:
        if sent.owner != LIMITED or not sent.what.startswith("POST "):
            yield Violation("a limit is one's own", f"{told} {sent.code}")
    # A WebSocket that is refused does not show the code.
    elif sent.code not in (_WRONG, None) or not any(
        each.asked_at < sent.answered_at < (each.restored_at or sent.answered_at) + MUCH_LATER_S
        for each in evidence.record.revocations
    ):
        yield Violation("a limit is one's own", f"{told} {sent.code}")


def sockets(evidence: Evidence) -> Iterator[Violation]:
    """The sockets of a revoked key are closed with 4401, soon, and those of no other."""
    by_key = _by_key(evidence)
    for each in (*evidence.record.connections, *evidence.record.watched):
        revocations = by_key.get(each.key, [])
        told = f"client {each.number} at app{each.app} with {each.key}, {each.opened_at:.3f} to {each.closed_at:.3f}"
        if each.close_code == SIGNED_OUT and not any(
            revocation.may_be_refused(each.opened_at, each.closed_at) for revocation in revocations
        ):
            yield Violation("a good key opens", f"{told}: closed with {SIGNED_OUT}, and the key is not revoked")
        for revocation in revocations:
            began = max(revocation.done_at, each.opened_at)
            until = min(each.closed_at, revocation.restoring_at or each.closed_at)
            allowed_s = MARGIN_S + (0.0 if _was_told(evidence, revocation) else KEYS_S)
            # Only in an outage of PostgreSQL it cannot be known.
            if until - began > allowed_s and not _was_away(evidence, "postgres", until - allowed_s, until):
                yield Violation("a revoked key opens nothing", f"{told}: open {until - began:.1f} s after revocation")


def limits(evidence: Evidence) -> Iterator[Violation]:
    """Of who may have few jobs waiting hardly more waited when one of them was accepted."""
    found = _waiting(evidence)
    for job_id, waiting in found.items():
        if waiting > MOST_WAITING + AT_ONCE:
            text = f"job {job_id} of {LIMITED} was accepted as the {waiting}th that waits, of {MOST_WAITING}"
            yield Violation("limits hold", text, (job_id,))


def audited(evidence: Evidence) -> Iterator[Violation]:
    """Each revocation is in the audit; or, if PostgreSQL was away at that moment, in the server's log."""
    noted = {(row["action"], row["target"]) for row in evidence.audit if row["outcome"] == "done"}
    logs = [path.read_text(errors="replace") for path in evidence.folder.glob("logs/*.log")]
    for each in evidence.record.revocations:
        wanted = ["key_revoke"] + (["key_restore"] if each.restored_at is not None else [])
        for action in wanted:
            logged = any("not in the audit" in text and f"key {each.key.name}" in text for text in logs)
            if (action, f"key {each.key.name}") not in noted and not logged:
                yield Violation("revocations are audited", f"{action} of {each.key.name} at {each.done_at:.3f}")


def told(evidence: Evidence) -> list[str]:
    """Return the figures of a run with keys; nothing of one without."""
    record = evidence.record
    if not record.sent:
        return []
    statuses = Counter(each.status for each in record.sent)
    by_key = _by_key(evidence)
    last: dict[tuple[str, int, int], float] = defaultdict(float)
    """Key, which of its revocations, and server → seconds after which it was let in for the last time."""
    for sent in record.sent:
        for index, each in enumerate(by_key.get(sent.key, [])):
            let_in = sent.status not in UNCLEAR and sent.at > each.done_at
            if let_in and sent.at < (each.restoring_at or sent.at + 1):
                place = sent.key, index, sent.app
                last[place] = max(last[place], sent.at - each.done_at)
    codes = Counter(each.code for each in record.sent if each.status == 429)
    closed = sum(each.close_code == SIGNED_OUT for each in (*record.connections, *record.watched))
    late = f"p50 {median(last.values()):.2f} s, max {max(last.values()):.2f} s" if last else "never"
    answered = sum(each.status not in UNCLEAR for each in record.foreign)
    most = max(_waiting(evidence).values(), default=0)
    heard = ", ".join(f"{each.owner} {each.messages}" for each in evidence.overheard)
    return [
        f"{len(record.sent)} requests with keys, {statuses[401]} answered 401, {dict(codes)} 429",
        f"{len(record.revocations)} revocations, {closed} sockets closed with {SIGNED_OUT}; let in after them: {late}",
        f"{len(record.foreign)} requests for what is another's, {answered} answered; events heard: {heard}",
        f"of {LIMITED} up to {most} jobs waited when one was accepted, of {MOST_WAITING}",
    ]


def _by_key(evidence: Evidence) -> dict[str, list[Revocation]]:
    found: dict[str, list[Revocation]] = defaultdict(list)
    for each in evidence.record.revocations:
        found[each.key.name].append(each)
    return found


def _is_late(evidence: Evidence, revocation: Revocation, sent: Sent) -> bool:
    """Whether a request that was let in had to be refused: who can ask PostgreSQL remembers a key for `KNOWN_S`."""
    allowed_s = KNOWN_S + MARGIN_S
    if not revocation.done_at or sent.at < revocation.done_at + allowed_s:
        return False
    if revocation.restoring_at is not None and sent.answered_at > revocation.restoring_at:
        return False
    return not _was_away(evidence, "postgres", sent.at - allowed_s, sent.answered_at)


def _was_away(evidence: Evidence, server: str, since: float, until: float) -> bool:
    return any(began <= until and since <= ended for began, ended in evidence.record.outages.get(server, ()))


def _was_told(evidence: Evidence, revocation: Revocation) -> bool:
    """Whether nothing kept the servers from hearing of a revocation at once, and from asking for more."""
    began, ended = revocation.asked_at - HEARD_S, revocation.done_at + HEARD_S
    return not any(_was_away(evidence, server, began, ended) for server in ("redis", "postgres"))


def _waiting(evidence: Evidence) -> dict[int, int]:
    """Return for each job of the limited owner how many of its jobs waited when it was accepted, itself included.

    Those do not count that wait again by themselves: nobody asked for them anew.
    """
    steps = sorted(
        (event["at"], event["seq"], job_id, event)
        for job_id, events in evidence.events.items()
        if evidence.jobs[job_id]["user_id"] == LIMITED
        for event in events
    )
    waiting: set[int] = set()
    found: dict[int, int] = {}
    for _, _, job_id, event in steps:
        if event["event"] in ("submitted", "retried"):
            waiting.add(job_id)
            # Retried by the operator, it is not counted against its owner.
            if event["event"] == "submitted":
                found[job_id] = len(waiting)
        elif STATUS_OF[Phase(event["phase"])] is not JobStatus.PENDING:
            waiting.discard(job_id)
    return found
