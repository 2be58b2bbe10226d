"""tools/inspect_lora.py: what is said of a file, and of what is wrong with it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ppsd.adapters.places import Place
from ppsd.formats.safetensors_file import SafetensorsFile, Spec, write_safetensors
from ppsd.interop.lora import LoraFile, write_lora
from ppsd.interop.lora.blocks import block_of, layers_per_block_of
from ppsd.interop.lora.hashes import LEGACY, MODEL, SPEC
from ppsd.interop.lora.inspection_chart import COLORS
from ppsd.interop.lora.inspection_text import top_tags
from ppsd.interop.lora.model_weights import open_parts
from tests.lora_files.deltas import delta_of, random_factors
from tests.lora_files.layer_names import SD1
from tests.lora_files.pipelines import PLACES, random_layers, save
from tests.tiny import tiny_pipeline_dir
from tools.inspect_lora import main

CONV = PLACES[3]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_pipeline_dir(tmp_path_factory.mktemp("base"))


def inspected(capsys: pytest.CaptureFixture[str], *flags: object, code: int = 0) -> list[dict[str, Any]]:
    assert main([*map(str, flags), "--json"]) == code
    found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    return found


@pytest.mark.parametrize("kind", ["lora", "tucker", "loha", "lokr"])
@pytest.mark.parametrize("with_base", [False, True])
def test_norms_are_those_of_the_change(
    base: Path, kind: str, with_base: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layers, parts = random_layers(base, kind), open_parts(base)
    file = save(tmp_path / "a.safetensors", layers)
    (found,) = inspected(capsys, file, *(["--base", base] if with_base else []))
    squares: dict[str, float] = {}
    for layer in found["layers"]:
        place = Place(*layer["place"].values())
        weight = parts[place.part].value(f"{place.path}.weight")
        norm = np.linalg.norm(delta_of(layers[place], weight.shape))
        assert layer["norm"] == pytest.approx(norm, rel=1e-6)
        assert layer["parameters"] == sum(v.size for name, v in layers[place].items() if name != "alpha")
        assert layer["base_norm"] == (pytest.approx(np.linalg.norm(weight)) if with_base else None)
        name = block_of(place, 1).name
        squares[name] = squares.get(name, 0) + norm**2
    assert {block["block"]: block["norm"] for block in found["blocks"]} == pytest.approx(
        {name: np.sqrt(square) for name, square in squares.items()}, rel=1e-6
    )
    algorithm = {layer["algorithm"] for layer in found["layers"] if layer["place"]["path"] == CONV.path}
    assert algorithm == {{"lora": "LoCon", "tucker": "LoCon Tucker", "loha": "LoHa", "lokr": "LoKr"}[kind]}
    assert (found["problems"], found["warnings"]) == ([], [])


def test_a_dora_needs_the_base(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = PLACES[0]
    weight = open_parts(base)["unet"].value(f"{place.path}.weight")
    factors = {**random_layers(base, places=[place])[place], "dora_scale": np.ones([8, 1], np.float32)}
    file = save(tmp_path / "a.safetensors", {place: factors})
    assert "1 DoRA layers are without dora_scale" in inspected(capsys, file)[0]["warnings"][0]
    (found,) = inspected(capsys, file, "--base", base)
    sums = weight + delta_of({k: v for k, v in factors.items() if k != "dora_scale"}, weight.shape)
    change = sums / np.linalg.norm(sums, axis=1, keepdims=True) - weight
    assert found["layers"][0]["norm"] == pytest.approx(np.linalg.norm(change), rel=1e-5)
    assert found["layers"][0]["algorithm"] == "LoRA DoRA"


def test_blocks_have_kohyas_names() -> None:
    expected = {
        "conv_in": ("conv_in", "IN00"),
        "down_blocks.0.resnets.0.conv1": ("down_blocks.0.0", "IN01"),
        "down_blocks.0.attentions.1.proj_in": ("down_blocks.0.1", "IN02"),
        "down_blocks.0.downsamplers.0.conv": ("down_blocks.0.downsamplers", "IN03"),
        "down_blocks.3.resnets.1.conv2": ("down_blocks.3.1", "IN11"),
        "mid_block.attentions.0.proj_in": ("mid_block", "MID"),
        "up_blocks.0.resnets.0.conv1": ("up_blocks.0.0", "OUT00"),
        "up_blocks.0.upsamplers.0.conv": ("up_blocks.0.2", "OUT02"),
        "up_blocks.3.attentions.2.proj_out": ("up_blocks.3.2", "OUT11"),
        "conv_out": ("conv_out", "OUT"),
    }
    for path, (name, label) in expected.items():
        assert block_of(Place("unet", path), 2)[1:] == (name, label)
    assert block_of(Place("text_encoder", "text_model.encoder.layers.11.mlp.fc1"))[1:] == ("text_encoder.layers.11", "")
    places = [Place("unet", path) for path in SD1 if not path.startswith("text")]
    assert layers_per_block_of(places) == 2
    assert layers_per_block_of([Place("unet", "up_blocks.0.resnets.1.conv1")]) == 1
    order = [block.name for block in sorted({block_of(place, 2) for place in places})]
    along = ("conv_in", "down_blocks.0.0", "down_blocks.3.1", "mid_block", "up_blocks.0.0", "conv_out")
    assert [name for name in order if name in along] == list(along)
    assert len({block_of(place, 2).label for place in places} - {""}) == 12 + 1 + 12 + 1


def test_metadata_and_tags_are_shown(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tags = {"10_cat": {"cat": 12, "red ": 3}, "2_dog": {"dog": 4, "red": 2}}
    metadata = {
        "ss_tag_frequency": json.dumps(tags),
        "ss_sd_model_name": "v1-5.safetensors",
        "ss_steps": "800",
        "ss_unet_lr": "None",
        "note": "mine",
    }
    file = tmp_path / "a.safetensors"
    write_lora(file, LoraFile(random_layers(base, rank=4, alpha=2.0), metadata), hashes=True)
    assert main([str(file)]) == 0
    out = capsys.readouterr().out
    assert re.search(r"base model: +v1-5.safetensors\n", out)
    assert re.search(r"commonest tags: +cat \(12\), red \(5\), dog \(4\)\n", out)
    assert re.search(r"rank: +4 \(7\)\nalpha: +2 \(7\)\n", out)
    assert re.search(r"algorithm: +LoRA \(6\), LoCon \(1\)\n", out)
    assert re.search(r"other entries: .*\bnote\b", out)
    assert "None" not in out
    assert all(re.search(rf"{re.escape(name)}: +right\n", out) for name in (MODEL, LEGACY, SPEC))
    source = SafetensorsFile(file)
    values = {name: source.read(name) for name in source.specs}
    first = next(name for name in values if values[name].ndim)
    values[first] = values[first] * 2
    write_safetensors(file, source.specs, values.__getitem__, source.metadata)
    (found,) = inspected(capsys, file)
    assert (found["hashes"][MODEL], found["hashes"][SPEC]) == (False, False)


@pytest.mark.parametrize("text", ["", "no JSON", "[1]", '{"a": 3}', '{"a": {"b": null}}'])
def test_odd_tag_frequencies_are_none(text: str) -> None:
    assert top_tags(text) == []


def test_what_is_wrong_is_named_and_the_rest_is_shown(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layers = random_layers(base)
    layers[PLACES[0]]["lora_up.weight"][0, 0] = np.nan
    layers[PLACES[1]]["lora_up.weight"][:] = 0
    file = save(tmp_path / "a.safetensors", layers)
    source = SafetensorsFile(file)
    values = {name: source.read(name) for name in source.specs}
    values["lora_unet_conv_in.oft_blocks"] = np.ones(3, np.float32)
    del values["lora_te_text_model_encoder_layers_0_mlp_fc1.lora_up.weight"]
    specs = {name: Spec("F32", value.shape) for name, value in values.items()}
    write_safetensors(file, specs, values.__getitem__)
    (found,) = inspected(capsys, file, code=1)
    assert [len(found["layers"]), len(found["problems"])] == [5, 3]
    unknown, infinite, partial = found["problems"]
    assert "1 keys are no factors" in unknown
    assert "lora_unet_conv_in.oft_blocks" in unknown
    both = infinite + partial
    assert f"unet.{PLACES[0].path} lora_up.weight" in both
    assert "text_encoder.text_model.encoder.layers.0.mlp.fc1" in both
    assert "without lora_up.weight" in both
    assert found["warnings"] == [f"1 layers change nothing, all zeros: unet.{PLACES[1].path}"]


def test_a_file_for_another_model_is_told_with_names(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    far = Place("unet", "up_blocks.3.resnets.1.conv1")
    layers = {PLACES[0]: random_factors("lora", [320, 320]), far: random_factors("lora", [8, 8, 3, 3])}
    (found,) = inspected(capsys, save(tmp_path / "a.safetensors", layers), "--base", base, code=1)
    assert found["problems"] == [
        f"1 layers are not in {base}: unet.up_blocks.3.resnets.1.conv1",
        f"unet.{PLACES[0].path} does not fit {base}:"
        " factors are for a weight of [320, 320], and this layer's is [8, 8]",
    ]
    assert len(found["layers"]) == 2


def test_files_that_cannot_be_read_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = save(tmp_path / "a.safetensors", {PLACES[0]: random_factors("lora", [8, 8])}).read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[:-1])
    (tmp_path / "a.pt").write_bytes(b"PK\x03\x04")
    for name, message in (("cut.safetensors", "not a whole"), ("a.pt", "is a pickle"), (".", "name the file")):
        assert main([str(tmp_path / name)]) == 1
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1


def test_bars_are_as_long_as_norms(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [save(tmp_path / f"{n}.safetensors", random_layers(base, size=0.05 * (n + 1))) for n in range(2)]
    chart = tmp_path / "charts" / "chart.png"
    found = inspected(capsys, *files, "--png", chart)
    picture = np.asarray(Image.open(chart).convert("RGB")).astype(int)
    norms = [block["norm"] for one in found for block in one["blocks"]]
    assert [block["block"].split(".")[0] for block in found[0]["blocks"]] == ["text_encoder"] * 2 + ["down_blocks"] * 2
    lengths = []
    colors = [tuple(bytes.fromhex(COLORS[name][1:])) for name in ("text", "down")]
    for y in range(4, len(picture), 1):
        row = max(int((picture[y] == color).all(-1).sum()) for color in colors)
        if row > 12 and (not lengths or y - lengths[-1][0] > 14):  # the legend's squares are smaller
            lengths.append((y, row))
    assert len(lengths) == len(norms)
    longest = max(length for _, length in lengths)
    np.testing.assert_allclose([length for _, length in lengths], np.array(norms) / max(norms) * longest, atol=2)


def test_a_chart_is_a_png(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["a.safetensors", "--png", "a.jpg"])
    assert "must end in .png" in capsys.readouterr().err
