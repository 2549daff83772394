"""The one tree of errors: each class has a stable `code`, and keeps its facts as attributes."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong with what a client sent.

    `pointer` is a JSON pointer (RFC 6901) into the body, or the name of a query parameter.
    """

    pointer: str
    code: str
    detail: str
    allowed: tuple[str, ...] = ()
    suggestion: str | None = None


class GenonautError(Exception):
    """Root of everything that we raise on purpose. The message may be shown to a client."""

    code: ClassVar[str] = "internal_error"


# What a request may run into.


class InvalidRequest(GenonautError):
    """The request itself is at fault; `faults` names every fault found."""

    code = "invalid_request"

    def __init__(self, message: str, faults: Sequence[Fault] = ()) -> None:
        super().__init__(message)
        self.faults = tuple(faults)


class MalformedJson(InvalidRequest):
    """The body is no JSON text, or no JSON object."""

    code = "malformed_json"


class MalformedForm(GenonautError):
    """The body is no form that can be read."""

    code = "malformed_form"


class BadParameter(InvalidRequest):
    """The address itself is at fault, before there is any body to look at."""

    code = "bad_parameter"


class InvalidGraph(InvalidRequest):
    """The workflow graph cannot run on any backend that may take the job."""

    code = "invalid_workflow"


class UnreadableWorkflow(InvalidRequest):
    """The upload carries a workflow that cannot be read."""

    code = "unreadable_workflow"


class IdempotencyKeyReused(InvalidRequest):
    """The same Idempotency-Key came with another body."""

    code = "idempotency_key_reused"


class NoSeedToChange(InvalidRequest):
    """Another seed was asked for, and the workflow has none of its own."""

    code = "no_seed"


class InvalidUpload(InvalidRequest):
    """What was handed over is no file that a graph can use, or no file at all."""

    code = "invalid_upload"


class UnsupportedBody(GenonautError):
    """The body's media type, or its encoding, is not one that the route takes."""

    code = "unsupported_media_type"


class BodyTooLarge(GenonautError):
    """The body has more bytes, or more values, than are taken."""

    code = "body_too_large"


class BodyTooSlow(GenonautError):
    """The body takes longer to arrive than it is waited for."""

    code = "body_too_slow"


class ForeignOrigin(GenonautError):
    """A page of another site tries to use the visitor's access."""

    code = "foreign_origin"


class ForeignHost(GenonautError):
    """The request asks for a name that is not this server's: some page's own name was turned on this address."""

    code = "foreign_host"


class SignInNeeded(GenonautError):
    """The request needs a key, or a session of the page, and has neither."""

    code = "sign_in_needed"


class WrongKey(GenonautError):
    """The key is none of ours, or was revoked, or has expired: which of them is not told."""

    code = "wrong_key"

    def __init__(self, message: str, *, is_first: bool = False) -> None:
        """`is_first`: none has come from this address lately."""
        super().__init__(message)
        self.is_first = is_first


class WrongSignature(GenonautError):
    """The link is not one of ours to this output, or of before links were renewed."""

    code = "wrong_signature"


class LinkExpired(GenonautError):
    """The link was right, and its time is over."""

    code = "link_expired"


class WrongTicket(GenonautError):
    """The ticket of a WebSocket was used, has expired, is of something else, or is none."""

    code = "wrong_ticket"


class KeyInAddress(BadParameter):
    """A key stands in the address, where logs and histories keep it."""

    code = "key_in_address"


class Forbidden(GenonautError):
    """The caller may not do this, or the request does not come from where it must."""

    code = "forbidden"


class TooMany(GenonautError):
    """The caller has reached a limit. `retry_after_s` are the seconds after which it has not."""

    code = "too_many_requests"

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class TooManyWaiting(TooMany):
    """So many jobs of the key's owner wait that no more are accepted."""

    code = "too_many_waiting"


class TooManyToday(TooMany):
    """As many jobs of the key's owner were accepted today, by UTC, as may be."""

    code = "too_many_today"


class TooManySockets(TooMany):
    """The key has as many WebSockets open as it may."""

    code = "too_many_sockets"


class UploadLimit(TooMany):
    """The uploads of the key's owner would take more bytes than they may."""

    code = "upload_limit"


class TooManyWrongKeys(TooMany):
    """So many wrong keys came from an address that no more are looked at for a while."""

    code = "too_many_wrong_keys"


class KeyTaken(GenonautError):
    """A key has this name already."""

    code = "key_taken"


class NoAdminLeft(GenonautError):
    """No key would be left whose holder may make and revoke keys."""

    code = "no_admin_left"


class NotFound(GenonautError):
    """What the address names does not exist."""

    code = "not_found"


class JobNotFound(NotFound):
    """No such job, or not one of the caller's."""

    code = "job_not_found"

    def __init__(self, job_ids: Sequence[int]) -> None:
        listed = ", ".join(map(str, job_ids))
        super().__init__(f"There is no job {listed}." if len(job_ids) == 1 else f"There are no jobs {listed}.")
        self.job_ids = tuple(job_ids)


class BackendNotFound(NotFound):
    """No such backend, or none that a live worker drives."""

    code = "backend_not_found"


class WorkerNotFound(NotFound):
    """No such worker is alive."""

    code = "worker_not_found"


class TaskNotFound(NotFound):
    """No such periodic task."""

    code = "task_not_found"


class KeyNotFound(NotFound):
    """No key has this name."""

    code = "key_not_found"


class NodeClassNotFound(NotFound):
    """No backend has a node class of this name; `faults` may tell which one was meant."""

    code = "node_class_not_found"

    def __init__(self, message: str, faults: Sequence[Fault] = ()) -> None:
        super().__init__(message)
        self.faults = tuple(faults)


class ContentNotFound(NotFound):
    """No such content, output or thumbnail."""

    code = "content_not_found"


class UploadNotFound(NotFound):
    """No such upload, or not one of the caller's."""

    code = "upload_not_found"


class NoWorkflow(NotFound):
    """The upload carries no workflow."""

    code = "no_workflow"


class ThumbnailDue(NotFound):
    """The thumbnail is being made, and the output itself is nothing that a browser could show meanwhile."""

    code = "thumbnail_due"
    retry_after_s: ClassVar[int] = 2


class InvalidTransition(GenonautError):
    """The job is in a phase in which the event cannot happen to it."""

    code = "invalid_transition"

    def __init__(self, phase: str, event: str) -> None:
        super().__init__(f"A job that is {phase} cannot be {event}.")
        self.phase = phase
        self.event = event


class JobAlreadyFinished(GenonautError):
    """A cancel came after the end."""

    code = "job_already_finished"


class JobNotFinished(GenonautError):
    """Only a finished job can be deleted."""

    code = "job_not_finished"


class UploadInUse(GenonautError):
    """A waiting or running job needs the upload."""

    code = "upload_in_use"


class JobNotWaiting(GenonautError):
    """The job is in the hands of a worker, or has ended, and its place in the queue means nothing any more."""

    code = "job_not_waiting"


class JobNotMovable(GenonautError):
    """The job waits, and has no place that could be exchanged for another one."""

    code = "job_not_movable"


class JobNotRetryable(GenonautError):
    """Only a failed or cancelled job can be retried."""

    code = "job_not_retryable"


class LostClaim(GenonautError):
    """This worker no longer holds the attempt: another worker has the job, or it has ended."""

    code = "lost_claim"


# What may be away.


class Unavailable(GenonautError):
    """A server that we need is away; the same request may succeed later."""

    code = "unavailable"
    retry_after_s: ClassVar[int] = 2


class DatabaseUnavailable(Unavailable):
    """PostgreSQL cannot be reached, or did not answer in time."""

    code = "database_unavailable"


class QueueUnavailable(Unavailable):
    """Redis cannot be reached, or did not answer in time."""

    code = "redis_unavailable"


class Busy(Unavailable):
    """Too many large requests are being processed; one more would slow down the others."""

    code = "busy"


class ModelsMissing(GenonautError):
    """A waiting job needs models that no live backend has had for too long. No attempt was made."""

    code = "models_missing"


class SchemaNotAtHead(GenonautError):
    """The database's schema is not the one that this version was written for."""

    code = "schema_not_at_head"


# What a URL of someone else's choice may run into.


class UrlFailed(GenonautError):
    """A URL that someone named is of no use. `url` is fit to be shown: without query, user and password."""

    code = "url_failed"
    may_help: ClassVar[bool] = False
    """Whether the same URL may do later."""

    def __init__(self, url: str, reason: str) -> None:
        """Make the message of the URL, already fit to be shown, and a reason without a full stop."""
        super().__init__(f"{url} cannot be used: {reason}.")
        self.url = url
        self.reason = reason


class UrlRefused(UrlFailed):
    """We do not ask for it: it is no http URL, says what is not allowed, or leads to an address that is not public."""

    code = "url_refused"


class UrlUnusable(UrlFailed):
    """What answers there is not to be had, too large, or no HTTP: so it is the next time."""

    code = "url_unusable"


class UrlAway(UrlFailed):
    """Nothing answers there, it is too slow, breaks off, or says itself that it is in trouble."""

    code = "url_away"
    may_help = True


# What may end an attempt (manual, failures.md: the class decides whether there is another one).


class ErrorClass(StrEnum):
    """Why an attempt ended without its outputs; `app.domain.failure_policy` has what follows from each."""

    INVALID = "invalid"
    LACKING = "lacking"
    EXECUTION = "execution"
    OUT_OF_MEMORY = "out_of_memory"
    DEVICE = "device"
    INTERRUPTED = "interrupted"
    BACKEND_LOST = "backend_lost"
    TIMEOUT = "timeout"
    BACKEND_LATE = "backend_late"
    OUTPUT = "output"
    OLD_OUTPUT = "old_output"
    STORAGE = "storage"
    INPUT = "input"
    INPUT_AWAY = "input_away"
    BUG = "bug"


class AttemptFailed(GenonautError):
    """An attempt ended without its outputs. The message is for the user: no paths and no tracebacks of any server.

    The traceback of the node's exception is for operators only.
    """

    code = "attempt_failed"
    error_class: ClassVar[ErrorClass] = ErrorClass.BUG

    under_it = False
    """Whether the backend stopped, or obeyed no more, while it executed this very prompt."""
    certain = False
    """Whether its own log says that its execution ended by this prompt."""

    def __init__(
        self,
        message: str,
        *,
        node_id: str | None = None,
        node_type: str | None = None,
        traceback: str | None = None,
    ) -> None:
        super().__init__(message)
        self.node_id = node_id
        self.node_type = node_type
        self.traceback = traceback


class WorkflowRefused(AttemptFailed):
    """ComfyUI, or our check of what it offers, refused the graph: so does each server whose nodes are the same."""

    code = "invalid_workflow"
    error_class = ErrorClass.INVALID


class BackendLacksModel(WorkflowRefused):
    """This backend lacks a model or a node class that another backend may have."""

    code = "not_offered_by_backend"
    error_class = ErrorClass.LACKING


class WorkflowUnread(WorkflowRefused):
    """The backend stumbled over the submission each time, and gave no reason: another one may take it."""

    error_class = ErrorClass.LACKING


class NodeFailed(AttemptFailed):
    """A node raised."""

    code = "node_failed"
    error_class = ErrorClass.EXECUTION


class OutOfMemory(AttemptFailed):
    """A node ran out of memory, the GPU's or the machine's."""

    code = "out_of_memory"
    error_class = ErrorClass.OUT_OF_MEMORY


class DeviceFailed(NodeFailed):
    """A node met an error of the device itself (CUDA, HIP, MPS …): the backend may be at fault, or the graph."""

    code = "device_error"
    error_class = ErrorClass.DEVICE


class Interrupted(AttemptFailed):
    """The prompt was interrupted at the backend, and not by us."""

    code = "interrupted_on_backend"
    error_class = ErrorClass.INTERRUPTED


class BackendLost(AttemptFailed):
    """The backend is away, answers nonsense, or has forgotten the prompt."""

    code = "backend_lost"
    error_class = ErrorClass.BACKEND_LOST


class BackendForgot(BackendLost):
    """The backend itself says that it does not know the prompt: it was deleted there, or the server restarted."""


class BackendStalled(BackendLost):
    """The backend answers, but its execution stands still: probably its execution thread has died."""

    code = "backend_stalled"


class Poisonous(AttemptFailed):
    """Backends stopped while they executed the job: it is sent to no other one."""

    code = "poisonous"
    error_class = ErrorClass.EXECUTION


class AttemptTimeout(AttemptFailed):
    """The run took longer than the job's `timeout_seconds`, and ComfyUI confirmed that it was stopped."""

    code = "timeout"
    error_class = ErrorClass.TIMEOUT


class BackendLate(AttemptTimeout):
    """The time ran out, and not by the run's own doing: it never began, or the backend could not stop it."""

    code = "backend_late"
    error_class = ErrorClass.BACKEND_LATE


class OutputInvalid(AttemptFailed):
    """A file that the backend sent is not what it claims to be, or is not to be had."""

    code = "output_invalid"
    error_class = ErrorClass.OUTPUT


class OutputNotOwn(AttemptFailed):
    """A file that the history names cannot be shown to be of this run: it may be another job's, or an earlier run's."""

    code = "output_not_own"
    error_class = ErrorClass.OLD_OUTPUT


class StorageFailed(AttemptFailed):
    """A file could not be written to the store."""

    code = "storage_failed"
    error_class = ErrorClass.STORAGE


class InputUnavailable(AttemptFailed):
    """A file that the job names by its URL is not to be had, and will not be."""

    code = "input_unavailable"
    error_class = ErrorClass.INPUT

    @staticmethod
    def of(failure: UrlFailed) -> InputUnavailable:
        """Return the error that ends an attempt because of a URL."""
        return (InputAway if failure.may_help else InputUnavailable)(str(failure))


class InputAway(InputUnavailable):
    """A file that the job names by its URL is not to be had now."""

    error_class = ErrorClass.INPUT_AWAY
