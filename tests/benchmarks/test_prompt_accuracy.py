from __future__ import annotations

import numpy as np
import pytest

from ppsd.data.demo import COLORS, HELD_OUT, PAIRS, make_example
from tests.benchmarks import prompt_accuracy
from tests.benchmarks.prompt_accuracy import choose, read_colors, score


def plain(color: str) -> np.ndarray:
    return np.full((64, 64, 3), COLORS[color], np.uint8)


def blurred(image: np.ndarray) -> np.ndarray:
    """5 x 5 box blur and noise: what a weak VAE makes of a picture."""
    padded = np.pad(image.astype(float), ((2, 2), (2, 2), (0, 0)), mode="edge")
    mean = sum(padded[i : i + 64, j : j + 64] for i in range(5) for j in range(5)) / 25
    noise = np.random.default_rng(0).normal(0, 12, image.shape)
    return (mean + noise).round().clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("change", [np.asarray, blurred])
def test_right_pictures_are_right(change: object) -> None:
    examples = [make_example(i) for i in range(200)]
    pairs = [(example.color, example.background) for example in examples]
    shape, background = score([change(np.asarray(example.image)) for example in examples], pairs)  # type: ignore[operator]
    assert shape.all()
    assert background.all()


def test_swapped_colors_are_wrong() -> None:
    examples = [make_example(i) for i in range(50)]
    shape, background = score(
        [np.asarray(example.image) for example in examples],
        [(example.background, example.color) for example in examples],
    )
    assert not shape.any()
    assert not background.any()


def test_a_picture_without_a_shape_has_the_right_background_only() -> None:
    shape, background = score([plain("blue")] * 2, [("red", "blue"), ("blue", "red")])
    assert shape.tolist() == [False, False]
    assert background.tolist() == [True, False]


def test_specks_are_no_shape() -> None:
    image = plain("blue")
    image[8::8, 8::8] = COLORS["red"]
    image[20:24, 20:24] = COLORS["red"]
    assert read_colors(image) == ("blue", None)
    image[20:40, 20:40] = COLORS["red"]
    assert read_colors(image) == ("blue", "red")


def test_the_majority_of_a_two_colored_shape_counts() -> None:
    image = plain("white")
    image[16:48, 16:48] = COLORS["green"]
    image[20:30, 20:30] = COLORS["black"]
    assert read_colors(image) == ("white", "green")


def test_prompts_are_seeded_and_of_the_pairs_asked_for() -> None:
    pairs, prompts = choose(PAIRS, 100, seed=0)
    assert choose(PAIRS, 100, seed=0) == (pairs, prompts)
    assert choose(PAIRS, 100, seed=1) != (pairs, prompts)
    assert len(set(pairs)) > 50
    assert not set(pairs) & set(HELD_OUT)
    assert all(color in prompt and background in prompt for (color, background), prompt in zip(pairs, prompts))


@pytest.mark.parametrize(("swapped", "code"), [(False, 0), (True, 1)])
def test_the_exit_code_says_whether_the_targets_are_met(
    swapped: bool, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import ppsd.sampling.pipeline as sampling

    def draw(pipe: object, prompts: list[str], **options: object) -> np.ndarray:
        wanted = {
            prompt: pair
            for kind in (PAIRS, HELD_OUT)
            for seed in (0, 1)
            for pair, prompt in zip(*choose(kind, 9, seed))
        }
        images = []
        for prompt in prompts:
            color, background = wanted[prompt][::-1] if swapped else wanted[prompt]
            image = plain(background)
            image[20:40, 20:40] = COLORS[color]
            images.append(image)
        return np.stack(images)

    monkeypatch.setattr(sampling, "load_pipeline", lambda *args: None)
    monkeypatch.setattr(sampling, "generate", draw)
    assert prompt_accuracy.main(["--pipeline", "x", "--num_prompts", "9"]) == code
    share = "0.0%" if swapped else "100.0%"
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[-4:-2] for line in lines[1:]] == [[share, share], [share, share]]
