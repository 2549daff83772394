"""What is asked and answered about the queue and its users, as models: they check bodies and make the document."""

from __future__ import annotations

from pydantic import BaseModel, Field

from app.domain.fair_tags import LEAST_WEIGHT, MOST_WEIGHT
from app.domain.pauses import MOST_REASON_CHARS
from app.web.payloads import PauseAnswer
from app.web.request_model import RequestModel
from app.web.requests import NoQuery


class PauseRequest(RequestModel):
    """The body of a pause; an empty one will do."""

    reason: str | None = Field(
        None, min_length=1, max_length=MOST_REASON_CHARS, description="Told to those whose jobs wait for it."
    )


class WeightRequest(RequestModel):
    """The weight that a user is to have."""

    weight: float = Field(
        ge=LEAST_WEIGHT,
        le=MOST_WEIGHT,
        allow_inf_nan=False,
        description="The share of the backends beside others', for jobs that are sent from now on; 1 is the default.",
    )


class UsersQuery(NoQuery):
    """The query of the list of users."""

    limit: int = Field(100, ge=1, le=1000)
    after: str = Field("", max_length=255, description="The name after which to go on: `next_after`.")


class QueueAnswer(BaseModel):
    """Whether the queue is paused."""

    paused: PauseAnswer | None = Field(description="Null: it is not.")


class UserAnswer(BaseModel):
    """A user of the queue."""

    user_id: str
    weight: float
    paused: PauseAnswer | None = Field(description="Null: its jobs are taken, unless the queue as a whole is paused.")
    waiting: int = Field(description="At most 1,000 of those that are due are counted.")
    running: int


class UserListAnswer(BaseModel):
    """Users who are paused, or have another weight than 1, by name."""

    items: list[UserAnswer]
    next_after: str | None = Field(description="As `after` it leads to those that follow; null at the end.")
