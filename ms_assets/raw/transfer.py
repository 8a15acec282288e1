"""Download over an unreliable connection: piece by piece, resumed where it broke off, retried after growing waits.

All requests use the hub client's own session, and so its token, proxies and certificates.
"""

import logging
import random
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import httpx2
from huggingface_hub import constants
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status, parse_ratelimit_headers

from ms_assets.files import size_of

logger = logging.getLogger(__name__)
Answer = TypeVar("Answer")

MB = 1e6
# Content networks refuse to send more than 50 GB at once, and signed addresses expire: each piece is a new request.
PIECE_BYTES = 4_000_000_000

FIRST_WAIT_SECONDS = 1.0
LONGEST_WAIT_SECONDS = 60.0
LONGEST_HONOURED_WAIT_SECONDS = 600.0
# A small request tells within seconds that the machine is offline; a file's download outlasts a router's restart.
REQUEST_ATTEMPTS = 5
FILE_ATTEMPTS = 10

LOG_EVERY_SECONDS = 10.0
BROKEN_LINE = (httpx2.TimeoutException, httpx2.NetworkError, httpx2.RemoteProtocolError, httpx2.ProxyError)


class HubError(RuntimeError):
    """The hub did not give a file; `may_pass` if it was only unreachable or overloaded, so that it may later."""

    def __init__(self, message: str, may_pass: bool = False) -> None:
        super().__init__(message)
        self.may_pass = may_pass


def with_retries(
    what: str, request: Callable[[], Answer], attempts: int = REQUEST_ATTEMPTS, arrived: Callable[[], int] = lambda: 0
) -> Answer:
    """Return the request's answer; retry broken connections, timeouts, 429 and 5xx after growing waits.

    `arrived` counts the bytes received so far: an attempt that brought any does not count towards `attempts`.

    Raises:
        httpx2.TransportError, HfHubHTTPError: the last attempt's error, or one that a retry would not mend.
        HubError: there can be no secure connections, because the certificates of their authorities cannot be read.
    """
    try:
        get_session()
    except OSError as error:
        advice = "correct or unset SSL_CERT_FILE and SSL_CERT_DIR"
        raise HubError(f"{what}: the certificates cannot be read ({one_line(error)}); {advice}") from error
    fruitless, furthest = 0, arrived()
    while True:
        try:
            return request()
        except (*BROKEN_LINE, HfHubHTTPError) as error:
            if not may_pass(error):
                raise
            fruitless = 0 if arrived() > furthest else fruitless + 1
            furthest = max(furthest, arrived())
            if fruitless >= attempts:
                raise
            wait = _wait_seconds(error, fruitless)
            # A bad connection breaks thousands of times in a large file: while bytes arrive, progress is enough to log.
            level = logging.WARNING if wait else logging.DEBUG
            logger.log(level, "%s: %s; trying again in %.1f s", what, one_line(error), wait)
            time.sleep(wait)


def may_pass(error: Exception) -> bool:
    """True if a retry may succeed: after a broken connection, or where the server was overloaded."""
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else 0
    return isinstance(error, BROKEN_LINE) or status in (408, 429) or status >= 500


def _wait_seconds(error: Exception, fruitless: int) -> float:
    growing = FIRST_WAIT_SECONDS * 2 ** (fruitless - 1) if fruitless else 0.0
    wait = min(growing, LONGEST_WAIT_SECONDS) * random.uniform(0.5, 1)
    asked = _asked_seconds(error.response.headers) if isinstance(error, HfHubHTTPError) else 0.0
    return max(wait, min(asked, LONGEST_HONOURED_WAIT_SECONDS))


def _asked_seconds(headers: httpx2.Headers) -> float:
    limit = parse_ratelimit_headers(headers)
    if limit is not None and limit.remaining == 0:
        return limit.reset_in_seconds
    asked = headers.get("Retry-After", "")
    return float(asked) if asked.isdigit() else 0.0


def receive(name: str, url: str, partial: Path, size: int) -> None:
    """Append to `partial` until it has `size` bytes; bytes that it already has are not requested again.

    Raises:
        HubError: the server sends something other than what was requested.
        httpx2.TransportError, HfHubHTTPError: the server sent nothing in all attempts, or refused.
        OSError: the bytes cannot be written.
    """
    partial.touch()
    progress = _Progress(name, size, size_of(partial))

    def receive_rest() -> None:
        while size_of(partial) < size:
            _append_piece(url, partial, size, progress)

    with_retries(name, receive_rest, FILE_ATTEMPTS, arrived=lambda: size_of(partial))


def _append_piece(url: str, partial: Path, size: int, progress: "_Progress") -> None:
    start = size_of(partial)
    asked = f"bytes={start}-{min(start + PIECE_BYTES, size) - 1}"
    headers = build_hf_headers() | {"Range": asked, "Accept-Encoding": "identity"}
    timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
    with get_session().stream("GET", url, headers=headers, timeout=timeout) as response:
        hf_raise_for_status(response)
        resumes = _checked_start(response, start, size)
        here = start if resumes else 0
        with partial.open("ab" if resumes else "wb") as file:
            # Raw blocks as they arrive: with blocks of a fixed size a broken connection would lose the last bytes.
            for block in response.iter_raw():
                here += len(block)
                if here > size:
                    raise HubError(f"{response.url.host} sent more than the file's {size} bytes")
                file.write(block)
                progress.show(here)
    if size_of(partial) <= start:
        raise httpx2.RemoteProtocolError("the answer ended without any new bytes")


def _checked_start(response: httpx2.Response, start: int, size: int) -> bool:
    """True if the body continues from `start`; False if it begins with the file's first byte.

    Raises:
        HubError: the body does neither, or belongs to a file of another size.
    """
    if response.status_code == 206:
        found = response.headers.get("Content-Range", "")
        if not re.fullmatch(rf"bytes {start}-\d+/({size}|\*)", found):
            raise HubError(f"{response.url.host} sent Content-Range {found!r}; expected bytes {start}-… of {size}")
        return True
    length = response.headers.get("Content-Length", str(size))
    if response.status_code != 200 or length != str(size):
        raise HubError(f"{response.url.host} answered {response.status_code} with {length} bytes; expected {size}")
    return False


class _Progress:
    """Log about every ten seconds: bytes received, speed, and remaining time."""

    def __init__(self, name: str, size: int, here: int) -> None:
        self._name, self._size = name, size
        self._last_time, self._last_here = time.monotonic(), here

    def show(self, here: int) -> None:
        seconds = time.monotonic() - self._last_time
        if seconds < LOG_EVERY_SECONDS:
            return
        speed = max(here - self._last_here, 1) / seconds
        logger.info(
            "%s: %.1f of %.1f MB (%.0f %%), %.1f MB/s, %.1f min left",
            self._name,
            here / MB,
            self._size / MB,
            100 * here / self._size,
            speed / MB,
            (self._size - here) / speed / 60,
        )
        self._last_time, self._last_here = time.monotonic(), here


def one_line(error: Exception) -> str:
    """Type and message of an error, without line breaks."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
