"""The page's server, and the page as a phone of the same network opens it: plain, by https, with strange answers."""

import dataclasses
import http.client
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from benchmarks import browser
from benchmarks.browser import find
from benchmarks.browser_page import built
from benchmarks.browser_phone import invitation, self_made, serve
from benchmarks.browser_server import PageServer, files_of
from mobileclip.errors import MobileClipError


@pytest.fixture(scope="module")
def page() -> Path:
    """The built page; skipped where npm or Chromium is missing."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not here")
    if not any(map(shutil.which, browser.CHROMIUM)):
        pytest.skip("Chromium is not here")
    return built()


def asked(url: str, path: str, method: str = "GET", body: bytes | None = None) -> tuple[int, dict[str, str], bytes]:
    where = urlsplit(url)
    connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=10)
    connection.request(method, path, body=body)
    answer = connection.getresponse()
    found = (answer.status, dict(answer.getheaders()), answer.read())
    connection.close()
    return found


def test_the_server_gives_out_what_it_was_handed_and_no_more(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("page")
    (tmp_path / "assets").mkdir()
    (tmp_path / "assets" / "run.wasm").write_bytes(b"\0asm")
    with PageServer(files_of(tmp_path), {"start": True}) as server:
        path = urlsplit(server.url).path
        assert len(path) > 20  # random: nobody guesses it
        status, headers, content = asked(server.url, path + "?x=1")
        assert (status, content, headers["Content-Type"]) == (200, b"page", "text/html; charset=utf-8")
        assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
        assert headers["Cross-Origin-Embedder-Policy"] == "require-corp"
        assert asked(server.url, path + "assets/run.wasm")[1]["Content-Type"] == "application/wasm"
        assert json.loads(asked(server.url, path + "job.json")[2]) == {"start": True}
        for strange in ("/", path + "assets", path + "../etc/passwd", path + "assets/%2e%2e/index.html", "/x" + path):
            assert asked(server.url, strange)[0] == 404
        assert asked(server.url, path + "post/progress", "POST", b'{"text": "on"}')[0] == 200
        assert server.events.get(timeout=5) == ("progress", {"text": "on"})
        for where, body in (("post/other", b"{}"), ("post/result", b"no json"), ("other", b"{}")):
            assert asked(server.url, path + where, "POST", body)[0] == 400
        assert (
            asked(server.url, path.replace(path[5], "_" if path[5] != "_" else "-") + "post/result", "POST", b"{}")[0]
            == 400
        )
        assert server.events.empty()


def test_an_address_that_cannot_be_used_is_told(nano_bundle: Path) -> None:
    with pytest.raises(MobileClipError, match=r"the page cannot be served at 192\.0\.2\.1:0 "):
        PageServer({"": b""}, None, host="192.0.2.1")
    for address in ("0.0.0.0", "my-phone", "::"):
        with pytest.raises(MobileClipError, match="is no address of one network: give the IPv4 address"):
            serve(nano_bundle, host=address)


def own_address() -> str:
    """An address of this machine that is not its loopback; a browser trusts it no more than a stranger's."""
    probe = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        probe.connect(("192.0.2.1", 9))  # sends nothing
        found: str = probe.getsockname()[0]
    except OSError:
        found = "127.0.0.1"
    finally:
        probe.close()
    if found.startswith("127."):
        pytest.skip("this machine has no address but its own")
    return found


def served(bundle: Path, flags: Sequence[str], **options: Any) -> tuple[list[dict[str, Any]], list[str]]:
    """`serve` with one visitor: Chromium, which starts at once and looks quickly."""
    said: list[str] = []
    found: list[dict[str, Any]] = []
    run: Callable[[], None] = lambda: found.extend(serve(bundle, most=1, say=said.append, **options))  # noqa: E731
    server = threading.Thread(target=run, daemon=True)
    server.start()
    for _ in range(600):
        if any("Open on the phone" in line for line in said) or not server.is_alive():
            break
        time.sleep(0.1)
    url = next(re.findall(r"https?://\S+", line)[0] for line in said if "Open on the phone" in line)
    visitor = dataclasses.replace(find(), flags=tuple(flags))
    with visitor._chromium(f"{url}?start&quick"):
        server.join(240)
    return found, said


def test_a_phone_without_https_has_one_thread_and_is_told(page: Path, nano_bundle: Path, tmp_path: Path) -> None:
    (result,), said = served(nano_bundle, (), host=own_address(), out=tmp_path)
    told = result["device"]["details"]
    assert (told["cross_origin_isolated"], told["secure_context"]) == (False, False)
    assert result["protocol"]["threads"] == 1
    assert told["providers"] == {"wasm": "used", "webgpu": "absent: WebGPU needs https or this very machine"}
    assert [side["known_answer"]["right"] for side in result["sides"]] == [
        True,
        True,
    ]  # and hashed without SubtleCrypto
    assert any("one thread, a coarse clock and no WebGPU" in line for line in said)
    assert [json.loads(path.read_text())["run"] for path in tmp_path.iterdir()] == [result["run"]]


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not here")
def test_a_phone_with_https_has_all_of_it(page: Path, nano_bundle: Path) -> None:
    (result,), _ = served(nano_bundle, ("--ignore-certificate-errors",), host=own_address(), https=True)
    assert result["device"]["details"]["cross_origin_isolated"] is True
    assert result["protocol"]["threads"] == min(os.cpu_count() or 1, 4)
    assert result["state"] == "complete"


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not here")
def test_a_certificate_is_of_its_address(tmp_path: Path) -> None:
    file = self_made("192.168.1.20", tmp_path)
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(file)
    assert file.stat().st_mode & 0o77 == 0  # it holds the key
    told = subprocess.run(["openssl", "x509", "-in", file, "-noout", "-ext", "subjectAltName"], capture_output=True)
    assert b"IP Address:192.168.1.20" in told.stdout


def test_without_openssl_there_is_a_sentence(monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MobileClipError, match="which openssl makes, which is not here"):
        self_made("192.168.1.20", tmp_path)


def test_openssl_that_fails_is_told(monkeypatch: Any, tmp_path: Path) -> None:
    (tmp_path / "openssl").write_text("#!/bin/sh\necho no entropy >&2; exit 1\n")
    (tmp_path / "openssl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(MobileClipError, match=r"openssl makes no certificate \(no entropy\): leave out https"):
        self_made("192.168.1.20", tmp_path)


def test_an_invitation_can_be_read_and_scanned() -> None:
    pytest.importorskip("segno")
    told = invitation("http://192.168.1.20:80/abc/", "192.168.1.20")
    assert "http://192.168.1.20:80/abc/" in told
    assert told.count("█") + told.count("\x1b") > 20
    assert "█" not in invitation("http://127.0.0.1:80/abc/", "127.0.0.1")


def test_a_strange_result_is_not_taken(page: Path, nano_bundle: Path) -> None:
    said: list[str] = []
    threading.Thread(target=lambda: serve(nano_bundle, most=1, say=said.append), daemon=True).start()
    for _ in range(600):
        if any("Open on the phone" in line for line in said):
            break
        time.sleep(0.1)
    url = re.findall(r"http://\S+", said[-1])[0]
    for body, told in (
        (b'{"schema": 7}', "not taken: what a page handed back is a result of schema version 7"),
        (b'{"schema": 2}', "not taken: what a page handed back is no whole result"),
    ):
        asked(url, urlsplit(url).path + "post/result", "POST", body)
        for _ in range(100):
            if said[-1].startswith("not taken"):
                break
            time.sleep(0.05)
        assert said.pop().startswith(told)
