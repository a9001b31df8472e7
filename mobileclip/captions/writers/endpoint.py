"""One address of a server that answers JSON with JSON, and all that can go wrong with it, bounded.

    endpoint = Endpoint("http://127.0.0.1:8000/v1/chat/completions", timeout=60, deadline=300, retries=4)
    answer = endpoint.post({"model": "…"})                  # a JSON object, or an exception that says what came instead

What passes by itself (no connection, too many requests, the server's own failures, half an answer) is tried again, the
pause doubling each time and no shorter than the server asks for. Every wait for a byte is bounded, and so is the whole:
a server that sends a byte a minute is given up at the deadline. Bodies are read up to a limit.

Redirections are not followed, proxies of the environment not used, and what a server sends is data in every case.
"""

import email.utils
import http.client
import io
import json
import os
import random
import socket
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from mobileclip.errors import ServerError

BODY_LIMIT = 8_000_000
"""Bytes of an answer that are read."""
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 60.0
"""Seconds between tries where the server names none: at first, and at most."""

_PASSING = (408, 409, 425, 429)  # and 500 to 599: tried again
_OURS = (401, 403, 404, 405, 407)  # and 300 to 399: wrong for every request


class Unanswered(Exception):
    """This request was not answered after all tries; `str()` says what came instead."""


class Refused(Exception):
    """The server does not take this request, and would not when asked again."""


class _Passing(Exception):
    """What went wrong in a try that may go well the next time; `pause` is in seconds, what the server asks for."""

    def __init__(self, reason: str, pause: float = 0.0) -> None:
        super().__init__(reason)
        self.reason, self.pause = reason, pause


class Endpoint:
    """An address.

    Args:
        url: http(s), with the path.
        timeout: seconds without a byte before a try is given up.
        deadline: seconds for a request with all its tries.
        retries: further tries.
        rate: requests a second; 0: no limit.
        key_env: environment variable with the key that is sent as a bearer's token; "": none.

    Raises:
        ServerError: the address is none, or the key is missing.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout: float = 60.0,
        deadline: float = 300.0,
        retries: int = 4,
        rate: float = 0.0,
        key_env: str = "",
        pause: float = FIRST_PAUSE,
    ) -> None:
        self.url, self.timeout, self.deadline, self.retries, self.pause = url, timeout, deadline, retries, pause
        self._secure, self._host, self._port, self._path = _parts(url)
        self._headers = {"Content-Type": "application/json", "Accept": "application/json", "Connection": "close"}
        self._headers["Accept-Encoding"] = "identity"
        if key_env:
            self._headers["Authorization"] = f"Bearer {_key(key_env, url)}"
        self._turn = _Turn(rate)
        self.stopped = threading.Event()
        """Set: waiting requests give up."""

    def post(self, payload: Mapping[str, Any], tried: Callable[[], None] | None = None) -> dict[str, Any]:
        """Send a JSON object, get one; `tried` is called before each try.

        Raises:
            Unanswered: all tries failed.
            Refused: the server does not take this request.
            ServerError: the server takes none.
        """
        body = json.dumps(payload).encode()
        self._turn.wait(self.stopped)
        end, said, tries = time.monotonic() + self.deadline, "", 0
        while tries <= self.retries and not self.stopped.is_set():
            if tries:
                self._turn.wait(self.stopped)
            tries += 1
            if tried is not None:
                tried()
            try:
                return self._once(body, end)
            except _Passing as passing:
                said = passing.reason
                own = min(self.pause * 2 ** (tries - 1), LONGEST_PAUSE)
                pause = max(passing.pause, own * random.uniform(0.75, 1.25))  # so that clients do not come in step
            if pause >= end - time.monotonic():
                break
            if tries <= self.retries:
                self.stopped.wait(pause)
        raise Unanswered(f"{said or 'the run ended'} ({tries} {'try' if tries == 1 else 'tries'})")

    def _once(self, body: bytes, end: float) -> dict[str, Any]:
        connection, timed = self._connection(end)
        try:
            connection.request("POST", self._path, body, self._headers)
            response = connection.getresponse()
            content = _body(response)
        except TimeoutError as error:
            raise _Passing(f"no answer within {self._seconds(end)}") from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = " ".join(str(error).split())[:120] or type(error).__name__
            raise _Passing(f"the connection failed ({reason})") from error
        finally:
            timed.hang_up()
        return self._judged(response, content)

    def _connection(self, end: float) -> tuple[http.client.HTTPConnection, "_Timed"]:
        kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
        connection = kind(self._host, self._port, timeout=max(0.01, min(self.timeout, end - time.monotonic())))
        try:
            connection.connect()
        except TimeoutError as error:
            raise _Passing(f"no connection within {self._seconds(end)}") from error
        except OSError as error:
            reason = error.strerror or " ".join(str(error).split())[:120]
            raise _Passing(f"no connection ({reason})") from error
        assert connection.sock is not None
        timed = connection.sock = _Timed(connection.sock, end, self.timeout, self.stopped)
        return connection, timed

    def _judged(self, response: http.client.HTTPResponse, content: bytes) -> dict[str, Any]:
        """The JSON object of an answer, or the exception that its status or its body means."""
        status, page = response.status, _is_page(response, content)
        told = "a web page" if page else _told(content)
        if status in _PASSING or status >= 500:
            raise _Passing(f"it answered {status} ({told})", pause=_wanted_pause(response))
        if status in _OURS or 300 <= status < 400 or (page and status < 500):
            raise ServerError(f"{self.url} answered {status} ({told}): {_advice(status)}.")
        if status != 200:
            raise Refused(f"it answered {status} ({told})")
        try:
            found = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise _Passing(f"it answered what is no JSON ({told})") from error
        if not isinstance(found, dict):
            raise _Passing(f"it answered JSON that is no object ({told})")
        return found

    def _seconds(self, end: float) -> str:
        late = end - time.monotonic() <= 0.05
        return f"{self.deadline:g} s, the deadline" if late else f"{self.timeout:g} s"


class _Turn:
    """When the next request may go: at most so many a second, evenly."""

    def __init__(self, rate: float) -> None:
        self._gap, self._next, self._lock = (1 / rate if rate else 0.0), 0.0, threading.Lock()

    def wait(self, stopped: threading.Event) -> None:
        if not self._gap:
            return
        with self._lock:
            now = time.monotonic()
            mine = max(now, self._next)
            self._next = mine + self._gap
        stopped.wait(mine - now)


class _Timed:
    """A socket of which every wait is bounded, by the time without a byte and by the time that is left."""

    def __init__(self, inner: socket.socket, end: float, timeout: float, stopped: threading.Event) -> None:
        self._inner, self._end, self._timeout, self._stopped = inner, end, timeout, stopped

    def receive(self, buffer: Any) -> int:
        """As `recv_into`; looks up every second whether anybody still waits for it."""
        silent = min(self._end, time.monotonic() + self._timeout)
        while (left := silent - time.monotonic()) > 0 and not self._stopped.is_set():
            self._inner.settimeout(min(1.0, left))
            try:
                return self._inner.recv_into(buffer)
            except TimeoutError:
                continue
        raise TimeoutError

    def sendall(self, data: Any) -> None:
        """All of it, or TimeoutError."""
        left = min(self._end - time.monotonic(), self._timeout)
        if left <= 0:
            raise TimeoutError
        self._inner.settimeout(left)
        self._inner.sendall(data)

    def makefile(self, mode: str) -> io.BufferedReader:
        assert mode == "rb"
        return io.BufferedReader(_Stream(self))

    def close(self) -> None:
        """What the connection does when the answer begins, which is read after that."""

    def hang_up(self) -> None:
        """Close it."""
        self._inner.close()


class _Stream(io.RawIOBase):
    """What arrives on a `_Timed` socket."""

    def __init__(self, timed: _Timed) -> None:
        self._timed = timed

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._timed.receive(buffer)


def _body(response: http.client.HTTPResponse) -> bytes:
    parts, size = [], 0
    while block := response.read1(65_536):
        parts.append(block)
        size += len(block)
        if size > BODY_LIMIT:
            raise Refused(f"it answered more than {BODY_LIMIT:,} bytes")
    return b"".join(parts)


def _parts(url: str) -> tuple[bool, str, int | None, str]:
    try:
        found = urlsplit(url)
        host, port = found.hostname, found.port
    except ValueError as error:
        raise ServerError(f"'{url[:200]}' is no address ({error}): write it as http://host:8000/v1.") from error
    plain = url.isascii() and url.isprintable() and " " not in url
    if found.scheme not in ("http", "https") or not host or not plain or found.query or found.fragment:
        raise ServerError(f"'{url[:200]}' is no address of an API: write it as http://host:8000/v1.")
    if found.username or found.password:
        raise ServerError(f"the address of {host} holds a password: leave it out, and give key_env.")
    return found.scheme == "https", host, port, found.path


def _key(name: str, url: str) -> str:
    key = os.environ.get(name, "").strip()
    if not key:
        raise ServerError(f"the key for {url} is to be in {name}, which is not set: export it, or leave key_env out.")
    if not (key.isascii() and key.isprintable()):
        raise ServerError(f"the key in {name} has characters that no key has: set it again.")
    return key


def _wanted_pause(response: http.client.HTTPResponse) -> float:
    """Seconds of Retry-After, which is a number or a date; 0 where there is none."""
    text = (response.getheader("Retry-After") or "").strip()
    if not text:
        return 0.0
    try:
        return max(0.0, min(float(text), 86_400.0)) if float(text) == float(text) else 0.0
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return 0.0


def _is_page(response: http.client.HTTPResponse, content: bytes) -> bool:
    kind = (response.getheader("Content-Type") or "").lower()
    return "html" in kind or content.lstrip()[:15].lower().startswith((b"<!doctype", b"<html", b"<?xml"))


def _told(content: bytes) -> str:
    """What an answer says, in a line: the message of its error where it has one."""
    try:
        found = json.loads(content[:65_536])
        found = found.get("error", found.get("message", found.get("detail", found)))
        found = found.get("message", found) if isinstance(found, dict) else found
        text = found if isinstance(found, str) else json.dumps(found)
    except (ValueError, AttributeError, RecursionError):
        text = content[:400].decode("utf-8", "replace")
    line = " ".join("".join(one if one.isprintable() else " " for one in text).split())
    return line[:160] or "nothing"


def _advice(status: int) -> str:
    if status in (401, 403, 407):
        return "give the name of the environment variable with its key as key_env"
    if 300 <= status < 400:
        return "redirections are not followed; give the address that it leads to"
    return "give the address of an OpenAI-compatible API, up to and without /chat/completions, and a model that it has"
