"""Annotators that are networks, against torch (tests/fixtures/annotators), and what cannot be loaded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ppsd.models import annotators, hed
from ppsd.models.ade20k import PALETTE
from ppsd.models.annotators import load_annotator
from ppsd.models.dpt import Dpt

FIXTURE = Path(__file__).parents[1] / "fixtures" / "annotators"
EXPECTED = load_file(FIXTURE / "expected.safetensors")
PIXELS = np.ascontiguousarray(EXPECTED["pixels"].transpose(2, 0, 1))


@pytest.mark.parametrize("name", ["depth", "hybrid"])
def test_depth_is_transformers_in_0_to_1(name: str) -> None:
    depth = load_annotator("depth", str(FIXTURE / name))(PIXELS, 0)
    reference = EXPECTED[name]
    assert reference.std() > 0.02
    assert depth.dtype == np.float32
    assert depth.shape == (1, 40, 56)
    assert (depth.min(), depth.max()) == (0, 1)
    expected = (reference - reference.min()) / (reference.max() - reference.min())
    assert np.abs(depth[0] - expected).max() < 1e-5


def test_kinds_of_things_are_those_of_transformers_in_the_palette() -> None:
    colored = load_annotator("seg", str(FIXTURE / "seg"))(PIXELS, 0)
    assert len(np.unique(EXPECTED["kinds"])) >= 4
    agreeing = (colored.transpose(1, 2, 0) == PALETTE[EXPECTED["kinds"]]).all(axis=2)
    assert agreeing.mean() > 0.999  # a pixel on a border may go either way
    assert tuple(PALETTE[0]) == (120, 120, 120)
    assert tuple(PALETTE[2]) == (6, 230, 230)
    assert tuple(PALETTE[149]) == (92, 0, 255)
    assert PALETTE.shape == (150, 3)


def test_soft_edges_are_those_of_torch() -> None:
    for path in (FIXTURE / "hed", FIXTURE / "hed" / hed.FILE):
        edges = load_annotator("hed", str(path))(PIXELS, 0)
        assert edges.dtype == np.uint8
        assert edges.shape == PIXELS.shape
        assert (edges[0] == edges[2]).all()
        assert np.abs(edges[0] - EXPECTED["edges"] * 255).max() < 1.01
    assert EXPECTED["edges"].std() > 0.05


class Slope:
    """A plane as a depth network sees it: nearer to the right."""

    def __call__(self, pixels: np.ndarray, output: str) -> Any:
        import paddle

        assert output == "predicted_depth"
        return paddle.tile(paddle.arange(32, dtype="float32") * 3, [32]).reshape([1, 32, 32])


def test_normals_of_a_plane() -> None:
    """By hand: Sobel's slope of a plane that rises by 3 a pixel is 24; across it is 0; far away it faces the camera."""
    normal = annotators._normal(Slope(), np.zeros((3, 32, 32), np.uint8), 0)
    length = np.hypot(24, 2 * np.pi)
    expected = np.array([24 / length, 0, 2 * np.pi / length]) * 127.5 + 127.5
    assert np.abs(normal[:, 1:-1, 10:-1] - expected[:, None, None]).max() < 1.01
    assert np.array_equal(np.unique(normal[:, :, :3].reshape(3, -1), axis=1)[:, 0], (127, 127, 255))


def test_normals_by_a_network_have_length_one() -> None:
    normal = load_annotator("normal", str(FIXTURE / "depth"))(PIXELS, 0)
    lengths = np.sqrt((((normal.astype(float) - 127.5) / 127.5) ** 2).sum(axis=0))
    assert normal.shape == PIXELS.shape
    assert np.abs(lengths - 1).max() < 0.02
    assert len(np.unique(normal[0])) > 10


def test_a_paddle_folder_and_a_depth_pipeline(tmp_path: Path) -> None:
    """The same network saved by paddlenlp, as the part of a pipeline, and not touched by the seed."""
    from paddlenlp.transformers import DPTForDepthEstimation

    torch = Dpt(DPTForDepthEstimation, str(FIXTURE / "depth"), "--annotator_model")
    pipeline = tmp_path / "pipeline"
    torch._model.save_pretrained(str(pipeline / "depth_estimator"), safe_serialization=True)
    (pipeline / "feature_extractor").mkdir()
    shutil.copy(FIXTURE / "depth" / "preprocessor_config.json", pipeline / "feature_extractor")
    expected = load_annotator("depth", str(FIXTURE / "depth"))(PIXELS, 0)
    for path in (pipeline, pipeline / "depth_estimator"):
        assert np.array_equal(load_annotator("depth", str(path))(PIXELS, 7), expected)


def test_the_networks_own_normalisation_is_used(tmp_path: Path) -> None:
    shutil.copytree(FIXTURE / "depth", tmp_path / "depth")
    file = tmp_path / "depth" / "preprocessor_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "image_mean": [0.1, 0.2, 0.3]}))
    changed = load_annotator("depth", str(tmp_path / "depth"))(PIXELS, 0)
    assert np.abs(changed - load_annotator("depth", str(FIXTURE / "depth"))(PIXELS, 0)).max() > 0.01


def _without(folder: Path, key: str) -> None:
    file = folder / "model.safetensors"
    weights = load_file(file)
    weights.pop(key)
    save_file(weights, file, {"format": "pt"})


def test_networks_that_cannot_be_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    shutil.copytree(FIXTURE / "depth", tmp_path / "depth")
    _without(tmp_path / "depth", "neck.convs.1.weight")
    with pytest.raises(ValueError, match=r"--annotator_model: .*depth lacks 1 weights, e\.g\. neck\.convs\.1\.weight"):
        load_annotator("depth", str(tmp_path / "depth"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"--annotator_model: .*empty is empty; a DPTForSemanticSegmentation folder"):
        load_annotator("seg", str(tmp_path / "empty"))
    with pytest.raises(ValueError, match=r"--annotator_model: .*has 0 .safetensors files; name the file"):
        load_annotator("hed", str(tmp_path / "empty"))
    (tmp_path / "ControlNetHED.pth").write_bytes(b"pickle")
    with pytest.raises(ValueError, match=r"--annotator_model: .*pickle can run anything.*save_file"):
        load_annotator("hed", str(tmp_path / "ControlNetHED.pth"))
    (tmp_path / "half.safetensors").write_bytes((FIXTURE / "hed" / hed.FILE).read_bytes()[:999])
    with pytest.raises(ValueError, match=r"--annotator_model: .*half.safetensors: not a whole safetensors file"):
        load_annotator("hed", str(tmp_path / "half.safetensors"))
    with pytest.raises(ValueError, match=r"is no HED network of ControlNet 1\.1: it lacks block1"):
        load_annotator("hed", str(FIXTURE / "expected.safetensors"))
    with pytest.raises(
        ValueError, match="--annotator_model: there is no file no/such, and on the hub no ControlNetHED"
    ):
        load_annotator("hed", "no/such")
