"""Faces and people drawn from points: colours at known places, every way that points come in, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ppsd.data.annotators.landmarks import PARTS, draw_landmarks
from ppsd.data.annotators.points import MAX_POINT_BYTES, UNREADABLE_POINTS, UNUSABLE_POINTS, read_points
from ppsd.data.annotators.pose import BONES, COLORS, draw_pose
from ppsd.types import BadRecord

SIZE = (512, 512)


def ring(center: tuple[float, float], radius: float, count: int) -> np.ndarray:
    turns = np.linspace(0, 2 * np.pi, count, endpoint=False)
    return np.stack([center[0] + radius * np.cos(turns), center[1] + radius * np.sin(turns)], axis=1)


def face() -> np.ndarray:
    """68 points: each part somewhere of its own."""
    return np.concatenate(
        [
            np.stack([np.linspace(40, 470, 17), np.full(17, 480.0)], axis=1),
            np.stack([np.linspace(80, 200, 5), np.full(5, 60.0)], axis=1),
            np.stack([np.linspace(300, 420, 5), np.full(5, 60.0)], axis=1),
            np.stack([np.full(4, 256.0), np.linspace(100, 220, 4)], axis=1),
            np.stack([np.linspace(200, 310, 5), np.full(5, 250.0)], axis=1),
            ring((140, 150), 30, 6),
            ring((370, 150), 30, 6),
            ring((256, 370), 60, 12),
            ring((256, 370), 20, 8),
        ]
    )


def test_a_face_has_the_colors_of_the_example_at_its_parts() -> None:
    drawn = draw_landmarks(face(), SIZE)
    assert drawn.shape == (3, 512, 512)
    assert drawn.dtype == np.uint8
    for (x, y), color in {
        (256, 480): (0, 255, 0),
        (140, 60): (255, 255, 0),
        (360, 60): (255, 255, 0),
        (256, 160): (255, 165, 0),
        (255, 250): (255, 165, 0),
        (140, 150): (255, 0, 255),
        (370, 150): (255, 0, 255),
        (256, 410): (0, 255, 255),
        (256, 370): (0, 0, 255),
        (10, 10): (0, 0, 0),
        (256, 300): (0, 0, 0),
    }.items():
        assert tuple(drawn[:, y, x]) == color
    assert (drawn[:, 470:490, 256].max(axis=0) > 0).sum() == 4, "lines are 4 pixels of 512"
    ring_area = 6 / 2 * 30**2 * np.sin(2 * np.pi / 6)
    magenta = (drawn == np.array([255, 0, 255])[:, None, None]).all(axis=0)[:, :256].sum()
    assert ring_area < magenta < ring_area + 6 * 30 * 3 + 50, "eyes are filled"


def test_a_face_of_another_size_is_the_same_face() -> None:
    large, wide = draw_landmarks(face() * 2, (1024, 1024)), draw_landmarks(face() * (1.5, 1), (768, 512))
    same = draw_landmarks(face(), SIZE)
    assert ((large[:, ::2, ::2] != same).any(axis=0)).mean() < 0.01
    assert wide.shape == (3, 512, 768)
    assert tuple(wide[:, 150, 555]) == (255, 0, 255)
    two = draw_landmarks(np.stack([face() / 2, face() / 2 + 256]), SIZE)
    assert tuple(two[:, 75, 70]) == tuple(two[:, 331, 326]) == (255, 0, 255)
    assert (draw_landmarks(face() + 5000, SIZE) == 0).all()


def body() -> np.ndarray:
    """18 points on a ring, so that no bone goes through a third point."""
    return np.rint(ring((256, 256), 200, 18))


def test_a_body_has_openposes_colors() -> None:
    drawn = draw_pose(body(), SIZE)
    for (x, y), color in zip(body().astype(int), COLORS):
        assert tuple(drawn[:, y, x]) == color
    red = (drawn[:, 256, 440:470] == np.array(COLORS[0])[:, None]).all(axis=0)
    assert red.sum() in (8, 9), "joints have a radius of 4 pixels"
    start, end = body()[list(BONES[16])]
    middle = ((start + end) / 2).astype(int)
    assert tuple(drawn[:, middle[1], middle[0]]) == tuple(int(value * 0.6) for value in COLORS[16])
    assert len(BONES) == 17
    assert {point for bone in BONES for point in bone} == set(range(18))
    assert tuple(draw_pose(body()[None], SIZE)[:, 256, 456]) == COLORS[0]


def test_a_point_that_is_not_seen_has_no_joint_and_no_bones() -> None:
    points = body()
    points[4] = np.nan
    drawn, whole = draw_pose(points, SIZE), draw_pose(body(), SIZE)
    x, y = body()[4].astype(int)
    assert (drawn[:, y, x] == 0).all()
    colors = {tuple(color) for color in drawn.reshape(3, -1).T.tolist()}
    bone = BONES.index((3, 4))
    assert tuple(int(value * 0.6) for value in COLORS[bone]) not in colors
    assert (whole != drawn).any()
    assert (draw_pose(np.full((18, 2), np.nan), SIZE) == 0).all()


def ways(points: np.ndarray, folder: Path) -> dict[str, Any]:
    """The same points in every way that they can come in."""
    np.save(folder / "p.npy", points)
    (folder / "p.json").write_text(json.dumps(points.tolist()))
    (folder / "p.txt").write_text("".join(f"{x} {y}\n" for x, y in points))
    (folder / "p.csv").write_text("".join(f"{x},{y}\n" for x, y in points))
    with_third = np.concatenate([points, np.ones((len(points), 1))], axis=1)
    return {
        "lists": points.tolist(),
        "flat": points.ravel().tolist(),
        "one figure in a list": [points.tolist()],
        "one figure, flat": [points.ravel().tolist()],
        "three numbers": with_third.tolist(),
        "JSON": json.dumps(points.tolist()),
        "shares": (points / SIZE).tolist(),
        **{name: folder / name for name in ("p.npy", "p.json", "p.txt", "p.csv")},
    }


@pytest.mark.parametrize("name", ["landmarks", "pose"])
def test_every_way_that_points_come_in(name: str, tmp_path: Path) -> None:
    points = face() if name == "landmarks" else body()
    for way, value in ways(points, tmp_path).items():
        found = read_points(name, value, SIZE)
        assert isinstance(found, np.ndarray), (way, found)
        assert np.abs(found - points).max() < 1e-9, way
        assert found.shape == (1, *points.shape)


def test_the_pupils_of_facesynthetics_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "000000_ldmks.txt").write_text("".join(f"{x} {y}\n" for x, y in [*face(), (140, 150), (370, 150)]))
    found = read_points("landmarks", tmp_path / "000000_ldmks.txt", SIZE)
    assert isinstance(found, np.ndarray)
    assert np.allclose(found[0], face())


def test_what_openpose_writes() -> None:
    numbers = np.concatenate([body(), np.full((18, 1), 0.9)], axis=1)
    numbers[7] = 0
    written = {"version": 1.1, "people": [{"pose_keypoints_2d": numbers.ravel().tolist()}] * 2}
    for value in (written, json.dumps(written)):
        found = read_points("pose", value, SIZE)
        assert isinstance(found, np.ndarray)
        assert found.shape == (2, 18, 2)
        assert np.isnan(found[:, 7]).all()
        assert np.allclose(np.delete(found[1], 7, 0), np.delete(body(), 7, 0))


def test_a_pose_without_confidence_does_not_see_points_at_the_corner() -> None:
    points = body()
    points[3] = 0
    found = read_points("pose", points.tolist(), SIZE)
    assert isinstance(found, np.ndarray)
    assert np.isnan(found[0, 3]).all()
    assert not np.isnan(found[0, 4]).any()


def test_points_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text("{")
    (tmp_path / "p.txt").write_text("1 2\nthree 4\n")
    (tmp_path / "p.npy").write_bytes(b"\x93NUMPY")
    with open(tmp_path / "huge.npy", "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f8", "fortran_order": False, "shape": (10**15, 2)})
    np.save(tmp_path / "o.npy", np.array([{}], object), allow_pickle=True)
    (tmp_path / "large.txt").write_bytes(b"1 2\n" * (MAX_POINT_BYTES // 4 + 1))
    infinite = face()
    infinite[3, 1] = np.inf
    for value, reason, detail in (
        ([[1, 2]] * 5, UNUSABLE_POINTS, "an array of [5, 2]; landmarks need 68 or 70 points of 2 or 3 numbers"),
        ([], UNUSABLE_POINTS, "an array of [0]"),
        (7, UNUSABLE_POINTS, "an array of []"),
        ([[1, 2], [3]], UNUSABLE_POINTS, "no regular table of numbers"),
        ("left eye", UNREADABLE_POINTS, "the column: no JSON"),
        (infinite.tolist(), UNUSABLE_POINTS, "not finite"),
        (tmp_path / "gone.json", UNREADABLE_POINTS, "gone.json: No such file"),
        (tmp_path / "p.json", UNREADABLE_POINTS, "p.json: no JSON"),
        (tmp_path / "p.txt", UNREADABLE_POINTS, "p.txt: could not convert string to float: 'three'"),
        (tmp_path / "p.npy", UNREADABLE_POINTS, "p.npy: "),
        (tmp_path / "o.npy", UNREADABLE_POINTS, "o.npy: Object arrays cannot be loaded"),
        (tmp_path / "huge.npy", UNREADABLE_POINTS, "huge.npy: Unable to allocate"),
        (tmp_path / "large.txt", UNREADABLE_POINTS, "more than 4194304 bytes"),
    ):
        found = read_points("landmarks", value, SIZE)
        assert isinstance(found, BadRecord), value
        assert found.reason == reason
        assert detail in found.detail
    assert isinstance(read_points("pose", {"people": [{"pose_keypoints_2d": [1.0] * 75}]}, SIZE), BadRecord)


@pytest.mark.parametrize("people", [5, None, [1], [{}], ["left", {}], [{"pose_keypoints_2d": [10**400] * 54}]])
def test_openpose_files_that_are_none(people: Any) -> None:
    for value in ({"people": people}, json.dumps({"people": people})):
        found = read_points("pose", value, SIZE)
        assert isinstance(found, BadRecord)
        assert found.reason == UNUSABLE_POINTS


@pytest.mark.parametrize("name", ["landmarks", "pose"])
def test_points_far_outside_take_too_long_to_draw(name: str) -> None:
    points = face() if name == "landmarks" else body()
    points[5] = -15 * SIZE[0], 15 * SIZE[1]
    assert isinstance(read_points(name, points.tolist(), SIZE), np.ndarray)
    for far in (-17 * SIZE[0], 1e300):
        points[5, 0] = far
        found = read_points(name, points.tolist(), SIZE)
        assert isinstance(found, BadRecord)
        assert "far outside of a picture of" in found.detail


def test_the_parts_are_all_of_a_face() -> None:
    assert [number for part in PARTS for number in range(part.begin, part.end)] == list(range(68))
