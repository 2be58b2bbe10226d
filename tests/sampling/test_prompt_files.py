from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ppsd.sampling.prompts import Prompt, draw_prompts, parse_prompt, read_prompts


def test_a_line_of_kohyas_prompt_file_is_read_whole() -> None:
    """The example of kohya's documentation (sd-scripts, docs/train_network_README)."""
    line = (
        "masterpiece, best quality, (1girl), in white shirts, upper body, looking at viewer, simple background "
        "--n low quality, worst quality, bad anatomy,bad composition, poor, low effort --w 768 --h 768 --d 1 "
        "--l 7.5 --s 28"
    )
    assert parse_prompt(line) == Prompt(
        "masterpiece, best quality, (1girl), in white shirts, upper body, looking at viewer, simple background",
        "low quality, worst quality, bad anatomy,bad composition, poor, low effort",
        768,
        768,
        1,
        7.5,
        28,
    )


def test_the_order_of_options_and_their_case_do_not_matter() -> None:
    assert parse_prompt("a --S 5 --D 0 --n red--blue, x") == Prompt("a", "red--blue, x", seed=0, steps=5)
    assert parse_prompt("--w 64") == Prompt("", width=64)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a --x 3", "--x: known are --n, --w, --h, --d, --l, --s"),
        ("a --w 511", "--w 511: it must be a multiple of 8"),
        ("a --w 0", "--w 0: it must be a multiple of 8"),
        ("a --d -1", "--d -1: it must be a whole number"),
        ("a --l nan", "--l nan: it must be a number"),
        ("a --s 0", "--s 0: it must be 1 to 1000"),
        ("a --d 1 --d 2", "--d is given twice"),
        ("a --ss euler_a", "--ss euler_a: pictures are drawn with the scheduler of the pipeline"),
        ("a --cn edge.png", "there is no ControlNet"),
    ],
)
def test_what_cannot_be_done_is_said(line: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "p.txt"
    file.write_text(f"# prompts\n\n{line}\n")
    with pytest.raises(ValueError, match=r"--sample_prompts: .*p.txt, line 3: ") as caught:
        read_prompts(str(file), "--sample_prompts")
    assert message in str(caught.value)


def test_a_file_holds_prompts_comments_and_empty_lines(tmp_path: Path) -> None:
    file = tmp_path / "p.txt"
    file.write_bytes("\ufeff# a comment --w 1\n\n  a red cat --d 3  \n一只猫\n".encode())
    assert read_prompts(str(file), "--f") == [Prompt("a red cat", seed=3), Prompt("一只猫")]
    file.write_text("# only this\n")
    with pytest.raises(ValueError, match=r"--f: .*p.txt has no prompt"):
        read_prompts(str(file), "--f")
    with pytest.raises(ValueError, match=r"--f: cannot read .*nowhere.txt: No such file"):
        read_prompts(str(tmp_path / "nowhere.txt"), "--f")
    (tmp_path / "p.toml").write_text("[prompt]")
    with pytest.raises(ValueError, match=r"must be a text file with one prompt a line"):
        read_prompts(str(tmp_path / "p.toml"), "--f")


def test_prompts_of_one_kind_are_drawn_together_and_stay_in_order() -> None:
    calls: list[tuple[list[str], dict[str, Any]]] = []

    def draw(texts: list[str], **settings: Any) -> np.ndarray:
        calls.append((texts, settings))
        size = settings["height"], settings["width"], 3
        return np.stack([np.full(size, ord(text) + i, np.uint8) for i, text in enumerate(texts)])

    prompts = [Prompt("a"), Prompt("k", width=16), Prompt("c"), Prompt("s", "bad", seed=9, scale=2.0, steps=4)]
    common = {"height": 8, "width": 8, "guidance_scale": 7.5, "num_inference_steps": 30}
    pictures = draw_prompts(draw, prompts, 2, seed=1, **common)
    assert [texts for texts, _ in calls] == [["a", "c", "a", "c"], ["k", "k"], ["s", "s"]]
    assert calls[0][1] == {**common, "seed": 1}
    assert calls[1][1] == {**common, "seed": 1, "width": 16}
    own = {"guidance_scale": 2.0, "num_inference_steps": 4, "negative_prompt": "bad"}
    assert calls[2][1] == {**common, **own, "seed": 9}
    shown = [[int(picture[0, 0, 0]) for picture in row] for row in pictures]
    assert shown == [[97, 99], [107, 108], [100, 102], [115, 116]]
    assert pictures[1][0].shape == (8, 16, 3)
