"""The server of the browser page: page, job and files in, progress and result out.

It listens on this machine alone unless an address is asked for, answers under one random path, and gives out nothing
but what it was handed. COOP and COEP isolate the page, without which a browser has no threads.
"""

import hashlib
import json
import queue
import secrets
import shutil
import ssl
import sys
from collections.abc import Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import TracebackType
from typing import Any

import numpy as np

from benchmarks.protocol import Array, Plan, Subject
from mobileclip.errors import MobileClipError

MOST_BYTES = 64 << 20
"""Largest message that is taken: a result of an hour's samples has a few megabytes."""
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript",
    ".mjs": "text/javascript",
    ".css": "text/css",
    ".json": "application/json",
    ".wasm": "application/wasm",
}
HEADERS = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
MESSAGES = ("progress", "partial", "result", "failed")

Content = Path | bytes
Event = tuple[str, Any]
"""A message of the page and what it says."""


def files_of(page: Path) -> dict[str, Content]:
    """The built page, by name; the file of an empty name is what a browser opens."""
    found: dict[str, Content] = {
        path.relative_to(page).as_posix(): path for path in sorted(page.rglob("*")) if path.is_file()
    }
    return found | {"": found["index.html"]}


def job_of(
    subjects: Sequence[Subject], plan: Plan, providers: Sequence[str], *, start: bool, software: bool = False
) -> tuple[dict[str, Any], dict[str, Content]]:
    """What the page is asked to do, and the files that it needs for it, by name.

    Args:
        start: whether it begins without being asked.
        software: whether WebGPU may be software.
    """
    files: dict[str, Content] = {}

    def stored(name: str, content: Content, sha256: str | None = None) -> dict[str, Any]:
        files[name] = content
        if isinstance(content, bytes):
            return {"url": name, "sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
        told = sha256 or hashlib.sha256(content.read_bytes()).hexdigest()
        return {"url": name, "sha256": told, "bytes": content.stat().st_size}

    def array(name: str, values: Array) -> dict[str, Any]:
        little = np.ascontiguousarray(values).astype(values.dtype.newbyteorder("<"))
        return stored(name, little.tobytes()) | {"dtype": str(values.dtype), "shape": list(values.shape)}

    asked = []
    for index, subject in enumerate(subjects):
        entry, folder = subject.entry, f"data/{index}"
        asked.append(
            {
                "name": subject.name,
                "view": entry["view"],
                "artifact": stored(f"{folder}/artifact.onnx", subject.file, entry["sha256"])
                | {"bytes": entry["bytes"]},
                "input": entry["inputs"][0] if entry.get("inputs") else {"name": "", "kind": "", "shape": []},
                "outputs": list(entry.get("outputs") or ()),
                "feed": array(f"{folder}/input.bin", subject.feed),
                "expected": [array(f"{folder}/output{i}.bin", known) for i, known in enumerate(subject.expected)],
                "gate": {name: getattr(subject.gate, name) for name in ("db", "cosine", "equal", "found")},
                "picture": stored(f"{folder}/picture", subject.picture) if subject.picture else None,
                "labels": _labels(subject),
            }
        )
    how = {"plan": _plan(plan), "providers": list(providers), "software": software, "start": start}
    return {"subjects": asked, **how}, files


def _plan(plan: Plan) -> dict[str, Any]:
    names = ("runs", "seconds", "warmup_runs", "warmup_s", "threads", "end_to_end", "sustained_s", "model_bench")
    return {name: getattr(plan, name) for name in names}


def _labels(subject: Subject) -> int:
    if subject.bundle is None or not (subject.bundle / "labels.json").is_file():
        return 0
    words = json.loads((subject.bundle / "labels.json").read_text(encoding="utf-8"))
    return len(words["labels"] if isinstance(words, dict) else words)


class _Quiet(ThreadingHTTPServer):
    """Says nothing of connections that a browser drops."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handle_error(request, client_address)


class PageServer:
    """Serves `files` and `job` while it is open; what the page says is in `events`."""

    def __init__(
        self,
        files: Mapping[str, Content],
        job: Mapping[str, Any] | None,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        certificate: Path | None = None,
    ) -> None:
        """Bind; `certificate` is a PEM file with key and certificate, for https.

        Raises:
            MobileClipError: the address or port cannot be used.
        """
        self.events: queue.Queue[Event] = queue.Queue()
        self._files = dict(files)
        if job is not None:
            self._files["job.json"] = json.dumps(job).encode()
        self._path = f"/{secrets.token_urlsafe(16)}/"
        try:
            self._server = _Quiet((host, port), self._handler())
        except (OSError, OverflowError) as error:
            raise MobileClipError(
                f"the page cannot be served at {host}:{port} ({error}): give an address of this machine, and a free "
                "port or 0."
            ) from error
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        scheme = "https" if certificate else "http"
        self.url = f"{scheme}://{host}:{self._server.server_address[1]}{self._path}"

    def __enter__(self) -> "PageServer":
        Thread(target=self._server.serve_forever, args=(0.1,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        files, path, events = self._files, self._path, self.events

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 60

            def do_GET(self) -> None:
                where = self.path.split("?", 1)[0]
                name = where[len(path) :] if where.startswith(path) else None
                content = files.get(name) if name is not None else None
                if name is None or content is None:
                    return self._answer(404, "text/plain", b"there is nothing here")
                suffix = Path(name).suffix if name else ".html"
                self._answer(200, TYPES.get(suffix, "application/octet-stream"), content)

            def do_POST(self) -> None:
                kind = self.path.removeprefix(f"{path}post/")
                length = self.headers.get("Content-Length", "")
                if kind not in MESSAGES or not length.isdigit() or int(length) > MOST_BYTES:
                    self.close_connection = True  # what it still sends is not read
                    return self._answer(400, "text/plain", b"this is not taken")
                try:
                    said = json.loads(self.rfile.read(int(length)))
                except ValueError:
                    return self._answer(400, "text/plain", b"this is no JSON")
                events.put((kind, said))
                self._answer(200, "text/plain", b"")

            def _answer(self, status: int, kind: str, content: Content) -> None:
                size = content.stat().st_size if isinstance(content, Path) else len(content)
                self.send_response(status)
                for name, value in {**HEADERS, "Content-Type": kind, "Content-Length": str(size)}.items():
                    self.send_header(name, value)
                # the names of the page's parts hold their hashes; everything else may be another file tomorrow
                kept = "max-age=31536000, immutable" if "/assets/" in self.path else "no-store"
                self.send_header("Cache-Control", kept if status == 200 else "no-store")
                self.end_headers()
                if isinstance(content, bytes):
                    self.wfile.write(content)
                else:
                    with content.open("rb") as file:
                        shutil.copyfileobj(file, self.wfile, 1 << 20)

            def log_message(self, format: str, *args: object) -> None:
                """Requests are not told."""

        return Handler
