"""A server's every misbehaviour is bounded, retried or told in one sentence."""

import email.utils
import socket
import time
from typing import Any

import pytest
from small_server import serving

from mobileclip.captions.writers.endpoint import BODY_LIMIT, Endpoint, Refused, Unanswered
from mobileclip.errors import ServerError

ASK = {"messages": [{"content": "hello"}], "n": 1}


def endpoint(url: str, **options: Any) -> Endpoint:
    return Endpoint(
        f"{url}/chat/completions", **{"timeout": 0.4, "deadline": 4.0, "retries": 2, "pause": 0.01} | options
    )


@pytest.mark.parametrize(
    "how", ["status 500", "status 429", "status 503", "page 502", "short", "gone", "json {", "json [1]", "hang"]
)
def test_what_passes_by_itself_is_tried_again(how: str) -> None:
    with serving(how, how) as server:
        assert endpoint(server.url).post(ASK)["choices"]
        assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("status 500", "it answered 500 (it is 500) (3 tries)"),
        ("page 503", "it answered 503 (a web page) (3 tries)"),
        ("json {", "it answered what is no JSON ({) (3 tries)"),
        ("json [1]", "it answered JSON that is no object ([1]) (3 tries)"),
        ("hang", "no answer within 0.4 s (3 tries)"),
        ("gone", "the connection failed ("),
    ],
)
def test_tries_end(how: str, said: str) -> None:
    with serving(how, "…") as server, pytest.raises(Unanswered) as caught:
        endpoint(server.url).post(ASK)
    assert str(caught.value).startswith(said)
    assert len(server.requests) == 3


@pytest.mark.parametrize("how", ["drip", "drip_head"])
def test_a_server_that_drips_is_given_up_at_the_deadline(how: str) -> None:
    with serving(how, "…") as server, pytest.raises(Unanswered) as caught:
        endpoint(server.url, deadline=1.0).post(ASK)
    assert str(caught.value) == "no answer within 1 s, the deadline (1 try)"


def test_the_pause_that_a_server_asks_for_is_kept() -> None:
    with serving("status 429 1") as server:
        begun = time.monotonic()
        endpoint(server.url).post(ASK)
        assert time.monotonic() - begun >= 1
    date = email.utils.formatdate(time.time() + 3_600, usegmt=True)
    for asked in ("3600", date):
        with serving(f"status 429 {asked}", "…") as server, pytest.raises(Unanswered) as caught:
            endpoint(server.url).post(ASK)
        assert str(caught.value) == "it answered 429 (it is 429) (1 try)"
    for nonsense in ("nan", "-5", "soon", "inf"):
        with serving(f"status 429 {nonsense}") as server:
            if nonsense == "inf":
                with pytest.raises(Unanswered):
                    endpoint(server.url).post(ASK)
            else:
                endpoint(server.url).post(ASK)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("page", "answered 200 (a web page): give the address of an OpenAI-compatible API"),
        ("status 401", "answered 401 (it is 401): give the name of the environment variable with its key as key_env."),
        ("status 404", "answered 404 (it is 404): give the address of an OpenAI-compatible API"),
        ("moved", "answered 302 (nothing): redirections are not followed; give the address that it leads to."),
    ],
)
def test_what_is_wrong_for_all_is_raised_at_once(how: str, said: str) -> None:
    with serving(how, "…") as server, pytest.raises(ServerError, match=r"^http://127\.") as caught:
        endpoint(server.url).post(ASK)
    assert said in str(caught.value)
    assert len(server.requests) == 1


def test_what_is_wrong_with_one_request_is_refused_at_once() -> None:
    with serving("status 400", "huge") as server:
        with pytest.raises(Refused, match=r"^it answered 400 \(it is 400\)$"):
            endpoint(server.url).post(ASK)
        with pytest.raises(Refused, match=f"^it answered more than {BODY_LIMIT:,} bytes$"):
            endpoint(server.url).post(ASK)
        assert len(server.requests) == 2


def test_nobody_there() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # not listening: refused
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        with pytest.raises(Unanswered, match=r"^no connection \(Connection refused\) \(3 tries\)$"):
            endpoint(url).post(ASK)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("ftp://host/v1", "'ftp://host/v1' is no address of an API: write it as http://host:8000/v1."),
        ("http://", "'http://' is no address of an API: write it as http://host:8000/v1."),
        ("http://host:99999/v1", "is no address (Port out of range 0-65535): write it as http://host:8000/v1."),
        ("http://host/v1\r\nX: y", "is no address of an API"),
        ("http://me:secret@host/v1", "the address of host holds a password: leave it out, and give key_env."),
    ],
)
def test_addresses(url: str, said: str) -> None:
    with pytest.raises(ServerError) as caught:
        Endpoint(url)
    assert said in str(caught.value)
    assert "secret" not in str(caught.value)


def test_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving() as server:
        with pytest.raises(
            ServerError, match=r"is to be in SMALL_KEY, which is not set: export it, or leave key_env out."
        ):
            endpoint(server.url, key_env="SMALL_KEY")
        monkeypatch.setenv("SMALL_KEY", "a\nb")
        with pytest.raises(ServerError, match=r"the key in SMALL_KEY has characters that no key has: set it again."):
            endpoint(server.url, key_env="SMALL_KEY")
        monkeypatch.setenv("SMALL_KEY", "abc")
        endpoint(server.url, key_env="SMALL_KEY").post(ASK)
        assert server.headers[0]["Authorization"] == "Bearer abc"


def test_no_more_requests_a_second_than_are_allowed() -> None:
    with serving() as server:
        asked = endpoint(server.url, rate=20)
        begun = time.monotonic()
        for _ in range(7):
            asked.post(ASK)
        assert time.monotonic() - begun >= 6 / 20


def test_a_run_that_ends_does_not_wait_for_a_server() -> None:
    import threading

    with serving("hang", "…") as server:
        asked = endpoint(server.url, timeout=30, deadline=30)
        timer = threading.Timer(0.2, asked.stopped.set)
        timer.start()
        begun = time.monotonic()
        with pytest.raises(Unanswered):
            asked.post(ASK)
        assert time.monotonic() - begun < 10
