"""A vLLM or other OpenAI-compatible server as a writer of texts, for pictures or for text alone.

    writer = ServerWriter(options, "vlm")               # options: url, model, key_env, rate, max_cost, ...

Pictures go as JPEG in the request, at a bounded size. Where all K texts of a sample have one prompt, one request asks
for K choices; a server that gives fewer is asked again for the rest. A sample that the server refuses, or does not
answer after all tries, is a row that says so; a server that answers nobody ends the run.

Source: OpenAI's API reference, "Create chat completion"; vLLM, "OpenAI-Compatible Server".
"""

import base64
import io
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from PIL import Image

from mobileclip.captions.writers.captioner import LONGEST, Answer, Ask, Kept, Options
from mobileclip.captions.writers.endpoint import Endpoint, Refused, Unanswered
from mobileclip.captions.writers.sampling import row_keys
from mobileclip.captions.writers.spending import Spending
from mobileclip.data.decode import Pixels
from mobileclip.errors import ServerError

QUALITY = 90
"""Of the JPEG that is sent."""
SPENT = "spent.json"
"""In the folder of the cache: what all requests have cost."""

_PATCH = 14  # pixels a side for which a vision model has a token, at the most
_REFUSALS = 32  # samples in a row after which a server is taken to refuse all


class ServerWriter:
    """K texts a sample from a server.

    Raises:
        ServerError: the address is none, or the key is missing.
    """

    def __init__(self, options: Options, stage: str, *, pause: float = 0.5) -> None:
        self.options, self.stage = options, stage
        self.endpoint = Endpoint(
            options.url.rstrip("/").removesuffix("/chat/completions") + "/chat/completions",
            timeout=options.timeout,
            deadline=options.deadline,
            retries=options.retries,
            rate=options.rate,
            key_env=options.key_env,
            pause=pause,
        )
        ledger = Path(options.cache) / SPENT if options.cache else None
        self.spending = Spending(options.max_cost, options.price_in, options.price_out, ledger)
        self._health = _Health(self.endpoint.url, max(4, options.concurrency))
        self._lock = threading.Lock()
        self._read = 0  # most tokens that the server says a request had
        self.requests = 0
        """Tries that were sent."""
        self.provenance: Mapping[str, Any] = {
            "captioner": "server",
            "model": options.model,
            "revision": options.revision,
            "licence": options.licence,
            **options.sampled,
            "side": options.side,
            "quality": QUALITY,
        }

    def __call__(self, asks: Sequence[Ask], kept: Kept | None = None) -> list[Answer]:
        self.endpoint.stopped.clear()
        self._ended: ServerError | None = None
        with ThreadPoolExecutor(self.options.concurrency, thread_name_prefix=self.stage) as pool:
            futures = [pool.submit(self._guarded, place, ask, kept) for place, ask in enumerate(asks)]
            try:
                answers = [future.result() for future in futures]
            except BaseException:
                self.endpoint.stopped.set()
                pool.shutdown(cancel_futures=True)
                raise
        if self._ended is not None:
            raise self._ended
        return answers

    def _guarded(self, place: int, ask: Ask, kept: Kept | None) -> Answer:
        """An answer, or the row that says why there is none; what ends the run is noted, and the others stop."""
        try:
            answer = Answer(problem="stopped") if self.endpoint.stopped.is_set() else self._told(ask)
        except ServerError as error:
            with self._lock:
                self._ended = self._ended or error
            self.endpoint.stopped.set()
            return Answer(problem="stopped")
        if kept is not None and not answer.problem:
            kept(place, answer)
        return answer

    def _told(self, ask: Ask) -> Answer:
        try:
            answer = self._answer(ask)
        except (Unanswered, Refused) as error:
            if not self.endpoint.stopped.is_set():
                self._health.ill(error)
            return Answer(problem=f"server: {error}")
        self._health.well()
        return answer

    def _answer(self, ask: Ask) -> Answer:
        k, apart = self.options.k, len(ask.prompts) > 1
        picture = None if ask.pixels is None else _data_url(ask.pixels, self.options.side)
        parts: list[Answer] = []
        while (number := sum(len(part.texts) for part in parts)) < k:
            count = 1 if apart else k - number
            parts.append(self._request(ask, picture, number, count))
        return Answer(
            texts=tuple(text for part in parts for text in part.texts),
            lp=tuple(value for part in parts for value in part.lp),
            n_tok=tuple(value for part in parts for value in part.n_tok),
            ended=tuple(value for part in parts for value in part.ended),
        )

    def _request(self, ask: Ask, picture: str | None, number: int, count: int) -> Answer:
        """Up to `count` texts from text `number` on, and at least one."""
        prompt = ask.prompt(number)
        payload = self._payload(ask, prompt, picture, number, count)
        read = max(
            self._read, (len(prompt) + len(ask.system)) // 2 + (self.options.side // _PATCH) ** 2 * bool(picture)
        )
        with self.spending.held(read, count * self.options.max_tokens) as hold:
            try:
                found = self.endpoint.post(payload, self._tried)
            except (Refused, ServerError):
                hold.free()
                raise
            self._read = max(self._read, hold.used(found.get("usage")))
        return _choices(found, count)

    def _payload(self, ask: Ask, prompt: str, picture: str | None, number: int, count: int) -> dict[str, Any]:
        options = self.options
        content: Any = prompt
        if picture is not None:
            content = [{"type": "image_url", "image_url": {"url": picture}}]
            content += [{"type": "text", "text": prompt}] if prompt else []
        messages = [{"role": "system", "content": ask.system}] if ask.system else []
        drawn = options.sampling == "top_p"
        key = int(row_keys([ask.uid], self.stage, number + 1, options.seed)[0, number])
        return {
            "model": options.model,
            "messages": [*messages, {"role": "user", "content": content}],
            "max_tokens": options.max_tokens,
            "n": count,
            "temperature": options.temperature if drawn else 0,
            **({"top_p": options.top_p, "seed": key & 0x7FFFFFFF} if drawn else {}),
            **({"repetition_penalty": options.repetition_penalty} if options.repetition_penalty != 1 else {}),
            **({"min_tokens": options.min_tokens} if options.min_tokens else {}),
            **({"logprobs": True} if options.logprobs else {}),
        }

    def _tried(self) -> None:
        self.requests += 1


class _Health:
    """Whether a server still answers anybody."""

    def __init__(self, url: str, patience: int) -> None:
        self._url, self._patience, self._lock = url, patience, threading.Lock()
        self._silent = self._no = 0
        self._ever = False

    def well(self) -> None:
        with self._lock:
            self._silent = self._no = 0
            self._ever = True

    def ill(self, error: Unanswered | Refused) -> None:
        """Count; raises ServerError when the server answers nobody, or refuses everything."""
        with self._lock:
            if isinstance(error, Refused):
                self._no += 1
                if self._no >= _REFUSALS:
                    raise ServerError(
                        f"{self._url} refused {self._no} samples in a row, the last because {error}: correct the "
                        "options, and run again."
                    )
                return
            self._silent += 1
            if not self._ever or self._silent >= self._patience:
                raise ServerError(
                    f"{self._url} answers nobody: {error}; start it or correct the address, and run again: what is "
                    "finished is kept."
                )


def _choices(found: Mapping[str, Any], count: int) -> Answer:
    """What a server wrote, checked; no more than was asked for."""
    choices = found.get("choices")
    texts, lps, counts, ended = [], [], [], []
    for choice in choices[:count] if isinstance(choices, list) else []:
        message = choice.get("message") if isinstance(choice, dict) else None
        content = message.get("content") if isinstance(message, dict) else None
        if not isinstance(content, str):
            continue
        values = _logprobs(choice)
        texts.append(content[: 4 * LONGEST])
        lps.append(sum(values) / len(values) if values else None)
        counts.append(len(values) or None)
        ended.append(choice.get("finish_reason") != "length")
    if not texts:
        raise Refused("it answered without a text")
    used = found.get("usage")
    written = used.get("completion_tokens") if isinstance(used, dict) else None
    if len(texts) == 1 and counts[0] is None and type(written) is int and 0 <= written < 10**6:
        counts[0] = written
    return Answer(texts=tuple(texts), lp=tuple(lps), n_tok=tuple(counts), ended=tuple(ended))


def _logprobs(choice: Mapping[str, Any]) -> list[float]:
    told = choice.get("logprobs")
    content = told.get("content") if isinstance(told, dict) else None
    values = [one.get("logprob") for one in content if isinstance(one, dict)] if isinstance(content, list) else []
    found = [float(value) for value in values if isinstance(value, int | float) and -1e4 < value <= 0]
    return found if len(found) == len(values) else []


def _data_url(pixels: Pixels, side: int) -> str:
    """RGB uint8 [H, W, 3] as a JPEG of at most `side` pixels a side."""
    image = Image.fromarray(pixels)
    scale = side / max(image.size)
    if scale < 1:
        width, height = (max(1, round(length * scale)) for length in image.size)
        image = image.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=2.0)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
