"""The base of the models of what clients send."""

from __future__ import annotations

from itertools import islice
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, model_validator

from app.web.checking import MAX_FAULTS


class RequestModel(BaseModel):
    """Base of what clients send: unknown fields are refused by name, and texts are not taken for numbers."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _few_unknown(cls, data: Any) -> Any:
        # Each unknown field makes an error, and hundred thousands of them would hold up everybody: the first ones do.
        if not isinstance(data, dict) or len(data) <= len(cls.model_fields) + MAX_FAULTS:
            return data
        known = {name: data[name] for name in cls.model_fields if name in data}
        return known | dict(islice(((name, each) for name, each in data.items() if name not in known), MAX_FAULTS))
