"""What no decent client sends, and a socket that sends it all the same."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aiohttp.test_utils import TestClient


def _is_whole(answer: bytes) -> bool:
    """Whether it has come to its end on a connection that stays open."""
    head, end, body = answer.partition(b"\r\n\r\n")
    length = re.search(rb"\r\nContent-Length: (\d+)", head, re.IGNORECASE)
    upgraded = answer.startswith(b"HTTP/1.1 101")
    stays = bool(end) and re.search(rb"\r\nConnection: close", head, re.IGNORECASE) is None
    return stays and (upgraded or (length is not None and len(body) >= int(length[1])))


async def raw(client: TestClient[Any, Any], request: bytes, timeout_s: float = 30) -> bytes:
    """Send these bytes to the client's server, and return all that it answers until it closes."""
    async with asyncio.timeout(timeout_s):
        reader, writer = await asyncio.open_connection(client.server.host, client.server.port)
        try:
            writer.write(request)
            await writer.drain()
            answer = b""
            while not _is_whole(answer) and (chunk := await reader.read(65_536)):
                answer += chunk
        except ConnectionError:
            # Closed before it had read everything: that is an answer, too.
            return b""
        else:
            return answer
        finally:
            writer.close()


LONG = 7000
"""Characters of a header that a server still reads."""
BYTES = {
    "empty": b"",
    "blank": b"   ",
    "latin-1": b"caf\xe9",
    "every high byte": bytes(range(0x80, 0x100)),
    "0xff": b"\xff",
    "half a character": b"a\xc3",
    "a surrogate": b"\xed\xa0\x80",
    "UTF-8": "ü\u202e🦊".encode(),
    "long": b"a" * LONG,
    "long and high": b"\xff" * LONG,
    "too long": b"a" * 20_000,
    "quotes": b"\"'<>&;=,\\",
    "numbers": b"-1, 99999999999999999999, 1e999, 0x10",
    "brackets": b"[::1",
    "percent": b"%ff%00%zz%",
    "tabs": b"a\tb",
    "digits of another script": "٣".encode(),
    "nested": b"(" * 2000,
}
"""Values of headers, by what is wrong with them."""
HEADERS = {
    "Host": [b"%b", b"127.0.0.1:%b", b"%b.example", b"[%b]", b"user@%b"],
    "Origin": [b"%b", b"http://%b", b"http://[%b", b"http://127.0.0.1:%b"],
    "Cookie": [
        b"%b", b"genonaut_session=%b", b'genonaut_session="%b"', b"monitor_csrf=%b", b"monitor_flash=%b",
        b"monitor_flash=bulk_cancel.%b.1.1.1.1", b"%b=1; genonaut_session=x",
    ],
    "Referer": [b"%b", b"http://127.0.0.1/monitor/%b"],
    "Content-Type": [
        b"%b", b"application/%b", b"multipart/form-data", b"multipart/form-data; boundary=%b",
        b"application/json; charset=%b", b"application/x-www-form-urlencoded; charset=%b",
    ],
    "Content-Length": [b"%b", b"0%b"],
    "Content-Encoding": [b"%b", b"gzip, %b"],
    "Transfer-Encoding": [b"%b"],
    "Idempotency-Key": [b"%b"],
    "Accept": [b"%b"],
    "Accept-Encoding": [b"%b", b"gzip;q=%b"],
    "Accept-Language": [b"%b"],
    "Range": [b"%b", b"bytes=%b", b"bytes=0-%b", b"bytes=%b-"],
    "If-Range": [b"%b", b'"%b"'],
    "If-None-Match": [b"%b", b'"%b"', b'W/"%b'],
    "If-Match": [b"%b", b'"%b"'],
    "If-Modified-Since": [b"%b", b"Thu, 01 Jan 0001 00:00:00 %b"],
    "If-Unmodified-Since": [b"%b"],
    "Sec-WebSocket-Protocol": [b"%b"],
    "Sec-WebSocket-Extensions": [b"%b", b"permessage-deflate; server_max_window_bits=%b"],
    "Sec-WebSocket-Key": [b"%b"],
    "Sec-WebSocket-Version": [b"%b"],
    "Sec-Fetch-Site": [b"%b"],
    "Connection": [b"%b"],
    "Upgrade": [b"%b"],
    "Expect": [b"%b"],
    "X-Request-Id": [b"%b"],
    "X-Fragment": [b"%b"],
    "X-Forwarded-For": [b"%b"],
    "X-Forwarded-Host": [b"%b"],
    "X-Forwarded-Proto": [b"%b"],
    "Forwarded": [b"%b", b"for=%b"],
    "Authorization": [b"%b", b"Bearer %b", b"Basic %b"],
    "X-API-Key": [b"%b"],
    "Prefer": [b"%b", b"wait=%b"],
    "User-Agent": [b"%b"],
}  # fmt: skip
"""Every header that anybody reads, and the forms in which a value stands in it."""
UNKEPT = ("Content-Length", "Transfer-Encoding", "Connection", "Expect", "Upgrade", "Sec-WebSocket-Key")
"""Headers that promise more than comes, or keep the connection open: no answer need come to those, and no end."""
TEXTS = [
    "", "%20", "%00", "a%00b", "%ff", "%c3", "%ed%a0%80", "%F0%9F%A6%8A", "\\", "%", "%%", "_", "'", '"', "%25",
    "x" * 300, "x" * 5000, "9" * 30, "9" * 5000, "-1", "0", "1.5", "1e999", "-1e308", "nan", "inf", "-inf",
    "True", "null", "[]", "{}", "2147483648", "9223372036854775807", "9223372036854775808",
    "-9223372036854775809", "%D9%A3", "1_000", "+1", "0x10", "0001-01-01T00:00:00%2B14:00",
    "0001-01-01T00:00:00-14:00", "0001-01-01", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59-14:00",
    "9999-12-31T23:59:59.999999%2B14:00", "9999-12-31T23:59:59.9999999Z", "9999-12-31", "10000-01-01T00:00:00Z",
    "2026-02-30T00:00:00Z", "2026-11-23T24:00:00Z", "2026-11-23T12:00:60Z", "2026-W01-1",
    "2026-11-23T12:00:00%2B99:99", "2026-11-23T12:00:00%2B23:59:59.999999", "20261123", "1969-12-31T23:59:59Z",
    "0", "1e18", "2026-11-23%2012:00", "4713-01-01T00:00:00Z", "-4713-01-01T00:00:00Z", "AAAA", "eyJ9", "e30",
    "bnVsbA==", "W10", "MTox", "2026-11-23T12:00:00Z_1", "1,2,3", ",", "a,b", "completed", "completed,nothing",
]  # fmt: skip
"""Values of parameters as they stand in an address."""


UPGRADE = {
    "Upgrade": b"websocket",
    "Connection": b"Upgrade",
    "Sec-WebSocket-Version": b"13",
    "Sec-WebSocket-Key": b"dGhlIHNhbXBsZSBub25jZQ==",
}


def request_of(method: str, path: str, headers: dict[str, bytes] | list[tuple[str, bytes]], body: bytes = b"") -> bytes:
    """Return a request as it goes over the wire; what is not given is as a decent client has it."""
    given = list(headers.items()) if isinstance(headers, dict) else headers
    names = {name.lower() for name, _ in given}
    usual = [("Host", b"127.0.0.1"), ("Connection", b"close")]
    if body and not names & {"content-length", "transfer-encoding"}:
        usual.append(("Content-Length", str(len(body)).encode()))
    lines = [f"{method} {path} HTTP/1.1".encode(errors="surrogateescape")]
    lines += [name.encode() + b": " + value for name, value in usual if name.lower() not in names]
    lines += [name.encode() + b": " + value for name, value in given]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


class Attack:
    """Sends many requests, several at once, and keeps those at which the server fell over."""

    def __init__(self, client: TestClient[Any, Any]) -> None:
        self._client = client
        self._at_once = asyncio.Semaphore(8)
        self.sent = 0
        self.wrong: list[str] = []
        self.statuses: set[int] = set()

    async def send(self, what: str, request: bytes, timeout_s: float = 20) -> bytes:
        """Send a request, and judge the answer, if one comes."""
        async with self._at_once:
            try:
                answer = await raw(self._client, request, timeout_s)
            except TimeoutError:
                # The server waits for what was promised, as it may.
                answer = b""
        self.sent += 1
        if answer:
            status = int(answer.split(b" ", 2)[1])
            self.statuses.add(status)
            if status >= 500 or b"Traceback" in answer:
                self.wrong.append(f"{what}: {status} {answer[-200:]!r}")
        return answer

    async def send_all(self, requests: dict[str, bytes], timeout_s: float = 20) -> None:
        """Send all of these."""
        await asyncio.gather(*(self.send(what, request, timeout_s) for what, request in requests.items()))
