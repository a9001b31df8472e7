"""transformers models as writers: BLIP, BLIP-2, Florence-2, any image-text-to-text model, and language models.

    writer = load(options, "blip", looks=True)            # options.model: a repository or a folder
    writer = load(options, "rewrite", looks=False)        # a language model, for text alone

Only models that transformers itself knows are loaded: no code of a repository runs, weights are safetensors, and every
one must be there. A model with a chat template is asked in its form, another one gets the prompt as it is.

Unusual here: samples are drawn by this toolkit's race (see sampling.py) inside `generate`, so that K captions of many
pictures are written in one batch and yet follow from each sample alone. What the batch does decide is the last bits of
the logits; where models pad prompts of unequal length, a few more of them. Decoders without an encoder read a picture
K times for K captions: that is how transformers expands a batch.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mobileclip.captions.writers.captioner import Answer, Ask, Kept, Options, picture
from mobileclip.captions.writers.sampling import Words, draw, row_keys
from mobileclip.errors import CheckpointError, MissingExtra


def load(options: Options, stage: str, *, looks: bool) -> "TransformersWriter":
    """The model that options name; `looks`: one for pictures.

    Raises:
        MissingExtra: transformers is not installed.
        CheckpointError: the model is not there, or cannot be loaded.
    """
    try:
        import transformers
    except ModuleNotFoundError as error:
        if error.name != "transformers":
            raise
        raise MissingExtra(
            "captions by transformers models need transformers: pip install 'mobileclip-toolkit[captioners]'"
        ) from error
    kind = transformers.AutoModelForImageTextToText if looks else transformers.AutoModelForCausalLM
    where: dict[str, Any] = {"local_files_only": options.offline, "trust_remote_code": False}
    if options.revision:
        where["revision"] = options.revision
    bars = transformers.utils.logging.is_progress_bar_enabled()
    transformers.utils.logging.disable_progress_bar()
    try:
        processor = (transformers.AutoProcessor if looks else transformers.AutoTokenizer).from_pretrained(
            options.model, **where
        )
        model, info = kind.from_pretrained(
            options.model,
            use_safetensors=True,
            dtype=torch.bfloat16 if options.bf16 else torch.float32,
            output_loading_info=True,
            **where,
        )
    except Exception as error:  # of the hub, of a file, of a configuration, of a class that needs a further package
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise CheckpointError(
            f"'{options.model}' cannot be loaded by transformers {transformers.__version__} ({lines[0][:200]}): give a "
            "repository or a folder of a model that it knows, with safetensors."
        ) from error
    finally:
        if bars:
            transformers.utils.logging.enable_progress_bar()
    missing = sorted(info["missing_keys"])
    if missing:
        raise CheckpointError(
            f"'{options.model}' lacks {len(missing)} tensors of its model ({', '.join(missing[:3])}): give all its "
            "weights."
        )
    return TransformersWriter(model, processor, options, stage)


class TransformersWriter:
    """K texts a sample by a transformers model and its processor, or its tokenizer."""

    def __init__(self, model: Any, processor: Any, options: Options, stage: str) -> None:
        import transformers

        self.model = model.eval().requires_grad_(False).to(options.device)
        self.processor, self.options, self.stage = processor, options, stage
        self.tokenizer = getattr(processor, "tokenizer", processor)
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.tokenizer.padding_side = "left"
        self._ends = _ends(model, self.tokenizer)
        self.provenance: Mapping[str, Any] = {
            "captioner": "transformers",
            "model": options.model,
            "class": type(model).__name__,
            "revision": getattr(model.config, "_commit_hash", None) or options.revision,
            "transformers": transformers.__version__,
            "licence": options.licence,
            **options.sampled,
            "bf16": options.bf16,
        }

    def __call__(self, asks: Sequence[Ask], kept: Kept | None = None) -> list[Answer]:
        answers: list[Answer] = []
        size = max(1, self.options.batch // self.options.k)
        for first in range(0, len(asks), size):
            for answer in self._some(asks[first : first + size]):
                if kept is not None:
                    kept(len(answers), answer)
                answers.append(answer)
        return answers

    @torch.inference_mode()
    def _some(self, asks: Sequence[Ask]) -> list[Answer]:
        k = self.options.k
        keys = row_keys([ask.uid for ask in asks], self.stage, k, self.options.seed).reshape(-1)
        apart = any(len(ask.prompts) > 1 for ask in asks)  # each text has its own prompt: a row of its own
        rows = [(ask, number) for ask in asks for number in range(k if apart else 1)]
        inputs = {
            name: value.to(self.model.device, self.model.dtype if value.is_floating_point() else None)
            for name, value in self._inputs(rows).items()
        }
        watch = _Watch(self.options, keys)
        found = self.model.generate(
            **inputs,
            **self._settings(1 if apart else k),
            logits_processor=[watch],
            max_new_tokens=self.options.max_tokens,
            min_new_tokens=self.options.min_tokens or None,
            repetition_penalty=self.options.repetition_penalty,
        )
        ids = found[:, watch.prefix :]
        texts = [_Text.of(row, self._ends, watch.forced) for row in ids.tolist()]
        words = self.tokenizer.batch_decode([text.ids for text in texts], skip_special_tokens=True)
        lps = watch.means([text.chosen for text in texts])
        return [
            Answer(
                texts=tuple(word.strip() for word in words[at : at + k]),
                lp=tuple(lps[at : at + k]),
                n_tok=tuple(text.chosen for text in texts[at : at + k]),
                ended=tuple(text.ended for text in texts[at : at + k]),
            )
            for at in range(0, len(texts), k)
        ]

    def _settings(self, k: int) -> dict[str, Any]:
        if self.options.sampling == "beam":
            return {"do_sample": False, "num_beams": self.options.beams, "num_return_sequences": k}
        # The race leaves one token, so what `generate` then draws, by its own chance, is that one.
        neutral = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "num_beams": 1}
        return {"do_sample": True, "num_return_sequences": k, **neutral}

    def _inputs(self, rows: Sequence[tuple[Ask, int]]) -> Any:
        """What the model's `generate` takes for these texts."""
        pictures = [picture(ask.pixels) for ask, _ in rows if ask.pixels is not None]
        prompts = [ask.prompt(number) for ask, number in rows]
        if getattr(self.processor, "chat_template", None):
            return self._chat(rows, pictures, prompts)
        whole = [
            f"{ask.system}\n\n{text}" if ask.system else text for (ask, _), text in zip(rows, prompts, strict=True)
        ]
        if not pictures:
            return self.processor(whole, return_tensors="pt", padding=True)
        text = {"text": whole, "padding": True} if any(whole) else {}
        return self.processor(images=pictures, return_tensors="pt", **text)

    def _chat(self, rows: Sequence[tuple[Ask, int]], pictures: Sequence[Any], prompts: Sequence[str]) -> Any:
        """As the model's chat template has it."""
        talks = []
        for place, ((ask, _), prompt) in enumerate(zip(rows, prompts, strict=True)):
            content: Any = prompt
            if pictures:
                content = [{"type": "image", "image": pictures[place]}]
                content += [{"type": "text", "text": prompt}] if prompt else []
            system: Any = [{"type": "text", "text": ask.system}] if pictures else ask.system
            before = [{"role": "system", "content": system}] if ask.system else []
            talks.append([*before, {"role": "user", "content": content}])
        made = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "return_tensors": "pt"}
        if pictures:
            return self.processor.apply_chat_template(talks, **made, processor_kwargs={"padding": True})
        # captions of the web are in it: what looks like a control token in them is not to be one
        return self.processor.apply_chat_template(talks, **made, padding=True, sanitize_control_tokens=True)


class _Watch:
    """A logits processor: notes where the prompt ends, chooses the token, and keeps its log-probability."""

    def __init__(self, options: Options, keys: Words) -> None:
        self._options, self._keys = options, keys
        self._told: list[Tensor] = []
        self.prefix = -1
        """Tokens before the first that is written."""
        self.forced: set[int] = set()
        """Steps at which nothing was left to choose, as where a model's settings end every text at its limit."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Ids [R, L], logits [R, V] -> logits of which one is left; all of them for beams."""
        if self.prefix < 0:
            self.prefix = input_ids.shape[1]
        options, logits, step = self._options, scores.float(), input_ids.shape[1] - self.prefix
        if bool(((logits > -torch.inf).sum(-1) == 1).all()):
            self.forced.add(step)
        if options.sampling == "beam":
            return scores
        if options.sampling == "greedy":
            chosen = logits.argmax(-1)
        else:
            chosen = draw(logits, self._keys, step, top_p=options.top_p, temperature=options.temperature)
        chosen = chosen.to(scores.device)[:, None]
        self._told.append(logits.log_softmax(-1).gather(1, chosen)[:, 0])
        return torch.full_like(scores, -torch.inf).scatter(1, chosen, 0.0)

    def means(self, lengths: Sequence[int]) -> list[float | None]:
        """Mean log-probability of the first tokens of each row; None where none was kept."""
        if not self._told:
            return [None] * len(lengths)
        told = torch.stack(self._told, 1).double().cpu()
        return [float(row[:length].mean()) if length else None for row, length in zip(told, lengths, strict=True)]


class _Text:
    """A row of what was written."""

    def __init__(self, ids: Sequence[int], chosen: int, ended: bool) -> None:
        self.ids, self.chosen, self.ended = ids, chosen, ended

    @classmethod
    def of(cls, row: Sequence[int], ends: frozenset[int], forced: Collection[int]) -> "_Text":
        """Up to the first end, which counts if the model chose it too."""
        for place, token in enumerate(row):
            if token in ends:
                return cls(row[:place], place + (place not in forced), place not in forced)
        return cls(row, len(row), False)


def _ends(model: Any, tokenizer: Any) -> frozenset[int]:
    """Ids at which a model's text ends."""
    configs = (model.generation_config, model.config, model.config.get_text_config(decoder=True), tokenizer)
    found: set[int] = set()
    for config in configs:
        for name in ("eos_token_id", "sep_token_id"):
            value = getattr(config, name, None)
            found.update(value if isinstance(value, list | tuple) else [value] if isinstance(value, int) else [])
    return frozenset(found)
