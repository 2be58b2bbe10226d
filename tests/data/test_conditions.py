"""Conditions: on one grid with the picture, from every column, and what is wrong with one."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ppsd.data.config import StreamConfig
from ppsd.data.folders import folder_source
from ppsd.data.sample import SampleMaker
from ppsd.data.seeds import Draw, uniform
from ppsd.formats.array_store import ArrayMemory
from ppsd.types import BadRecord, LatentRecord, Record, Sample
from tests.data.scenes import disagreement, mask_of, png, scene, scene_record, write_scenes
from tests.images import encode, jpeg_bytes, noise_image

SEEDS = range(12)
ALL = ("conditioning", "mask", "depth")
COLUMNS = ("conditioning_image", "mask", "depth")


def ids(caption: str) -> np.ndarray:
    return np.frombuffer(caption.encode()[:8].ljust(8), np.uint8).astype(np.int64)


def maker(*conditions: str, **settings: Any) -> SampleMaker:
    settings = {"resolution": 64, "caption_dropout_rate": 0.0, **settings}
    return SampleMaker(StreamConfig("x.filelist", conditions=conditions or ("conditioning",), **settings), ids)


def sample_of(make: SampleMaker, record: Any, seed: int = 0, size: Any = None) -> Sample:
    sample = make(record, seed, size)
    assert isinstance(sample, Sample), sample
    return sample


GEOMETRIES: dict[str, dict[str, Any]] = {
    "random crop": {},
    "centre": {"center_crop": True},
    "mirrored": {"random_flip": True},
    "enlarged": {"resolution": 160, "upscale_small": True},
    "bucket": {"enable_bucket": True, "min_bucket_reso": 64, "max_bucket_reso": 128, "random_flip": True},
    "area": {"interpolation": "area"},
}


@pytest.mark.parametrize("scale", [1.0, 0.5, 1.77, 4.0])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_picture_and_conditions_are_on_one_grid(geometry: str, scale: float) -> None:
    """The figure in the crop is where its mask is in the cropped condition; in another crop it is elsewhere."""
    make = maker(*ALL, **GEOMETRIES[geometry])
    size = (128, 64) if geometry == "bucket" else None
    samples = [sample_of(make, scene_record(seed % 3, scale, COLUMNS), seed, size) for seed in SEEDS]
    for sample in samples:
        height, width = sample.pixels.shape[1:]
        shapes = {name: (array.dtype, array.shape) for name, array in sample.extras.items()}
        assert shapes == {
            "conditioning": (np.uint8, (3, height, width)),
            "mask": (np.uint8, (1, height, width)),
            "depth": (np.float32, (1, height, width)),
        }
        margin = 2 if geometry == "enlarged" and scale < 1 else 1  # a pixel of the condition becomes 4
        for name in ALL:
            assert disagreement(sample.pixels, sample.extras[name], margin) < 0.004, name
        assert set(np.unique(sample.extras["mask"])) <= {0, 255}
        assert 0 <= sample.extras["depth"].min() <= sample.extras["depth"].max() <= 1
    mirrored = disagreement(samples[0].pixels, samples[0].extras["mask"][..., ::-1])
    assert mirrored > 0.03, "the measure must see a condition that is not in its place"


def test_mirrored_and_random_crops_happen() -> None:
    make, still = maker(random_flip=True), maker(center_crop=True)
    record = scene_record()
    crops = {sample_of(make, record, seed).extras["conditioning"].tobytes() for seed in SEEDS}
    assert len(crops) > 8
    centre = sample_of(still, record, 0).extras["conditioning"]
    assert all(np.array_equal(sample_of(still, record, seed).extras["conditioning"], centre) for seed in SEEDS)
    assert {uniform(seed, Draw.FLIP) < 0.5 for seed in SEEDS} == {True, False}


@pytest.mark.parametrize("shrunk", ["picture", "condition", "both"])
def test_reduced_decoding_keeps_the_grid(shrunk: str) -> None:
    """--scaled_jpeg decodes a JPEG at 1/2 to 1/8, each picture by its own size."""
    make = maker("conditioning", scaled_jpeg=True, random_flip=True)
    large = scene(601, 449)
    picture = large if shrunk != "condition" else mask_of(large, 0.25).convert("RGB")
    condition = mask_of(large) if shrunk != "picture" else mask_of(large, 0.25)
    record = Record(encode(picture, quality=95), "x", {"conditioning_image": encode(condition, quality=95)})
    for seed in SEEDS:
        sample = sample_of(make, record, seed)
        assert disagreement(sample.pixels, sample.extras["conditioning"]) < 0.006


@pytest.mark.parametrize("orientation", [2, 3, 5, 6, 8])
def test_a_picture_that_exif_turns(orientation: int) -> None:
    """The condition is of the picture as it is seen; one that is turned itself is turned, too."""
    make = maker("conditioning", random_flip=True)
    turns = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 5: "TRANSPOSE", 6: "ROTATE_90", 8: "ROTATE_270"}
    upright = scene()
    stored = upright.transpose(getattr(Image.Transpose, turns[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = encode(stored, quality=95, exif=exif)
    for condition in (png(mask_of(upright)), turned, encode(stored.convert("L"), "PNG", exif=exif)):
        record = Record(turned, "x", {"conditioning_image": condition})
        for seed in SEEDS:
            sample = sample_of(make, record, seed)
            assert disagreement(sample.pixels, sample.extras["conditioning"]) < 0.004


def test_nothing_else_of_a_sample_changes() -> None:
    settings: dict[str, Any] = {"random_flip": True, "color_jitter": 0.4, "caption_dropout_rate": 0.5}
    with_conditions, without = maker(*ALL, **settings), maker("mask", mask_kinds="full", **settings)
    plain = SampleMaker(StreamConfig("x.filelist", resolution=64, **settings), ids)
    for seed in SEEDS:
        record = scene_record(seed, 2.0, COLUMNS)
        expected = sample_of(plain, record, seed)
        assert expected.extras == {}
        for make in (with_conditions, without):
            sample = sample_of(make, record, seed)
            assert np.array_equal(sample.pixels, expected.pixels)
            assert np.array_equal(sample.input_ids, expected.input_ids)


def test_colour_jitter_never_touches_conditions() -> None:
    """A constant colour stays what it is, to the bit, while the picture's changes."""
    plain = png(Image.new("RGB", (80, 80), (90, 120, 30)))
    record = Record(plain, "x", {"conditioning_image": plain})
    for seed in SEEDS:
        sample = sample_of(maker("conditioning", color_jitter=0.5), record, seed)
        assert np.array_equal(np.unique(sample.extras["conditioning"].reshape(3, -1), axis=1)[:, 0], (90, 120, 30))
        assert abs(sample.pixels.reshape(3, -1).mean(1) - (90, 120, 30)).max() > 1


def _as(mode: str) -> Callable[[Image.Image], bytes]:
    return lambda image: png(image.convert(mode))


def _sixteen_bits(image: Image.Image) -> bytes:
    return png(Image.fromarray(np.asarray(image.convert("L"), np.uint16) * 257))


def _rgba(image: Image.Image) -> bytes:
    """The figure in the colours; fully transparent on the left half."""
    rgba = image.convert("RGBA")
    alpha = Image.new("L", image.size, 255)
    alpha.paste(0, (0, 0, image.width // 2, image.height))
    rgba.putalpha(alpha)
    return png(rgba)


@pytest.mark.parametrize(
    "form", [_as("L"), _as("1"), _as("P"), _as("LA"), _rgba, _sixteen_bits], ids=["L", "1", "P", "LA", "RGBA", "16"]
)
def test_every_pixel_format(form: Callable[[Image.Image], bytes]) -> None:
    """Grey is three equal channels; transparency is dropped, not put on white."""
    image = scene()
    expected = sample_of(maker(*ALL), scene_record(0, 1.0, COLUMNS), 3)
    sample = sample_of(maker(*ALL), Record(encode(image, quality=95), "x", {name: form(image) for name in COLUMNS}), 3)
    for name in ALL:
        assert np.array_equal(sample.extras[name], expected.extras[name]), name
    assert (sample.extras["conditioning"] == sample.extras["conditioning"][:1]).all()


def test_colours_stay_in_their_channels() -> None:
    left_red = Image.new("RGB", (80, 80), (200, 0, 0))
    left_red.paste((0, 0, 150), (40, 0, 80, 80))
    record = Record(jpeg_bytes(80, 80), "x", {"conditioning_image": png(left_red)})
    found = sample_of(maker(center_crop=True), record).extras["conditioning"]
    assert found[:, 30, 5].tolist() == [200, 0, 0]
    assert found[:, 30, -5].tolist() == [0, 0, 150]


def test_a_mask_is_where_half_of_a_pixel_is_light() -> None:
    """Columns of 4 pixels become one: 0, 1, 2, 3 or 4 of them white."""
    stripes = np.zeros((320, 320), np.uint8)
    for column in range(80):
        stripes[:, 4 * column : 4 * column + column % 5] = 255
    record = Record(png(noise_image(80, 80)), "x", {"mask": png(Image.fromarray(stripes))})
    config = {"resolution": 80, "enable_bucket": True, "min_bucket_reso": 80, "bucket_reso_steps": 8}
    found = sample_of(maker("mask", **config), record, 0, (80, 80)).extras["mask"]
    assert found[0, 40, :5].tolist() == [0, 0, 255, 255, 255]


def test_depth_keeps_16_bits_and_floats() -> None:
    """A slope of fewer than 256 steps of 65535; numbers beyond 0..1 are scaled by their range."""
    slope = np.repeat(np.arange(64, dtype=np.float64)[None], 64, 0)
    images = {
        "16 bits": (Image.fromarray((1000 + 2 * slope).astype(np.uint16)), (1000 + 2 * slope) / 65535),
        "floats": (Image.fromarray((slope / 200).astype(np.float32)), slope / 200),
        "any floats": (Image.fromarray((5 * slope - 30).astype(np.float32)), slope / 63),
        "8 bits": (Image.fromarray(slope.astype(np.uint8)), slope / 255),
    }
    config = {"enable_bucket": True, "min_bucket_reso": 64, "bucket_reso_steps": 8}
    for name, (image, expected) in images.items():
        data = encode(image, "TIFF") if image.mode == "F" else png(image)
        sample = sample_of(maker("depth", **config), Record(png(noise_image()), "x", {"depth": data}), 0, (64, 64))
        assert np.abs(sample.extras["depth"][0] - expected).max() < 2e-7, name
    flat = Image.fromarray(np.full((64, 64), 7, np.float32))
    sample = sample_of(maker("depth"), Record(png(noise_image()), "x", {"depth": encode(flat, "TIFF")}))
    assert np.unique(sample.extras["depth"]).tolist() == [0.0]


def _grey(width: int = 120, height: int = 90, value: int = 0) -> bytes:
    return png(Image.new("L", (width, height), value))


def _floats(value: float) -> bytes:
    return encode(Image.new("F", (120, 90), value), "TIFF")


HINT = "nothing under {0!r}; --{0}_column names another"
BAD: dict[str, tuple[str, Any, tuple[str, str]]] = {
    "missing": ("conditioning", None, ("no conditioning image", HINT.format("conditioning_image"))),
    "empty cell": ("mask", "", ("no mask", HINT.format("mask"))),
    "no depth": ("depth", None, ("no depth map", HINT.format("depth"))),
    "another shape": (
        "conditioning",
        _grey(120, 80),
        ("conditioning image: other shape than the image", "120 x 80, the image is 120 x 90"),
    ),
    "turned": ("depth", _grey(90, 120), ("depth map: other shape than the image", "90 x 120, the image is 120 x 90")),
    "empty mask": ("mask", _grey(value=127), ("mask: empty", "all of its 120 x 90 pixels")),
    "full mask": ("mask", _grey(value=128), ("mask: full", "all of its 120 x 90 pixels")),
    "text": ("mask", "mask.png", ("mask: no image in its column", "str: 'mask.png'")),
    "bad bytes": ("mask", b"text", ("mask: not an image", "4 bytes starting with b'text'")),
    "bad base64": ("mask", BadRecord("invalid base64", "x"), ("mask: invalid base64", "x")),
    "gone": ("depth", Path("gone.png"), ("depth map: unreadable image", "gone.png: No such file or directory")),
    "bomb": ("mask", _grey(400, 300), ("mask: too many pixels", "400 x 300, the limit is 20000 pixels")),
    "floats": (
        "conditioning",
        _floats(0.5),
        ("conditioning image: unsupported pixel format", "floating point numbers"),
    ),
    "nan": ("depth", _floats(np.nan), ("depth map: unsupported pixel format", "numbers that are not finite")),
}


@pytest.mark.parametrize("what", BAD)
def test_what_is_wrong_with_a_condition(what: str) -> None:
    name, value, expected = BAD[what]
    meta = {} if value is None else {COLUMNS[ALL.index(name)]: value}
    make = maker(name, max_image_pixels=20000)
    for seed in range(3):
        assert make(Record(png(scene()), "x", meta), seed) == BadRecord(*expected)


def test_truncated_conditions_are_named() -> None:
    for data in (encode(noise_image(120, 90), quality=95), png(noise_image(120, 90))):
        bad = maker()(Record(png(scene()), "x", {"conditioning_image": data[: len(data) // 2]}), 0)
        assert isinstance(bad, BadRecord)
        assert bad.reason == "conditioning image: corrupt image"


@pytest.mark.parametrize(
    ("size", "fits"),
    [((120, 90), True), ((60, 45), True), ((61, 45), True), ((33, 25), True), ((40, 30), True), ((480, 360), True),
     ((481, 359), True), ((120, 88), False), ((480, 350), False), ((90, 90), False), ((115, 90), False)],
)  # fmt: skip
def test_sizes_are_the_same_shape_up_to_rounding(size: tuple[int, int], fits: bool) -> None:
    made = maker()(Record(png(scene()), "x", {"conditioning_image": png(Image.new("RGB", size))}), 1)
    assert isinstance(made, Sample) == fits


def test_named_columns_and_one_picture_for_two_conditions() -> None:
    record = scene_record(2, 1.0, ("source",))
    make = maker("conditioning", "depth", conditioning_image_column="source", depth_column="source")
    sample = sample_of(make, record, 5)
    assert np.abs(sample.extras["conditioning"][:1] / 255 - sample.extras["depth"]).mean() < 0.02
    lacking = make(scene_record(2), 5)
    assert lacking == BadRecord("no conditioning image", "nothing under 'source'")


def test_annotators_see_the_crop_before_its_colours_change() -> None:
    make = maker("conditioning", "depth", annotator="canny", color_jitter=0.5, random_flip=True)
    still = maker("conditioning", annotator="canny", random_flip=True)
    record = Record(png(scene()), "x")
    for seed in SEEDS:
        sample = sample_of(make, record, seed)
        edges = sample.extras["conditioning"]
        assert set(np.unique(edges)) == {0, 255}
        assert np.array_equal(edges, sample_of(still, record, seed).extras["conditioning"])
        assert np.array_equal(edges[:1] == 255, sample.extras["depth"] > 0.999)
    given = sample_of(maker(annotator="canny"), scene_record(1), 3)
    assert disagreement(given.pixels, given.extras["conditioning"]) < 0.004, "a column comes before the annotator"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"conditions": ("outline",)}, "condition 'outline' is not one of conditioning, mask, depth"),
        ({"mask_column": "m"}, "--mask_column acts only where a mask is needed"),
        (
            {"conditions": ("mask",), "annotator": "canny"},
            "--annotator acts only where a conditioning image or a depth",
        ),
        ({"conditions": ("depth",), "annotator": "cany"}, "--annotator cany is not one of canny"),
        (
            {"conditions": ("depth",), "annotator": "canny", "depth_column": "d"},
            "--annotator and --depth_column both say what the depth map is",
        ),
        ({"mask_kinds": "circles"}, "--mask_kinds 'circles' is not one of rectangles, strokes, ellipses, full"),
        ({"mask_coverage": 0.0}, "--mask_coverage 0.0 is not above 0"),
        ({"mask_coverage": 1.5}, "--mask_coverage 1.5 is not above 0 and at most 1"),
    ],
)
def test_settings_that_cannot_work(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StreamConfig("x", **settings)


def latents_of(record: Record, size: tuple[int, int], image_size: Any = (120, 90), **more: Any) -> LatentRecord:
    moments = np.zeros((8, size[1] // 8, size[0] // 8), np.float32)
    return LatentRecord(moments, "x", record.meta, image_size=image_size, **more)


@pytest.mark.parametrize("bucket", [None, (128, 64), (64, 128)])
def test_conditions_of_cached_latents_are_those_of_the_central_crop(bucket: Any) -> None:
    record = scene_record(1, 2.0, ("conditioning_image", "depth"))
    buckets = {"enable_bucket": True, "min_bucket_reso": 64, "max_bucket_reso": 128, "bucket_no_upscale": True}
    settings: dict[str, Any] = {"center_crop": True, "random_flip": True, **(buckets if bucket else {})}
    make = maker("conditioning", "depth", **settings)
    size = bucket or (64, 64)
    mirrored = np.ones((8, size[1] // 8, size[0] // 8), np.float32)
    turned = 0
    for seed in SEEDS:
        sample = sample_of(make, latents_of(record, size, mirrored=mirrored), seed, bucket)
        expected = sample_of(make, record, seed, bucket)
        for name in ("conditioning", "depth"):
            assert np.array_equal(sample.extras[name], expected.extras[name]), name
        turned += int(sample.pixels.max())
    assert 0 < turned < len(SEEDS)
    plain = latents_of(record, size)  # without latents of the mirror image nothing is mirrored
    first, *others = (sample_of(make, plain, seed, bucket).extras["depth"] for seed in SEEDS)
    assert all(np.array_equal(first, other) for other in others)


def test_a_shared_bucket_takes_the_middle_of_latents_and_conditions() -> None:
    make = maker("conditioning", center_crop=True, enable_bucket=True, min_bucket_reso=64, max_bucket_reso=128)
    record = scene_record(1)
    whole = sample_of(make, latents_of(record, (128, 96)), 0, (128, 96)).extras["conditioning"]
    part = sample_of(make, latents_of(record, (128, 96)), 0, (64, 64))
    assert part.pixels.shape == (8, 8, 8)
    assert np.array_equal(part.extras["conditioning"], whole[:, 16:80, 32:96])


def test_latents_that_cannot_have_conditions() -> None:
    record = scene_record()
    unknown = maker()(latents_of(record, (64, 64), image_size=None), 0)
    assert isinstance(unknown, BadRecord)
    assert unknown.reason == "cached latents without their image's size"
    with pytest.raises(ValueError, match="--annotator canny needs pixels: it cannot act on cached latents"):
        maker(annotator="canny")(replace(latents_of(record, (64, 64)), meta={}), 0)


def test_an_entry_of_the_cache_keeps_no_image(tmp_path: Path) -> None:
    """Paths and bytes are read again when they are asked for, and only then."""
    from ppsd.data.cached_records import Entry, WithHidden, WithLatents

    config = StreamConfig(train_data_dir=str(write_scenes(tmp_path, 2)), resolution=64, conditions=("conditioning",))
    source = folder_source(tmp_path, config)
    record = source.records[1]
    assert isinstance(record, Record)
    entry = Entry.of(record, "k", None)
    in_memory = Entry.of(replace(record, meta={"conditioning_image": b"bytes", "score": 2}), "k", None)
    assert (entry.meta, entry.images, entry.image_size) == ({}, ("conditioning_image",), (120, 90))
    assert (in_memory.meta, in_memory.images, in_memory.image_size) == (
        {"score": 2},
        ("conditioning_image",),
        (120, 90),
    )
    assert Entry.of(Record(b"no image", "x", {"score": 1}), "k", None)[3:] == ({"score": 1}, (), None)
    store = ArrayMemory()
    store.write("k", np.zeros((8, 8, 8), np.float32))
    store.write("h", np.zeros((4, 2), np.float32))
    cached = WithLatents(source.records, [entry, entry], store)
    found = cached[1]
    assert isinstance(found, LatentRecord)
    assert found.image_size == (120, 90)
    assert dict(found.meta) == {"conditioning_image": tmp_path / "c/1.png"}
    hidden = WithHidden(cached, config, {"": "h", "scene 1": "h"}, store)[1]
    assert isinstance(hidden, LatentRecord)
    sample = sample_of(maker(center_crop=True), hidden, 4)
    assert np.array_equal(
        sample.extras["conditioning"], sample_of(maker(center_crop=True), record, 4).extras["conditioning"]
    )
    assert sample.extras["hidden"].shape == (4, 2)
    (tmp_path / "1.jpg").unlink()
    gone = maker(center_crop=True)(cached[1], 4)
    assert isinstance(gone, BadRecord)
    assert gone.reason == "conditioning image: unreadable image"


def test_pictures_are_decoded_in_one_piece() -> None:
    """The thread's buffer for JPEGs is used for the picture first and for its condition then."""
    noise, condition = noise_image(100, 100, 1), noise_image(100, 100, 2)
    record = Record(encode(noise, quality=95), "x", {"conditioning_image": encode(condition, quality=95)})
    sample = sample_of(maker(), record, 3)
    alone = sample_of(maker(), Record(record.meta["conditioning_image"], "x", {"conditioning_image": png(noise)}), 3)
    assert np.array_equal(sample.extras["conditioning"], alone.pixels)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(png(noise)))), np.asarray(noise))
