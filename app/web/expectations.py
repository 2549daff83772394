"""Expectations of clients: aiohttp's own handler repeats one that it does not know, and fails at bytes in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web, web_urldispatcher

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    ExpectHandler = Callable[[web.Request], Awaitable[web.StreamResponse | None]]


def mend_expectations() -> None:
    """Make aiohttp's default handler refuse an `Expect` header that is not ASCII, also for unknown addresses.

    aiohttp calls it before any middleware. Its name is private; a test of hostile requests fails when it changes.
    """
    usual: ExpectHandler = web_urldispatcher._default_expect_handler  # noqa: SLF001
    if usual.__module__ == __name__:
        return

    async def expected(request: web.Request) -> web.StreamResponse | None:
        if not request.headers.get("Expect", "").isascii():
            raise web.HTTPExpectationFailed(text="This expectation cannot be met.")
        return await usual(request)

    web_urldispatcher._default_expect_handler = expected  # type: ignore[assignment]  # noqa: SLF001
