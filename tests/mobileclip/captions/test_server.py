"""Captions from a real server on the loopback, well-behaved and not."""

import json
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_server import picture, serving

from mobileclip.captions.writers.captioner import Answer, Ask, Options
from mobileclip.captions.writers.server import SPENT, ServerWriter
from mobileclip.data.decode import Pixels
from mobileclip.errors import ServerError


def pixels(seed: int, height: int = 60, width: int = 90) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def asks(count: int = 5, prompt: str = "Describe it.") -> list[Ask]:
    return [Ask(uid=str(number), pixels=pixels(number), prompts=(prompt,)) for number in range(count)]


def writer(url: str, **options: Any) -> ServerWriter:
    given = {"model": "small", "timeout": 0.5, "deadline": 3.0, "retries": 2, "k": 3} | options
    return ServerWriter(Options(url=url, **given), "vlm", pause=0.01)


def test_a_request_says_what_is_wanted() -> None:
    with serving() as server:
        (answer,) = writer(server.url, max_tokens=40, side=64, logprobs=True, repetition_penalty=1.2)(asks(1))
        (request,) = server.requests
    assert len(answer.texts) == 3
    assert answer.lp == (-1.0,) * 3
    assert answer.n_tok == (2,) * 3
    assert answer.ended == (True,) * 3
    assert {name: request[name] for name in ("model", "n", "max_tokens", "top_p", "temperature")} == {
        "model": "small", "n": 3, "max_tokens": 40, "top_p": 0.9, "temperature": 1.0,
    }  # fmt: skip
    assert request["repetition_penalty"] == 1.2
    assert picture(request).size == (64, 43)
    assert request["messages"][0]["content"][1] == {"type": "text", "text": "Describe it."}


def test_answers_come_in_order_and_follow_from_the_sample() -> None:
    with serving() as server:
        first = writer(server.url, concurrency=4)(asks(12))
        again = writer(server.url, concurrency=1)(asks(12)[::-1])
    assert first == again[::-1]
    assert len({text for answer in first for text in answer.texts}) == 36


def test_a_server_that_gives_one_choice_is_asked_again() -> None:
    with serving("few", "few", "few") as server:
        (answer,) = writer(server.url)(asks(1))
        assert [request["n"] for request in server.requests] == [3, 2, 1]
    assert len(set(answer.texts)) == 3
    assert answer.n_tok == (10, 10, 10)


def test_prompts_of_their_own_and_text_alone() -> None:
    ask = Ask(uid="a", prompts=("one", "two", "three"), system="Be brief.")
    with serving() as server:
        writer(server.url, sampling="top_p")([ask])
        assert [request["messages"][1]["content"] for request in server.requests] == ["one", "two", "three"]
        assert {request["messages"][0]["content"] for request in server.requests} == {"Be brief."}
        assert len({request["seed"] for request in server.requests}) == 3


def test_the_likeliest_text_is_asked_for_without_a_seed() -> None:
    with serving() as server:
        writer(server.url, sampling="greedy", k=1)(asks(1))
        assert server.requests[0]["temperature"] == 0
        assert "seed" not in server.requests[0]


@pytest.mark.parametrize(
    ("how", "problem"),
    [
        ("status 400", "server: it answered 400 (it is 400)"),
        ('json {"choices": []}', "server: it answered without a text"),
        (
            'json {"choices": [{"message": {"content": null}}, 7, {"message": "x"}]}',
            "server: it answered without a text",
        ),
        ("json {}", "server: it answered without a text"),
        ("huge", "server: it answered more than 8,000,000 bytes"),
    ],
)
def test_a_sample_that_fails_is_a_row_that_says_so(how: str, problem: str) -> None:
    with serving("well", how, "well") as server:
        answers = writer(server.url, concurrency=1)(asks(3))
    assert [answer.problem for answer in answers] == ["", problem, ""]


def test_one_sample_may_go_unanswered_where_others_are_not() -> None:
    with serving("well", "status 500", "status 500", "status 500", "well") as server:
        answers = writer(server.url, concurrency=1)(asks(3))
    assert [answer.problem for answer in answers] == ["", "server: it answered 500 (it is 500) (3 tries)", ""]


@pytest.mark.parametrize("how", ["hang", "status 503", "drip", "page 502"])
def test_a_server_that_answers_nobody_ends_the_run(how: str) -> None:
    with serving(how, "…") as server, pytest.raises(ServerError) as caught:
        writer(server.url, deadline=1.0, timeout=0.3)(asks(6))
    assert "/v1/chat/completions answers nobody: " in str(caught.value)
    assert str(caught.value).endswith("; start it or correct the address, and run again: what is finished is kept.")


def test_a_server_that_dies_ends_the_run() -> None:
    with (
        serving("well", "well", *["status 500"] * 99) as server,
        pytest.raises(ServerError, match="answers nobody: it"),
    ):
        writer(server.url, concurrency=1, retries=0)(asks(20))
    assert len(server.requests) == 2 + 4


def test_a_server_that_refuses_everything_ends_the_run() -> None:
    with serving("status 400", "…") as server, pytest.raises(ServerError) as caught:
        writer(server.url)(asks(60))
    assert "refused 32 samples in a row, the last because it answered 400 (it is 400): correct" in str(caught.value)


def test_nobody_there_and_a_page() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(ServerError, match=r"answers nobody: no connection \(Connection refused\) \(3 tries\);"):
            writer(f"http://127.0.0.1:{taken.getsockname()[1]}")(asks(2))
    with serving("page", "…") as server, pytest.raises(ServerError, match=r"answered 200 \(a web page\): give the"):
        writer(server.url)(asks(2))


def test_the_cap_stops_before_it_is_passed(tmp_path: Path) -> None:
    # a request may cost 1,369 tokens of the picture, 6 of the prompt and 3 * 30; the server says 200 and 30
    options = {
        "price_in": 1.0,
        "price_out": 1.0,
        "max_cost": 3.0,
        "concurrency": 1,
        "cache": str(tmp_path),
        "side": 518,
    }
    with serving() as server:
        found: list[Answer] = []
        with pytest.raises(ServerError, match=r"of max_cost 3 is spent, and the next request may cost 1\.465"):
            writer(server.url, **options)(asks(50), lambda place, answer: found.append(answer))
        assert 0 < len(server.requests) == len(found) == 7  # 7 * 0.23 + 1.465 is more than 3
        assert json.loads((tmp_path / SPENT).read_text()) == {"spent": pytest.approx(7 * 0.23)}
        with pytest.raises(ServerError, match="max_cost"):
            writer(server.url, **options)(asks(1))


def test_what_a_server_sends_is_not_believed() -> None:
    nonsense = {
        "choices": [
            {"message": {"content": "x" * 50_000}, "logprobs": {"content": [{"logprob": "low"}, {"logprob": 5}]}},
            {"message": {"content": "too many"}},
        ],
        "usage": {"prompt_tokens": 1e99, "completion_tokens": -3},
    }
    with serving("json " + json.dumps(nonsense)) as server:
        (answer,) = writer(server.url, k=1)(asks(1))
    assert [len(text) for text in answer.texts] == [16_000]
    assert (answer.lp, answer.n_tok) == ((None,), (None,))


def test_a_real_model_behind_the_server(tmp_path: Path) -> None:
    from small_writers import blip

    from mobileclip.captions.writers.transformers_captioner import load

    model = load(Options(model=str(blip(tmp_path / "blip")), k=2, max_tokens=6), "inside", looks=True)

    def write(request: dict[str, Any]) -> list[str]:
        seen = np.asarray(picture(request).convert("RGB"))
        return list(model([Ask(uid=str(request["seed"]), pixels=seen)])[0].texts)

    with serving(write=write) as server:
        answers = writer(server.url, k=2, timeout=60.0, deadline=60.0, concurrency=1)(asks(3))
    assert all(len(answer.texts) == 2 and not answer.problem for answer in answers)
    assert len({answer.texts for answer in answers}) == 3
