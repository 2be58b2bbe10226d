"""tools/compare_checkpoints.py: which rows there are, that they differ by their weights alone, and what is written."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from PIL import Image

from ppsd.sampling.compare import Candidate, load_candidate
from ppsd.sampling.compare_page import page, sheet
from ppsd.sampling.pipeline import generate, load_pipeline
from ppsd.trainers.candidates import find_candidates
from tests.trainers.conftest import Run, tiny_run  # noqa: F401  a fixture
from tools.compare_checkpoints import main

QUICK = ["--num_inference_steps", "2", "--guidance_scale", "2"]


@pytest.fixture(scope="module")
def runs(tiny_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    """`lean`: two checkpoints with EMA over the pipeline's UNet; `whole`: one with the whole pipeline in it."""
    folder = tmp_path_factory.mktemp("runs")
    flags: dict[str, Any] = {"unet_name_or_path": None, "learning_rate": 3e-2, "use_ema": True}
    tiny_run.train(folder / "lean", max_steps=2, save_steps=1, train_text_encoder=True, **flags)
    tiny_run.train(folder / "whole", max_steps=1, only_save_updated_model=False, **flags)
    return folder


def labels(rows: Sequence[Candidate]) -> list[str]:
    return [row.label for row in rows]


def test_a_run_stands_for_its_checkpoints_oldest_first(tiny_run: Run, runs: Path) -> None:  # noqa: F811
    lean = str(runs / "lean")
    assert labels(find_candidates([lean], None, base=False, ema=False)) == ["checkpoint-1", "checkpoint-2"]
    rows = find_candidates([lean], None, base=True, ema=True)
    assert labels(rows) == [
        f"base: {tiny_run.pipeline}",
        "checkpoint-1",
        "checkpoint-1 (EMA)",
        "checkpoint-2",
        "checkpoint-2 (EMA)",
    ]
    assert [row.averaged for row in rows] == [None, None, "unet", None, "unet"]
    assert rows[1].parts == ("text_encoder", "unet")
    several = find_candidates([f"{lean}/checkpoint-2", lean, str(tiny_run.pipeline)], None, base=False, ema=False)
    second, first = f"{lean}/checkpoint-2", f"{lean}/checkpoint-1"
    assert labels(several) == [second, first, second, str(tiny_run.pipeline)]


def test_each_row_has_the_weights_that_it_says(tiny_run: Run, runs: Path) -> None:  # noqa: F811
    lean, whole = (runs / name / "checkpoint-1" for name in ("lean", "whole"))
    base, plain, averaged = find_candidates([str(lean)], None, base=True, ema=True)
    for candidate, expected in (
        (base, load_pipeline(str(tiny_run.pipeline))),
        (averaged, load_pipeline(str(tiny_run.pipeline), str(lean / "unet"), "ema")),
        (
            find_candidates([str(whole)], None, base=False, ema=True)[1],
            load_pipeline(str(whole), f"{whole}/unet", "ema"),
        ),
        (find_candidates([str(whole)], None, base=False, ema=False)[0], load_pipeline(str(whole), f"{whole}/unet")),
    ):
        same(load_candidate(candidate).unet, expected.unet)
    pipe = load_candidate(plain)
    same(pipe.unet, load_pipeline(str(tiny_run.pipeline), str(lean / "unet")).unet)
    moved = pipe.text_encoder.state_dict()
    before = load_pipeline(str(tiny_run.pipeline)).text_encoder.state_dict()
    assert any((moved[name] != before[name]).any() for name in moved), "the trained text encoder is the checkpoint's"


def same(one: Any, other: Any) -> None:
    a, b = one.state_dict(), other.state_dict()
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name].numpy(), b[name].numpy(), err_msg=name)


def test_the_grid_and_the_page_hold_the_pictures(tiny_run: Run, runs: Path, tmp_path: Path) -> None:  # noqa: F811
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("# two\na red circle\n<b>blue & square</b> --d 5\n")
    output = tmp_path / "grids" / "compare.png"
    flags = ["--prompts_file", str(prompts), "--output", str(output), "--seed", "3", *QUICK]
    assert main([str(runs / "lean"), "--base", *flags]) == 0
    text = output.with_suffix(".html").read_text(encoding="utf-8")
    images = [_decoded(data) for data in re.findall(r'src="data:image/png;base64,([^"]+)"', text)]
    assert len(images) == 6
    assert "src=" not in re.sub(r'src="data:image/png;base64,[^"]+"', "", text), "nothing from elsewhere"
    assert "&lt;b&gt;blue &amp; square&lt;/b&gt;" in text
    assert "<b>blue" not in text
    settings = {"guidance_scale": 2.0, "num_inference_steps": 2}
    pipe = load_pipeline(str(tiny_run.pipeline))
    np.testing.assert_array_equal(images[0], generate(pipe, ["a red circle"], seed=3, **settings)[0])
    np.testing.assert_array_equal(images[1], generate(pipe, ["<b>blue & square</b>"], seed=5, **settings)[0])
    later = np.asarray(Image.open(output))
    assert later.shape[0] >= 3 * 128, "three rows of pictures enlarged to 128 pixels"
    assert (images[0] != images[2]).any(), "trained"


def _decoded(data: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


def test_a_sheet_has_a_row_for_each_candidate_and_a_column_for_each_prompt() -> None:
    def tile(value: int, width: int = 128) -> np.ndarray:
        return np.full((128, width, 3), value, np.uint8)

    rows = [[[tile(10), tile(20)], [tile(30)]], [[tile(40), tile(50)], [tile(60)]]]
    grid = sheet(["one", "two"], ["a", "b"], rows)
    left = grid.shape[1] - (256 + 128 + 8)
    top = grid.shape[0] - 2 * 132
    seen = [[grid[top + y, left + x, 0] for x in (5, 133, 270)] for y in (64, 196)]
    assert seen == [[10, 20, 30], [40, 50, 60]]
    assert page("t", "about", ["one", "two"], ["a", "b"], rows).count("<img") == 6


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["{runs}", "--prompts", "a"], "holds neither whole checkpoints nor a pipeline"),
        (["{runs}/lean", "--prompts", "a", "--output", "x.jpg"], "--output: x.jpg must end in .png"),
        (["{runs}/lean", "--prompts_file", "nowhere.txt"], "--prompts_file: cannot read nowhere.txt"),
        (["{runs}/lean/checkpoint-1/nothing", "--prompts", "a", "--base"], "name it with --pipeline"),
    ],
)
def test_what_cannot_be_compared_is_said_in_a_line(
    flags: list[str], message: str, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([flag.format(runs=runs) for flag in flags]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_random_beginning_is_no_base(tiny_run: Run, tmp_path: Path) -> None:  # noqa: F811
    tiny_run.train(tmp_path, max_steps=1)
    with pytest.raises(ValueError, match=r"--base: the run began with a random UNet \(.*unet.json\)"):
        find_candidates([str(tmp_path)], None, base=True, ema=False)
    assert labels(find_candidates([str(tmp_path)], str(tiny_run.pipeline), base=True, ema=False)) == [
        f"base: {tiny_run.pipeline}",
        "checkpoint-1",
    ]


def test_parts_that_nobody_can_add_are_named(tiny_run: Run) -> None:  # noqa: F811
    candidate = Candidate("x", str(tiny_run.pipeline), checkpoint=Path("c"), parts=("adapters",))
    with pytest.raises(ValueError, match="c: adapters cannot be drawn with"):
        load_candidate(candidate)


def test_checkpoints_of_new_tokens_are_drawn_with_them(tiny_run: Run, tmp_path: Path) -> None:  # noqa: F811
    flags = {"placeholder_token": "<toy>", "initializer_token": "red", "num_vectors": 2, "use_ema": True}
    trainer = tiny_run.train(tmp_path, max_steps=1, unet_name_or_path=None, **flags)
    row, averaged = find_candidates([str(tmp_path)], None, base=False, ema=True)
    assert row.parts == ("embeddings", "unet")
    assert averaged.averaged == "unet"
    pipe = load_candidate(row)
    ids = pipe.tokenizer("<toy>")["input_ids"][1:-1]
    found = pipe.text_encoder.text_model.embeddings.token_embedding(paddle.to_tensor(ids)).numpy()
    np.testing.assert_array_equal(found[0], next(iter(trainer.step.trained["embeddings"].parameters())).numpy()[0])
