"""transformers models of real classes, small and seeded, with processors that need no network."""

from pathlib import Path
from typing import Any

import torch
import transformers as t
from tokenizers import Tokenizer, models, pre_tokenizers, processors

WORDS = (
    *("a", "an", "the", "red", "green", "blue", "grey", "wall", "dog", "cat", "on", "of", "in"),
    *("photo", "picture", "sits", "beside", "large", "small", "old", "what", "is", "this"),
)
SPECIAL = ("<pad>", "<s>", "</s>", "<unk>", "<image>")
CHAT = (
    "{% for message in messages %}{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image> {% else %}{{ part['text'] }}"
    "{% endif %}{% endfor %}{% endif %} {% endfor %}"
)
"""A chat template: contents one behind another, a token where a picture is."""


def tokenizer(start: bool = True, **extra: Any) -> Any:
    """Whole words of `WORDS`; `start` puts <s> first."""
    names = [*SPECIAL, *WORDS, *extra.pop("words", ())]
    made = Tokenizer(models.WordLevel({name: place for place, name in enumerate(names)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if start:
        made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return t.PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>",
        **({"extra_special_tokens": ["<image>"]} | extra),
    )  # fmt: skip


def _drawn(model: Any, seed: int = 0) -> Any:
    """Weights large enough for texts to differ by picture."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in sorted(model.named_parameters()):
            if value.ndim > 1 and "norm" not in name:
                value.normal_(0, 0.25, generator=generator)
    return model.eval()


def language(folder: Path, chat: bool = False) -> Path:
    """A Llama."""
    made = tokenizer()
    if chat:
        made.chat_template = CHAT
    config = t.LlamaConfig(
        vocab_size=len(made), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    _drawn(t.LlamaForCausalLM(config)).save_pretrained(folder)
    made.save_pretrained(folder)
    return folder


def blip(folder: Path) -> Path:
    """A BLIP captioner."""
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", *WORDS]
    folder.mkdir(parents=True)
    made = t.BertTokenizer(vocab={name: place for place, name in enumerate(names)})
    text = t.BlipTextConfig(
        vocab_size=len(names), hidden_size=32, encoder_hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=64, bos_token_id=5, pad_token_id=0, eos_token_id=3,
        sep_token_id=3,
    )  # fmt: skip
    vision = t.BlipVisionConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, image_size=32, patch_size=8
    )
    config = t.BlipConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=16)
    _drawn(t.BlipForConditionalGeneration(config)).save_pretrained(folder)
    pictures = t.BlipImageProcessor(size={"height": 32, "width": 32})
    t.BlipProcessor(pictures, made).save_pretrained(folder)
    return folder


def blip2(folder: Path) -> Path:
    """A BLIP-2 with an OPT."""
    made = tokenizer()
    language = t.OPTConfig(
        vocab_size=len(made), hidden_size=32, ffn_dim=48, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=128, word_embed_proj_dim=32, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    vision = t.Blip2VisionConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, image_size=32, patch_size=8
    )
    former = t.Blip2QFormerConfig(
        vocab_size=len(made), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        encoder_hidden_size=32, cross_attention_frequency=1,
    )  # fmt: skip
    config = t.Blip2Config(
        vision_config=vision.to_dict(), qformer_config=former.to_dict(), text_config=language.to_dict(),
        num_query_tokens=4, image_text_hidden_size=16, image_token_index=4,
    )  # fmt: skip
    _drawn(t.Blip2ForConditionalGeneration(config)).save_pretrained(folder)
    pictures = t.BlipImageProcessor(size={"height": 32, "width": 32})
    t.Blip2Processor(pictures, made, num_query_tokens=4).save_pretrained(folder)
    return folder


def llava(folder: Path) -> Path:
    """A LLaVA with a chat template."""
    made = tokenizer()
    language = t.LlamaConfig(
        vocab_size=len(made), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=256, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    vision = t.CLIPVisionConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, image_size=32, patch_size=8
    )
    config = t.LlavaConfig(
        vision_config=vision, text_config=language, image_token_index=4, vision_feature_layer=-1, image_seq_length=16
    )
    _drawn(t.LlavaForConditionalGeneration(config)).save_pretrained(folder)
    pictures = t.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    t.LlavaProcessor(
        pictures, made, patch_size=8, vision_feature_select_strategy="default", num_additional_image_tokens=1,
        chat_template=CHAT,
    ).save_pretrained(folder)  # fmt: skip
    return folder


def florence(folder: Path) -> Path:
    """A Florence-2."""
    places = [f"<loc_{number}>" for number in range(1000)]
    made = tokenizer(words=places, extra_special_tokens={"image_token": "<image>"})
    text = t.BartConfig(
        vocab_size=len(made), d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=48, max_position_embeddings=128,
        pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=2, forced_eos_token_id=2,
    )  # fmt: skip
    vision = t.Florence2VisionConfig(
        embed_dim=[8, 16, 32, 32], num_heads=[1, 2, 4, 4], num_groups=[1, 2, 4, 4], depths=[1, 1, 1, 1],
        projection_dim=32, window_size=4,
    )  # fmt: skip
    config = t.Florence2Config(text_config=text.to_dict(), vision_config=vision.to_dict(), image_token_id=4)
    _drawn(t.Florence2ForConditionalGeneration(config)).save_pretrained(folder)
    pictures = t.CLIPImageProcessor(size={"height": 64, "width": 64}, do_center_crop=False)
    pictures.image_seq_length = 5  # 2 x 2 places and their mean
    t.Florence2Processor(pictures, made).save_pretrained(folder)
    return folder
