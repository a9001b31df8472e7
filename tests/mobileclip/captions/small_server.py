"""An OpenAI-compatible server on the loopback that can be told to behave badly."""

import base64
import hashlib
import io
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from PIL import Image

Write = Callable[[dict[str, Any]], list[str]]
"""A request -> as many texts as it asks for."""


def plain(request: dict[str, Any]) -> list[str]:
    """Texts that follow from the request alone."""
    content = request["messages"][-1]["content"]
    said = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:6]
    return [f"text {said} {request.get('seed', 0) + number}" for number in range(request["n"])]


def picture(request: dict[str, Any]) -> Image.Image:
    """The picture of a request."""
    url = request["messages"][-1]["content"][0]["image_url"]["url"]
    head, _, data = url.partition(",")
    assert head == "data:image/jpeg;base64"
    return Image.open(io.BytesIO(base64.b64decode(data)))


class SmallServer(ThreadingHTTPServer):
    """Does what `script` says for its first requests, or for all if it ends in "…"; then it answers well."""

    daemon_threads = True

    def __init__(self, script: list[str], write: Write) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.script, self.write, self.lock = script, write, threading.Lock()
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.over = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_address[1]}/v1"

    def next(self) -> str:
        with self.lock:
            if self.script and self.script[-1] == "…":
                return self.script[0]
            return self.script.pop(0) if self.script else "well"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are what is tested."""


@contextmanager
def serving(*script: str, write: Write = plain) -> Iterator[SmallServer]:
    """A server while the block runs."""
    server = SmallServer(list(script), write)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.over.set()
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: SmallServer

    def log_message(self, *args: Any) -> None:
        """Nothing."""

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.requests.append(request)
            self.server.headers.append(dict(self.headers))
        how = self.server.next()
        getattr(self, f"be_{how.partition(' ')[0]}")(request, how.partition(" ")[2])

    def answer(self, content: Any, status: int = 200, kind: str = "application/json", **headers: str) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        said = {"Content-Type": kind, "Content-Length": str(len(data))}
        for name, value in (said | {name.replace("_", "-"): value for name, value in headers.items()}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def be_well(self, request: dict[str, Any], _: str) -> None:
        self.answer(self.reply(request, self.server.write(request)))

    def reply(self, request: dict[str, Any], texts: list[str]) -> dict[str, Any]:
        told = {"content": [{"token": "a", "logprob": -0.5}, {"token": "b", "logprob": -1.5}]}
        choices = [
            {
                "message": {"role": "assistant", "content": text},
                "finish_reason": "length" if "endless" in text else "stop",
                **({"logprobs": told} if request.get("logprobs") else {}),
            }
            for text in texts
        ]
        return {"choices": choices, "usage": {"prompt_tokens": 200, "completion_tokens": 10 * len(texts)}}

    def be_few(self, request: dict[str, Any], _: str) -> None:
        self.answer(self.reply(request, self.server.write(request)[:1]))

    def be_status(self, request: dict[str, Any], said: str) -> None:
        status, _, pause = said.partition(" ")
        headers = {"Retry_After": pause} if pause else {}
        self.answer({"error": {"message": f"it is {status}"}}, int(status), **headers)

    def be_page(self, request: dict[str, Any], status: str) -> None:
        self.answer(b"<!DOCTYPE html><title>Welcome</title>", int(status or 200), "text/html")

    def be_moved(self, request: dict[str, Any], _: str) -> None:
        self.answer(b"", 302, Location="http://127.0.0.1:1/")

    def be_json(self, request: dict[str, Any], text: str) -> None:
        self.answer(text.encode())

    def be_hang(self, request: dict[str, Any], _: str) -> None:
        self.server.over.wait(20)

    def be_drip(self, request: dict[str, Any], _: str) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "1000000")
        self.end_headers()
        while not self.server.over.wait(0.05):
            self.wfile.write(b" ")

    def be_drip_head(self, request: dict[str, Any], _: str) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        while not self.server.over.wait(0.05):
            self.wfile.write(b"y")

    def be_huge(self, request: dict[str, Any], _: str) -> None:
        self.send_response(200)
        self.end_headers()
        for _number in range(200):
            self.wfile.write(b" " * 100_000)

    def be_short(self, request: dict[str, Any], _: str) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(b'{"choices": [')

    def be_gone(self, request: dict[str, Any], _: str) -> None:
        self.connection.close()
