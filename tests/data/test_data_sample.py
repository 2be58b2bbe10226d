"""One record becomes one sample: its crop, the caption that was chosen or dropped, or the latents as they are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ppsd.data import resample
from ppsd.data.config import StreamConfig
from ppsd.data.sample import SampleMaker
from ppsd.data.transforms import training_crop
from ppsd.types import BadRecord, LatentRecord, Record, Sample
from tests.images import decode_pixels, encode, jpeg_bytes, noise_image


def tokenize(caption: str) -> np.ndarray:
    return np.array([*caption.encode("utf-8")][:40], np.int64)


def text_of(sample: Sample) -> str:
    return bytes(sample.input_ids.tolist()).decode()


def maker(**settings: Any) -> SampleMaker:
    config = StreamConfig("x.filelist", **{"resolution": 64, "caption_dropout_rate": 0.0, **settings})
    return SampleMaker(config, tokenize)


def test_a_sample_is_the_crop_and_the_ids() -> None:
    data = jpeg_bytes(200, 150)
    sample = maker(random_flip=True)(Record(data, "a cat"), 7)
    assert isinstance(sample, Sample)
    expected = training_crop(decode_pixels(data), 7, 64, random_flip=True)
    assert np.array_equal(sample.pixels, expected)
    assert (text_of(sample), sample.seed, sample.extras) == ("a cat", 7, {})


@pytest.mark.parametrize("interpolation", ["lanczos", "area", "bicubic"])
def test_the_interpolation_is_the_one_that_was_asked_for(interpolation: str) -> None:
    data = jpeg_bytes(200, 150)
    sample = maker(interpolation=interpolation)(Record(data, "a cat"), 7)
    assert np.array_equal(sample.pixels, training_crop(decode_pixels(data), 7, 64, interpolation))


def test_a_missing_library_is_found_before_any_record(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resample, "simd", None)
    with pytest.raises(ValueError, match="--interpolation lanczos_simd needs"):
        maker(interpolation="lanczos_simd")


def test_a_size_is_that_of_a_bucket() -> None:
    record = Record(jpeg_bytes(90, 30), "a cat")
    buckets = maker(enable_bucket=True, min_bucket_reso=64, max_bucket_reso=128)
    assert buckets(record, 1, (128, 64)).pixels.shape == (3, 64, 128)
    assert buckets(record, 1).pixels.shape == (3, 64, 64)
    assert maker()(record, 1, (128, 64)) == BadRecord("too small", "90 x 30, --resolution is 64")
    large = Record(jpeg_bytes(190, 130), "a cat")
    assert maker()(large, 1, (128, 64)).pixels.shape == (3, 64, 64)


def test_what_is_wrong_with_a_record() -> None:
    data = jpeg_bytes(200, 150)
    assert maker()(Record(data[:3000], "a cat"), 1).reason == "corrupt image"
    assert maker()(Record(b"text", "a cat"), 1).reason == "not an image"
    assert maker()(Record(data, "\ud800"), 1).reason == "not valid text"
    assert maker(max_image_pixels=9)(Record(data, "a cat"), 1).reason == "too many pixels"


def test_large_jpegs_are_decoded_smaller_on_demand() -> None:
    """Half and full decoding differ little, but by more than nothing; at less than twice the size there is no half."""
    plain, scaled = maker(), maker(scaled_jpeg=True)
    large, medium = (Record(encode(noise_image(side, side), quality=95), "a cat") for side in (143, 141))
    whole, half = (make(large, 5).pixels.astype(np.int16) for make in (plain, scaled))
    assert 0 < np.abs(whole - half).mean() < 1.5
    assert np.array_equal(plain(medium, 5).pixels, scaled(medium, 5).pixels)
    small = Record(jpeg_bytes(60, 200), "a cat")
    assert scaled(small, 5) == plain(small, 5) == BadRecord("too small", "60 x 200, --resolution is 64")
    buckets = maker(scaled_jpeg=True, enable_bucket=True, min_bucket_reso=64, max_bucket_reso=128)
    assert buckets(large, 5, (64, 64)).pixels.shape == (3, 64, 64)


def test_a_caption_is_chosen_by_the_rule_and_dropped_at_the_rate() -> None:
    record = Record(jpeg_bytes(), "a cat", {}, ("a very long caption", "c"))
    assert text_of(maker()(record, 1)) == "a cat"
    assert text_of(maker(caption_rule="longest")(record, 1)) == "a very long caption"
    assert text_of(maker(caption_rule="shortest")(record, 1)) == "c"
    random = maker(caption_rule="random", caption_dropout_rate=0.25)
    counts = np.unique([text_of(random(record, seed)) for seed in range(800)], return_counts=True)
    assert dict(zip(*counts)) == {"": pytest.approx(200, abs=50)} | {
        caption: pytest.approx(200, abs=50) for caption in ("a cat", "a very long caption", "c")
    }


def latent_record(**settings: Any) -> LatentRecord:
    moments = np.arange(8 * 8 * 8, dtype=np.float16).reshape(8, 8, 8)
    return LatentRecord(moments, "a cat", **settings)


def test_latents_are_as_they_are() -> None:
    sample = maker()(latent_record(more_captions=("a longer one",)), 3)
    assert sample.pixels.dtype == np.float32
    assert np.array_equal(sample.pixels, latent_record().moments)
    assert (text_of(sample), sample.extras) == ("a cat", {})
    assert text_of(maker(caption_rule="longest")(latent_record(more_captions=("a longer one",)), 3)) == "a longer one"


def test_hidden_states_are_those_of_the_caption_or_of_the_empty_one() -> None:
    states = {"hidden": np.ones((4, 2), np.float16), "meta": {"empty_hidden": np.zeros((4, 2), np.float16)}}
    record = latent_record(**states, more_captions=("a longer one",))
    kept = maker(caption_rule="longest")(record, 3)
    assert text_of(kept) == "a cat"  # hidden states of other captions there are none
    assert kept.extras["hidden"].dtype == np.float32
    assert kept.extras["hidden"].tolist() == [[1, 1]] * 4
    dropped = maker(caption_dropout_rate=1.0)(record, 3)
    assert text_of(dropped) == ""
    assert dropped.extras["hidden"].tolist() == [[0, 0]] * 4
    lacking = maker(caption_dropout_rate=1.0)(latent_record(hidden=states["hidden"]), 3)
    assert lacking.reason == "no hidden state of the empty caption"
