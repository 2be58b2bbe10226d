"""Which files go with which prompt."""

from __future__ import annotations

from pathlib import Path

import pytest

from ppsd.sampling.scenes import Scene, files_of, find_scenes, with_prompts


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Files a.png to d.png, a folder `all` with 2.JPG, 10.png and a text, and an empty one."""
    monkeypatch.chdir(tmp_path)
    for name in ("a.png", "b.png", "c.png", "d.png", "all/2.JPG", "all/10.png", "all/notes.txt", "empty/notes.txt"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).touch()
    return tmp_path


def images(scenes: list[Scene]) -> list[list[str]]:
    return [[file.name for file in scene.images] for scene in scenes]


def test_with_one_controlnet_each_word_is_a_picture_of_its_own(here: Path) -> None:
    assert images(find_scenes([["a.png", "b.png"], ["all"]], [], [], 1)) == [
        ["a.png"],
        ["b.png"],
        ["10.png"],
        ["2.JPG"],
    ]


def test_with_several_each_has_its_picture(here: Path) -> None:
    assert images(find_scenes([["a.png", "b.png"], ["c.png", "all"]], [], [], 2)) == [
        ["a.png", "b.png"],
        ["c.png", "10.png"],
        ["c.png", "2.JPG"],
    ]
    with pytest.raises(
        ValueError, match="--image: 3 of 2 pictures, one for each ControlNet; for further pictures give"
    ):
        find_scenes([["a.png", "b.png", "c.png"]], [], [], 2)


def test_masks_and_depths_go_with_pictures(here: Path) -> None:
    both = find_scenes([["a.png", "b.png"]], ["c.png"], [])
    assert [(scene.images[0].name, scene.mask and scene.mask.name) for scene in both] == [
        ("a.png", "c.png"),
        ("b.png", "c.png"),
    ]
    assert find_scenes([], [], ["a.png", "b.png"]) == [Scene(depth=Path("a.png")), Scene(depth=Path("b.png"))]
    with pytest.raises(ValueError, match="--image: 3, --mask: 2: there must be as many of each, or one for all"):
        find_scenes([["a.png", "b.png", "c.png"]], ["a.png", "b.png"], [])
    assert find_scenes([], [], []) == []


def test_prompts_and_pictures_are_paired_as_in_diffusers(here: Path) -> None:
    one, two = (find_scenes([words], [], [], 1) for words in (["a.png"], ["a.png", "b.png"]))
    assert with_prompts(["x", "y", "z"], one) == (["x", "y", "z"], one * 3)
    assert with_prompts(["x"], two) == (["x", "x"], two)
    assert with_prompts(["x", "y"], two) == (["x", "y"], two)
    assert with_prompts(["x", "y"], []) == (["x", "y"], [])
    with pytest.raises(ValueError, match="--prompt: 3, --image: 2: there must be"):
        with_prompts(["x", "y", "z"], two)
    with pytest.raises(ValueError, match="--prompt: 3, --depth: 2: there must be"):
        with_prompts(["x", "y", "z"], find_scenes([], [], ["a.png", "b.png"]))


def test_what_is_not_there_is_named(here: Path) -> None:
    with pytest.raises(ValueError, match=r"--mask: there is no file e\.png"):
        files_of("e.png", "--mask")
    with pytest.raises(ValueError, match="--image: there are no pictures in the folder empty"):
        files_of("empty", "--image")
