"""How requests refer to files for a graph."""

from __future__ import annotations

import base64
import re
from typing import Annotated, Any, Final

from pydantic import BeforeValidator, Field, ValidationInfo, WithJsonSchema, field_validator, model_validator

from app.domain.public_addresses import MAX_URL_CHARS
from app.domain.uploads import id_in
from app.web.request_model import RequestModel

_DATA_URL: Final = re.compile(r"data:[\w.+/-]*(?:;[\w.=-]+)*?;base64,", re.ASCII)


def _data_of(text: Any) -> Any:
    """Return the bytes of a data URL."""
    if text is None:
        return None
    head = _DATA_URL.match(text) if isinstance(text, str) else None
    if head is None:
        raise ValueError("is data:<type>;base64, and the bytes after it")
    try:
        return base64.b64decode(text[head.end() :], validate=True)
    except ValueError as error:
        raise ValueError("is not base64") from error


class InputReference(RequestModel):
    """A file for a graph: an upload, an output of an earlier job, a URL, or the file itself as base64.

    In answers `content` and `url` have beside them the `upload` that holds the bytes; sent again, that one counts.
    """

    upload: str | None = Field(None, pattern=r"^[A-Za-z0-9_-]{1,64}$", description="An `upload_id`.")
    content: int | None = Field(None, ge=0, lt=2**63, description="A `content_id`, with `output`.")
    output: int | None = Field(None, ge=0, lt=2**31, description="The index of one of its outputs; 0 if absent.")
    url: str | None = Field(
        None,
        min_length=1,
        max_length=MAX_URL_CHARS,
        description="http or https; a worker fetches it once, when it takes the job.",
    )
    data: Annotated[bytes | None, BeforeValidator(_data_of), WithJsonSchema({"type": ["string", "null"]})] = Field(
        None, description="`data:image/png;base64,…`; it becomes an upload."
    )

    @model_validator(mode="before")
    @classmethod
    def _text(cls, data: Any) -> Any:
        if isinstance(data, str):
            if (upload_id := id_in(data)) is None:
                raise ValueError('is an object, such as {"upload": "…"}, or the text upload:<id>')
            return {"upload": upload_id}
        return data

    @model_validator(mode="after")
    def _one_source(self) -> InputReference:
        sources = [name for name in ("content", "url", "data") if getattr(self, name) is not None]
        if len(sources) > 1 or (not sources and self.upload is None) or (self.upload and "data" in sources):
            raise ValueError("names one file: by upload, by content and output, by url, or as data")
        return self

    @field_validator("output")
    @classmethod
    def _of_a_content(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value is not None and info.data.get("content") is None:
            raise ValueError("goes with content, which says of what it is an output")
        return value

    def to_reference(self) -> dict[str, Any]:
        """Return the reference as a job keeps it; one that brings the file itself has the bytes under `data`."""
        if self.data is not None:
            return {"data": self.data}
        found = self.model_dump(exclude_none=True)
        return found | {"output": self.output or 0} if self.content is not None else found
