"""eval.py with ControlNets, T2I-Adapters, masks and depths draws what the library draws when it is called directly."""

from __future__ import annotations

import runpy
import shutil
import sys
from pathlib import Path
from typing import Any

from ppsd import compat  # isort: skip  before paddle

import numpy as np
import paddle
import pytest
from PIL import Image

from ppsd.data.annotators.canny import canny
from ppsd.interop.diffusers import write_diffusers
from ppsd.models.controlnet import new_controlnet, new_t2i_adapter
from ppsd.models.saving import save_component
from ppsd.models.widening import DEPTH, INPAINTING, widen_conv_in
from ppsd.sampling.control import generate_controlled, with_controlnets
from ppsd.sampling.depth import generate_from_depth
from ppsd.sampling.inpainting import generate_inpainted
from ppsd.sampling.pipeline import generate, load_pipeline
from ppsd.trainers import console
from tests.lora_files.test_attaching import write_file
from tests.pages import ROOT
from tests.tiny import shaken, tiny_controlnet, tiny_pipeline_dir, tiny_unet

compat.apply()

SETTINGS: dict[str, Any] = {"guidance_scale": 3.0, "num_inference_steps": 3, "seed": 5}
FLAGS = [word for name, value in SETTINGS.items() for word in (f"--{name}", str(value))]
PROMPTS = ["a red circle", "a blue square"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """pipeline; inpainting and depth: the same with such UNets; control, other, grey: ControlNets; adapter; 64 x 64
    pictures one.png and two.png, half.png light at its right, and deep.png."""
    made = tmp_path_factory.mktemp("models")
    tiny_pipeline_dir(made)
    for name, added in (("inpainting", INPAINTING), ("depth", DEPTH)):
        shutil.copytree(made / "pipeline", made / name)
        unet = tiny_unet()
        widen_conv_in(unet, 4 + added)
        save_component(shaken(unet), made / name / "unet")
    unet = tiny_unet()
    save_component(shaken(tiny_controlnet(unet), seed=3), made / "control")
    save_component(shaken(tiny_controlnet(unet), seed=4), made / "other")
    grey = new_controlnet(unet, channels=1, embedding_channels=(4, 4, 8, 8))
    save_component(shaken(grey), made / "grey")
    for seed, name in enumerate(("adapter", "adapter2")):
        paddle.seed(seed)
        save_component(new_t2i_adapter(unet, 8), made / name)
    random = np.random.default_rng(0)
    for name in ("one", "two"):
        Image.fromarray(random.integers(0, 256, (64, 64, 3)).astype(np.uint8)).save(made / f"{name}.png")
    half = np.zeros((64, 64), np.uint8)
    half[:, 32:] = 255
    Image.fromarray(half).save(made / "half.png")
    Image.fromarray(np.add.outer(np.arange(64), np.arange(64)).astype(np.uint8)).save(made / "deep.png")
    return made


@pytest.fixture
def draw(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """draw(*flags) -> the pictures [N,H,W,3] and the grid that eval.py writes; `pipeline` is the one that draws."""
    monkeypatch.chdir(folder)

    def run(*flags: str, pipeline: str = "pipeline", prompts: list[str] = PROMPTS) -> tuple[np.ndarray, np.ndarray]:
        words = ["--pipeline", pipeline, "--output", str(tmp_path / "grid.png"), *FLAGS, *flags, "--prompt", *prompts]
        monkeypatch.setattr(sys, "argv", ["eval.py", *words])
        monkeypatch.setattr(console, "show_log", lambda: None)  # would stay for the tests that follow
        for old in tmp_path.glob("*.png"):
            old.unlink()
        runpy.run_path(str(ROOT / "examples/stable_diffusion/eval.py"))["main"]()
        files = sorted(tmp_path.glob("grid-*.png"))
        return np.stack([pixels(file) for file in files]), pixels(tmp_path / "grid.png")

    return run


def pixels(file: Any) -> np.ndarray:
    return np.asarray(Image.open(file).convert("RGB"))


def base() -> Any:
    return load_pipeline("pipeline")


def controlled(names: list[str], conditions: list[np.ndarray], scales: list[float]) -> np.ndarray:
    """Called directly, of networks that are made again; conditions: [H,W,3] for each, the same for all prompts."""
    pipe, unet = base(), tiny_unet()
    made = {
        "control": lambda: shaken(tiny_controlnet(unet), seed=3),
        "other": lambda: shaken(tiny_controlnet(unet), seed=4),
    }
    told = [np.stack([condition] * len(PROMPTS)) for condition in conditions]
    return generate_controlled(
        with_controlnets(pipe, [made[name]() for name in names]), PROMPTS, told, scales, **SETTINGS
    )


def test_two_controlnets_with_scales(draw: Any) -> None:
    drawn, grid = draw("--controlnet", "control:0.5", "other:1.5", "--image", "one.png", "two.png")
    one, two = pixels("one.png"), pixels("two.png")
    expected = controlled(["control", "other"], [one, two], [0.5, 1.5])
    np.testing.assert_array_equal(drawn, expected)
    assert (drawn != controlled(["control", "other"], [two, one], [0.5, 1.5])).mean() > 0.1
    assert (drawn != controlled(["control", "other"], [one, two], [1.5, 0.5])).mean() > 0.1
    lines = tiles_of(grid, lines=2, columns=3)
    for line, picture in zip(lines, expected):
        for tile, shown in zip(line, (one, two, picture)):
            np.testing.assert_array_equal(tile, shown, err_msg="pictures that it is shown, then what is drawn")


def tiles_of(grid: np.ndarray, lines: int, columns: int, side: int = 64) -> list[list[np.ndarray]]:
    """The pictures of a grid with captions, which enlarges and frames them."""
    height, width, scale = grid.shape[0] // lines, grid.shape[1] // columns, -(-160 // side)
    tops, lefts = [4 + i * height for i in range(lines)], [4 + i * width for i in range(columns)]
    reach = side * scale
    return [[grid[top : top + reach : scale, left : left + reach : scale] for left in lefts] for top in tops]


def test_at_scale_0_the_base_draws_bit_for_bit_and_rows_stand_side_by_side(draw: Any) -> None:
    rows = ["--controlnet", "none", "--controlnet", "control:0", "--controlnet", "control"]
    drawn, grid = draw(*rows, "--image", "one.png")
    plain = generate(base(), PROMPTS, **SETTINGS)
    np.testing.assert_array_equal(drawn[:2], plain)
    np.testing.assert_array_equal(drawn[2:4], plain)
    np.testing.assert_array_equal(drawn[4:], controlled(["control"], [pixels("one.png")], [1.0]))
    for number, line in enumerate(tiles_of(grid, lines=2, columns=4)):
        for tile, shown in zip(line, (pixels("one.png"), *drawn[number::2])):
            np.testing.assert_array_equal(tile, shown)


def test_rows_of_loras_are_drawn_with_controlnets(draw: Any, folder: Path) -> None:
    lora = write_file(folder / "lora.safetensors", seed=1)
    command = ["--controlnet", "control", "--image", "one.png"]
    drawn, _ = draw(*command, "--lora", "none", "--lora", f"{lora}:2")
    np.testing.assert_array_equal(drawn[:2], draw(*command)[0])
    np.testing.assert_array_equal(drawn[2:], draw(*command, "--lora", f"{lora}:2")[0])
    assert (drawn[2:] != drawn[:2]).mean() > 0.1


def test_pictures_and_prompts_go_together(draw: Any, folder: Path) -> None:
    """One by one, or one prompt for all pictures, or a folder of them; copies of a prompt have its picture."""
    (folder / "both").mkdir(exist_ok=True)
    for name in ("one", "two"):
        shutil.copy(folder / f"{name}.png", folder / "both")
    told = np.stack([pixels("one.png"), pixels("two.png")])
    pipe = with_controlnets(base(), [shaken(tiny_controlnet(tiny_unet()), seed=3)])
    expected = generate_controlled(pipe, PROMPTS, [told], **SETTINGS)
    for images in (["one.png", "two.png"], ["both"], ["one.png", "--image", "two.png"]):
        np.testing.assert_array_equal(draw("--controlnet", "control", "--image", *images)[0], expected)
    drawn, _ = draw("--controlnet", "control", "--image", "both", prompts=PROMPTS[:1])
    np.testing.assert_array_equal(drawn, generate_controlled(pipe, PROMPTS[:1] * 2, [told], **SETTINGS))
    command = ["--controlnet", "control", "--image", "both", "--num_images_per_prompt", "2"]
    four, grid = draw(*command)
    expected = generate_controlled(pipe, [PROMPTS[i // 2] for i in range(4)], [told[[0, 0, 1, 1]]], **SETTINGS)
    np.testing.assert_array_equal(four, expected)
    assert [len(line) for line in tiles_of(grid, lines=2, columns=3)] == [3, 3]


def test_other_sizes_and_annotators(draw: Any, folder: Path) -> None:
    photograph = np.repeat(np.repeat(pixels("one.png")[::8, ::8], 24, 0), 24, 1)  # 192 x 192
    Image.fromarray(photograph).save("large.png")
    size = ["--height", "32", "--width", "64"]
    drawn, _ = draw("--controlnet", "control", "--image", "large.png", "--annotator", "canny", *size)
    small = np.asarray(Image.fromarray(photograph).resize((64, 32), Image.Resampling.LANCZOS, (0, 48, 192, 144)))
    edges = canny(small.transpose(2, 0, 1), 0).transpose(1, 2, 0)
    assert 0.02 < (edges > 0).mean() < 0.9
    pipe = with_controlnets(base(), [shaken(tiny_controlnet(tiny_unet()), seed=3)])
    np.testing.assert_array_equal(drawn, generate_controlled(pipe, PROMPTS, [np.stack([edges] * 2)], **SETTINGS))
    both, _ = draw(
        "--controlnet", "control:0.5", "control:0.5", "--image", "one.png", "two.png", "--annotator", "none", "canny"
    )
    edges = canny(pixels("two.png").transpose(2, 0, 1), 0).transpose(1, 2, 0)
    np.testing.assert_array_equal(both, controlled(["control", "control"], [pixels("one.png"), edges], [0.5, 0.5]))


def test_the_layouts_of_both_libraries(draw: Any, folder: Path) -> None:
    write_diffusers(folder / "control", folder / "theirs")
    command = ["--image", "one.png", "--controlnet"]
    np.testing.assert_array_equal(draw(*command, "theirs")[0], draw(*command, "control")[0])


def test_t2i_adapters_alone_and_together(draw: Any, folder: Path) -> None:
    pipe, unet = base(), tiny_unet()
    paddle.seed(0)
    pipe = with_controlnets(pipe, [new_t2i_adapter(unet, 8)])
    told = np.stack([pixels("one.png")] * 2)
    drawn, _ = draw("--controlnet", "adapter:0.5", "--image", "one.png")
    np.testing.assert_array_equal(drawn, generate_controlled(pipe, PROMPTS, [told], [0.5], **SETTINGS))
    pair, _ = draw("--controlnet", "adapter:0.25", "adapter:0.25", "--image", "one.png", "one.png")
    assert np.abs(pair.astype(int) - drawn).max() <= 1, "features of several are added"
    plain = generate(base(), PROMPTS, **SETTINGS)
    zero, _ = draw("--controlnet", "adapter:0", "adapter2:0", "--image", "one.png", "two.png")
    np.testing.assert_array_equal(zero, plain)
    mixed, _ = draw("--controlnet", "adapter:0.5", "adapter2", "--image", "one.png", "two.png")
    assert (mixed != drawn).mean() > 0.1
    assert (drawn != plain).mean() > 0.1
    with pytest.raises(ValueError, match="ControlNets and T2I-Adapters do not draw together"):
        draw("--controlnet", "adapter", "control", "--image", "one.png", "two.png")


def test_a_controlnet_of_grey_pictures_sees_them_grey(draw: Any, folder: Path) -> None:
    Image.open("one.png").convert("L").save("one_grey.png")
    drawn = [draw("--controlnet", "grey", "--image", f"{name}.png")[0] for name in ("one", "one_grey", "two")]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert (drawn[0] != drawn[2]).mean() > 0.01


def test_a_pipelines_own_controlnet_draws_where_there_is_a_picture(draw: Any, folder: Path) -> None:
    shutil.copytree(folder / "pipeline", folder / "with_control", dirs_exist_ok=True)
    shutil.copytree(folder / "control", folder / "with_control" / "controlnet", dirs_exist_ok=True)
    drawn, _ = draw("--image", "one.png", pipeline="with_control")
    np.testing.assert_array_equal(drawn, controlled(["control"], [pixels("one.png")], [1.0]))
    np.testing.assert_array_equal(draw(pipeline="with_control")[0], generate(base(), PROMPTS, **SETTINGS))


def test_inpainting(draw: Any) -> None:
    command = ["--image", "one.png", "--mask", "half.png"]
    drawn, grid = draw(*command, pipeline="inpainting")
    picture, mask = np.stack([pixels("one.png")] * 2), np.stack([pixels("half.png")[..., 0]] * 2)
    np.testing.assert_array_equal(
        drawn, generate_inpainted(load_pipeline("inpainting", concat_channels=None), PROMPTS, picture, mask, **SETTINGS)
    )
    kept, _ = draw(*command, "--keep_unmasked", pipeline="inpainting")
    np.testing.assert_array_equal(kept[:, :, :32], picture[:, :, :32])
    np.testing.assert_array_equal(kept[:, :, 32:], drawn[:, :, 32:])
    assert (drawn[:, :, :32] != picture[:, :, :32]).mean() > 0.1, "without it they went through the VAE"
    shown = tiles_of(grid, lines=2, columns=2)[0][0]
    np.testing.assert_array_equal(shown[:, :32], picture[0, :, :32])
    assert (shown[:, 32:] == 127).all()


def test_depth(draw: Any) -> None:
    pipe = load_pipeline("depth", concat_channels=None)
    deep, picture = pixels("deep.png")[..., 0].astype(np.float32) / 255, np.stack([pixels("one.png")] * 2)
    depths = np.stack([deep] * 2)
    drawn, grid = draw("--depth", "deep.png", pipeline="depth")
    np.testing.assert_array_equal(drawn, generate_from_depth(pipe, PROMPTS, depths, **SETTINGS))
    np.testing.assert_array_equal(tiles_of(grid, lines=2, columns=2)[0][0], pixels("deep.png"))
    begun, _ = draw("--depth", "deep.png", "--image", "one.png", "--strength", "0.5", pipeline="depth")
    np.testing.assert_array_equal(begun, generate_from_depth(pipe, PROMPTS, depths, picture, strength=0.5, **SETTINGS))
    default, _ = draw("--depth", "deep.png", "--image", "one.png", pipeline="depth")
    np.testing.assert_array_equal(default, generate_from_depth(pipe, PROMPTS, depths, picture, **SETTINGS))
    assert (default != begun).mean() > 0.1
    made, _ = draw("--image", "one.png", "--annotator", "canny", pipeline="depth")
    edges = canny(picture[0].transpose(2, 0, 1), 0)[0].astype(np.float32) / 255
    np.testing.assert_array_equal(made, generate_from_depth(pipe, PROMPTS, np.stack([edges] * 2), picture, **SETTINGS))


@pytest.mark.parametrize(
    ("pipeline", "flags", "message"),
    [
        ("pipeline", "--image one.png", "--image: a UNet of text alone draws after a picture only with --controlnet"),
        ("pipeline", "--controlnet control", "--image missing: a ControlNet needs the picture to draw after"),
        ("pipeline", "--annotator canny", "--image missing: --annotator needs the picture to draw after"),
        ("pipeline", "--controlnet control other --image one.png", "--image: 1 of 2 pictures, one for each ControlNet"),
        (
            "pipeline",
            "--controlnet control --controlnet control other --image one.png",
            "--controlnet: rows of 1 and 2; all are shown the same pictures",
        ),
        (
            "pipeline",
            "--controlnet control:x --image one.png",
            "--controlnet: control:x is no folder, and not to be had",
        ),
        (
            "pipeline",
            "--controlnet control:nan --image one.png",
            "--controlnet control:nan: the weight must be a number",
        ),
        (
            "pipeline",
            "--controlnet pipeline/unet --image one.png",
            "--controlnet: pipeline/unet holds UNet2DConditionM",
        ),
        (
            "pipeline",
            "--controlnet one.png --image one.png",
            "--controlnet: one.png is a file; a folder with config.json",
        ),
        ("pipeline", "--controlnet control --image three.png", "--image: there is no file three.png"),
        (
            "pipeline",
            "--controlnet control --image one.png --annotator canny canny",
            "--annotator: 2 names for 1 ControlNets",
        ),
        (
            "pipeline",
            "--controlnet control --image one.png --annotator canny --annotator_model x",
            "--annotator_model: 1 for 0 networks of --annotator",
        ),
        (
            "pipeline",
            "--image one.png --mask half.png",
            "--mask is for an inpainting UNet; this is a UNet of text alone",
        ),
        ("inpainting", "", "--image and --mask missing: an inpainting UNet needs a picture, and a mask that is light"),
        ("inpainting", "--image one.png", "--mask missing: an inpainting UNet needs a picture, and a mask"),
        (
            "inpainting",
            "--controlnet control --image one.png --mask half.png",
            "--controlnet is for a UNet of text alone; this is an inpainting UNet",
        ),
        ("inpainting", "--image one.png --mask black.png", "--mask: black.png: mask: empty"),
        ("depth", "", "--depth missing: a depth UNet needs a depth map, or --image and --annotator to make it of"),
        ("depth", "--image one.png", "--depth missing: a depth UNet needs a depth map"),
        ("depth", "--depth deep.png --strength 0.5", "--strength says how much of --image is changed; give it, too"),
        ("depth", "--depth deep.png --image one.png --annotator canny", "--annotator and --depth both say what"),
        ("depth", "--depth deep.png --image one.png --strength 1.5", "--strength 1.5 must be above 0 and at most 1"),
        (
            "depth",
            "--depth deep.png --image one.png --strength 0.1",
            "--strength 0.1 is less than one of 3 steps",
        ),
        (
            "depth",
            "--depth deep.png --keep_unmasked",
            "--keep_unmasked is for an inpainting UNet; this is a depth UNet",
        ),
    ],
)
def test_what_is_wrong_is_one_line(draw: Any, pipeline: str, flags: str, message: str) -> None:
    Image.new("L", (64, 64)).save("black.png")
    with pytest.raises(ValueError, match="^" + message.replace(".", r"\.").replace("(", r"\(")) as caught:
        draw(*flags.split(), pipeline=pipeline)
    assert "\n" not in str(caught.value)
