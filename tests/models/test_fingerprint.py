from __future__ import annotations

from pathlib import Path

import paddle

from ppsd.models.fingerprint import text_encoder_fingerprint, tokenizer_fingerprint, vae_fingerprint
from ppsd.models.loading import load_component
from tests.tiny import tiny_text_encoder, tiny_tokenizer, tiny_vae


def test_a_vae_is_the_same_in_the_layouts_of_paddle_and_torch(tmp_path: Path) -> None:
    vae = tiny_vae()
    vae.save_pretrained(str(tmp_path / "paddle"), safe_serialization=True)
    vae.save_pretrained(str(tmp_path / "torch"), safe_serialization=True, to_diffusers=True)
    loaded = [load_component(type(vae), str(tmp_path / name), None, "--vae") for name in ("paddle", "torch")]
    assert {vae_fingerprint(one) for one in (vae, *loaded)} == {vae_fingerprint(vae)}


def test_every_weight_and_setting_of_the_encoder_counts_and_none_of_the_decoder() -> None:
    vae = tiny_vae()
    before = vae_fingerprint(vae)
    vae.decoder.conv_out.bias.set_value(vae.decoder.conv_out.bias + 1)
    vae.register_to_config(scaling_factor=0.5)
    assert vae_fingerprint(vae) == before
    vae.quant_conv.bias.set_value(vae.quant_conv.bias + 1e-6)
    assert vae_fingerprint(vae) != before
    other = tiny_vae()
    other.register_to_config(norm_num_groups=1)
    assert vae_fingerprint(other) != before


def test_text_encoders_differ_by_weights_and_by_settings() -> None:
    encoder = tiny_text_encoder()
    before = text_encoder_fingerprint(encoder)
    assert text_encoder_fingerprint(tiny_text_encoder()) == before
    assert text_encoder_fingerprint(tiny_text_encoder(num_attention_heads=4)) != before
    bias = encoder.state_dict()["text_model.final_layer_norm.bias"]
    bias.set_value(bias + paddle.ones_like(bias))
    assert text_encoder_fingerprint(encoder) != before


def test_tokenizers_differ_by_words_and_by_how_they_split() -> None:
    before = tokenizer_fingerprint(tiny_tokenizer())
    assert tokenizer_fingerprint(tiny_tokenizer()) == before
    padded = tiny_tokenizer()
    padded.pad_token = "!"
    assert tokenizer_fingerprint(padded) != before
    merged = tiny_tokenizer()
    merged.bpe_ranks = {**merged.bpe_ranks, ("x", "y"): len(merged.bpe_ranks)}
    assert tokenizer_fingerprint(merged) != before
