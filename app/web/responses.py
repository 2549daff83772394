"""Answers of the REST API in JSON."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from aiohttp import web

from app.runtime.json_text import dump_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic import BaseModel


def answered(answer: BaseModel | dict[str, Any], status: HTTPStatus = HTTPStatus.OK, **headers: str) -> web.Response:
    """Return a model, or plain data of a model's shape, as the answer."""
    body = dump_bytes(answer) if isinstance(answer, dict) else answer.model_dump_json().encode()
    return json_answer(body, status, headers)


def json_answer(
    body: bytes, status: HTTPStatus = HTTPStatus.OK, headers: Mapping[str, str] | None = None
) -> web.Response:
    """Return JSON in UTF-8 as the answer."""
    return web.Response(body=body, status=status, content_type="application/json", charset="utf-8", headers=headers)
