"""A tiny random BLIP, its vocabulary, and folders of it in both layouts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from ppsd import compat  # isort: skip  before paddle

import paddle
from paddlenlp.transformers import BlipConfig, BlipForConditionalGeneration

from ppsd.interop.weights import is_linear
from tests.tiny import shaken

compat.apply()

_TEXT = "a the of on cat dog mat red blue circle square photo ##s , . large small bright one"
WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *_TEXT.split())
BEGIN, END, SIDE = len(WORDS), WORDS.index("[SEP]"), 32
TEXT: dict[str, Any] = {
    "vocab_size": len(WORDS) + 2,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 24,
    "bos_token_id": BEGIN,
    "eos_token_id": 2,
    "sep_token_id": END,
    "pad_token_id": 0,
    "is_decoder": True,
}
VISION: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": SIDE,
    "patch_size": 8,
    "layer_norm_eps": 1e-5,
}
PREPROCESSOR = {
    "do_normalize": True,
    "do_resize": True,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_processor_type": "BlipImageProcessor",
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "resample": 3,
    "size": {"height": SIDE, "width": SIDE},
}


def tiny_blip(seed: int = 2) -> BlipForConditionalGeneration:
    """Pictures [B,3,32,32] and words; every weight matters, pictures change what it says."""
    paddle.seed(seed)
    model = BlipForConditionalGeneration(BlipConfig(text_config=dict(TEXT), vision_config=dict(VISION)))
    shaken(model, seed=seed)
    for name, weight in model.named_parameters():  # louder words, and pictures that are heard
        if name.endswith(("word_embeddings.weight", "crossattention.self.value.weight")):
            weight.set_value(weight.numpy() * 4)
    model.eval()
    return model


def blip_folder(path: Path, torch: bool = False, seed: int = 2) -> Path:
    """The model with all that is needed to use it, in the layout of paddlenlp or of transformers."""
    path.mkdir(parents=True)
    model = tiny_blip(seed)
    if torch:
        save_file(torch_weights(model), path / "model.safetensors", {"format": "pt"})
        vision = {key: value for key, value in VISION.items() if key != "layer_norm_eps"}  # which is its default there
        config = {"model_type": "blip", "text_config": TEXT, "vision_config": vision}
        config["architectures"] = ["BlipForConditionalGeneration"]
        (path / "config.json").write_text(json.dumps(config))
        (path / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR))
        (path / "tokenizer_config.json").write_text(
            json.dumps({"do_lower_case": True, "tokenizer_class": "BertTokenizer"})
        )
    else:
        model.save_pretrained(str(path), safe_serialization=True)
    (path / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    return path


def torch_weights(model: BlipForConditionalGeneration) -> dict[str, np.ndarray]:
    """As transformers writes them: Linear weights [out,in], its own names, words and head under one name."""
    weights = {}
    for name, value in model.state_dict().items():
        array = value.numpy()
        if name.endswith(("position_ids", "decoder_weight")):
            continue
        turned = is_linear(name, array.shape) and "embeddings." not in name
        weights[name] = np.ascontiguousarray(array.T) if turned else array
    weights["text_decoder.cls.predictions.decoder.bias"] = weights["text_decoder.cls.predictions.bias"].copy()
    return weights
