"""tools/merge_lora.py: what the weights become, that they come back bit for bit, and one file of several."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ppsd import compat  # isort: skip  before paddle

import numpy as np
import paddle
import pytest

from ppsd.adapters.places import Place
from ppsd.formats.safetensors_file import SafetensorsFile, Spec, write_safetensors
from ppsd.interop.diffusers import write_diffusers
from ppsd.interop.lora import read_lora
from ppsd.interop.lora.attaching import LoraSwitch, models_of
from ppsd.interop.lora.exact import as_float64, as_stored
from ppsd.interop.lora.merge_record import RECORD
from ppsd.interop.lora.model_weights import open_parts
from ppsd.sampling.pipeline import load_pipeline
from tests.lora_files.deltas import delta_of, random_factors
from tests.lora_files.pipelines import PLACES, random_layers, same_bits, save, tensors
from tests.tiny import tiny_pipeline_dir
from tools.merge_lora import main

compat.apply()


@pytest.fixture(scope="module")
def paddle_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_pipeline_dir(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def folders(paddle_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same pipeline in both layouts, and in half precision."""
    torch = tmp_path_factory.mktemp("torch") / "pipeline"
    write_diffusers(paddle_folder, torch)
    halves = {name: in_precision(paddle_folder, torch.parent / name, name) for name in ("F16", "BF16")}
    return {"paddle": paddle_folder, "torch": torch, **halves}


def in_precision(folder: Path, target: Path, dtype: str) -> Path:
    shutil.copytree(folder, target)
    for file in target.glob("*/*.safetensors"):
        source = SafetensorsFile(file)
        values = {
            name: as_stored(as_float64(source.read(name), spec.dtype), dtype) for name, spec in source.specs.items()
        }
        specs = {name: Spec(dtype, value.shape) for name, value in values.items()}
        write_safetensors(file, specs, values.__getitem__, source.metadata)
    return target


def merge(folder: Path, output: Path, *loras: object, flags: Sequence[str] = ()) -> int:
    return main(["--pipeline", str(folder), "--output", str(output), "--lora", *map(str, loras), *flags])


@pytest.mark.parametrize("kind", ["lora", "tucker", "loha", "lokr"])
@pytest.mark.parametrize("layout", ["paddle", "torch"])
def test_weights_become_what_the_formulas_say(folders: dict[str, Path], layout: str, kind: str, tmp_path: Path) -> None:
    folder = folders[layout]
    one, two = random_layers(folder, kind), random_layers(folder, "lora", PLACES[:2], seed=1)
    files = save(tmp_path / "one.safetensors", one), save(tmp_path / "two.safetensors", two)
    flags = ["--text_encoder_weight", "0.25", "3"]
    assert merge(folder, tmp_path / "merged", f"{files[0]}:0.5", f"{files[1]}:-2", flags=flags) == 0
    before, after = open_parts(folder), open_parts(tmp_path / "merged")
    changed = set()
    for part, component in before.items():
        for name in component.names():
            place, old, new = Place(part, name[: -len(".weight")]), component.value(name), after[part].value(name)
            expected = old.copy()
            if place in one:
                expected += delta_of(one[place], old.shape) * (0.5 if part == "unet" else 0.25)
            if place in two:
                expected += delta_of(two[place], old.shape) * (-2 if part == "unet" else 3)
            assert np.abs(new - expected).max() <= 1e-6 * max(1, np.abs(expected).max()), place
            if not np.array_equal(old, new):
                changed.add(place)
    assert changed == set(PLACES)
    for file in folder.rglob("*.json"):
        assert (tmp_path / "merged" / file.relative_to(folder)).read_bytes() == file.read_bytes()


@pytest.mark.parametrize("layout", ["paddle", "torch", "F16", "BF16"])
@pytest.mark.parametrize("size", [0.01, 30.0], ids=["small", "large"])
def test_unmerging_restores_every_bit(folders: dict[str, Path], layout: str, size: float, tmp_path: Path) -> None:
    folder = folders[layout]
    files = [
        save(tmp_path / f"{kind}.safetensors", random_layers(folder, kind, size=size, seed=seed))
        for seed, kind in enumerate(("lora", "loha"))
    ]
    assert merge(folder, tmp_path / "merged", f"{files[0]}:0.7", f"{files[1]}:1.3") == 0
    assert not same_bits(tensors(folder), tensors(tmp_path / "merged"))
    assert merge(tmp_path / "merged", tmp_path / "back", *reversed(files), flags=["--unmerge"]) == 0
    assert same_bits(tensors(folder), tensors(tmp_path / "back"))
    names = [sorted(str(file.relative_to(f)) for file in f.rglob("*")) for f in (folder, tmp_path / "back")]
    assert names[0] == names[1]


def test_weights_in_several_files_and_variants_are_merged_alike(folders: dict[str, Path], tmp_path: Path) -> None:
    """Two shards of the UNet, and averaged weights of the text encoder beside its own."""
    folder = shutil.copytree(folders["torch"], tmp_path / "base")
    whole = SafetensorsFile(folder / "unet/diffusion_pytorch_model.safetensors")
    names = list(whole.specs)
    for number, own in enumerate((names[:100], names[100:])):
        file = folder / f"unet/diffusion_pytorch_model-0000{number + 1}-of-00002.safetensors"
        write_safetensors(file, {name: whole.specs[name] for name in own}, whole.read, whole.metadata)
    whole.path.unlink()
    text = folder / "text_encoder/model.safetensors"
    shutil.copyfile(text, text.with_name("model.ema.safetensors"))
    layers = random_layers(folder)
    file = save(tmp_path / "a.safetensors", layers)
    assert merge(folder, tmp_path / "merged", file) == 0
    before, after = tensors(folder), tensors(tmp_path / "merged")
    changed = {name for name, value in after.items() if name in before and not np.array_equal(value, before[name])}
    of_text = [place for place in PLACES if place.part == "text_encoder"]
    assert len(changed) == len(PLACES) + len(of_text)
    assert {name.split(":")[0] for name in changed} == {
        "unet/diffusion_pytorch_model-00001-of-00002.safetensors",
        "text_encoder/model.safetensors",
        "text_encoder/model.ema.safetensors",
    }
    assert merge(tmp_path / "merged", tmp_path / "back", file, flags=["--unmerge"]) == 0
    assert same_bits(before, tensors(tmp_path / "back"))


def test_pipelines_of_pickles_are_refused(
    folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = save(tmp_path / "a.safetensors", random_layers(folders["paddle"]))
    folder = shutil.copytree(folders["paddle"], tmp_path / "base")
    (folder / "text_encoder/model.safetensors").rename(folder / "text_encoder/model_state.pdparams")
    refused(
        capsys, merge(folder, tmp_path / "x", file), "has no weights as .safetensors (but config.json, model_state.p"
    )


def test_what_a_run_left_beside_the_pipeline_is_not_copied(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(folders["paddle"], tmp_path / "run")
    (folder / "checkpoint-3").mkdir()
    (folder / "checkpoint-3" / "optimizer.pdopt").write_bytes(b"large")
    (folder / "ppsd.json").write_text("{}")
    file = save(tmp_path / "a.safetensors", random_layers(folder, places=PLACES[:1]))
    assert merge(folder, tmp_path / "merged", file) == 0
    names = {path.name for path in (tmp_path / "merged").iterdir()}
    assert names == {path.name for path in folder.iterdir()} - {"checkpoint-3"} | {RECORD}


def test_linked_folders_are_copied(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(folders["paddle"], tmp_path / "base")
    (folder / "vae").rename(tmp_path / "vae")
    (folder / "vae").symlink_to(tmp_path / "vae")
    file = save(tmp_path / "a.safetensors", random_layers(folder, places=PLACES[:1]))
    assert merge(folder, tmp_path / "merged", file) == 0
    assert not (tmp_path / "merged/vae").is_symlink()
    for name in (path.name for path in (tmp_path / "vae").iterdir()):
        assert (tmp_path / "merged/vae" / name).read_bytes() == (tmp_path / "vae" / name).read_bytes()


def test_copies_of_the_old_weights_are_left_out(
    folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Or torch's pickle beside the merged weights is what someone loads."""
    folder = shutil.copytree(folders["torch"], tmp_path / "base")
    old = folder / "unet/diffusion_pytorch_model.bin", folder / "vae/diffusion_pytorch_model.bin"
    for file in old:
        file.write_bytes(b"PK")
    file = save(tmp_path / "a.safetensors", random_layers(folder, places=PLACES[:1]))
    assert merge(folder, tmp_path / "merged", file) == 0
    assert f"before the merge: {old[0]}\n" in capsys.readouterr().out
    assert not (tmp_path / "merged/unet" / old[0].name).exists()
    assert (tmp_path / "merged/vae" / old[1].name).exists()


def test_two_files_of_the_same_weights_are_refused(
    folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One is in Paddle's layout, one in torch's, and which one is read is not known here."""
    folder = shutil.copytree(folders["paddle"], tmp_path / "base")
    name = "unet/diffusion_pytorch_model.safetensors"
    shutil.copyfile(folders["torch"] / name, folder / name)
    file = save(tmp_path / "a.safetensors", random_layers(folders["paddle"], places=PLACES[:1]))
    refused(
        capsys,
        merge(folder, tmp_path / "x", file),
        "unet: diffusion_paddle_model.safetensors and diffusion_pytorch_model.safetensors both have",
    )


def test_nothing_to_merge_is_told(folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = save(tmp_path / "a.safetensors", random_layers(folders["paddle"]))
    refused(capsys, merge(folders["paddle"], tmp_path / "x", f"{file}:0"), "with these weights nothing changes")
    held = file.read_bytes()
    assert main(["--lora", str(file), "--output", str(file)]) == 1
    assert f"{file} is {file}, which is read; name another file" in capsys.readouterr().err
    assert file.read_bytes() == held


def test_a_dora_goes_by_the_base_and_comes_out_again(folders: dict[str, Path], tmp_path: Path) -> None:
    folder, place = folders["paddle"], PLACES[1]
    weight = open_parts(folder)["unet"].value(f"{place.path}.weight")
    lengths = np.linspace(0.5, 2, len(weight), dtype=np.float32).reshape(-1, 1)
    factors = {**random_layers(folder, places=[place])[place], "dora_scale": lengths}
    file = save(tmp_path / "dora.safetensors", {place: factors})
    assert merge(folder, tmp_path / "merged", file) == 0
    sums = weight + delta_of({k: v for k, v in factors.items() if k != "dora_scale"}, weight.shape)
    expected = sums / np.sqrt((sums**2).sum(1, keepdims=True)) * lengths
    found = open_parts(tmp_path / "merged")["unet"].value(f"{place.path}.weight")
    assert np.abs(found - expected).max() < 1e-6
    assert merge(tmp_path / "merged", tmp_path / "back", file, flags=["--unmerge"]) == 0
    assert same_bits(tensors(folder), tensors(tmp_path / "back"))


@pytest.mark.parametrize("kind", ["lora", "loha", "lokr"])
def test_the_merged_models_compute_what_adapters_beside_them_do(
    folders: dict[str, Path], kind: str, tmp_path: Path
) -> None:
    folder = folders["paddle"]
    file = save(tmp_path / "a.safetensors", random_layers(folder, kind, size=0.2))
    assert merge(folder, tmp_path / "merged", f"{file}:0.8") == 0
    plain, merged = load_pipeline(str(folder)), load_pipeline(str(tmp_path / "merged"))
    before = outputs(plain)
    LoraSwitch(models_of(plain)).use([(str(file), 0.8)])
    for old, beside, within in zip(before, outputs(plain), outputs(merged)):
        assert np.abs(beside - old).max() > 1e-3
        assert np.abs(beside - within).max() <= 1e-5


def outputs(pipe: Any) -> tuple[np.ndarray, np.ndarray]:
    """Of the UNet and of the text encoder."""
    pipe.unet.eval()
    pipe.text_encoder.eval()
    random = np.random.default_rng(0)
    x, hidden = random.standard_normal((2, 4, 8, 8)), random.standard_normal((2, 77, 16))
    with paddle.no_grad():
        unet = pipe.unet(
            paddle.to_tensor(x, "float32"), paddle.to_tensor([3, 700]), paddle.to_tensor(hidden, "float32")
        ).sample.numpy()
        text = pipe.text_encoder(paddle.to_tensor(random.integers(0, 500, (2, 77))))[0].numpy()
    return unet, text


def test_precision_is_of_the_networks_and_cannot_be_undone(
    folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = save(tmp_path / "a.safetensors", random_layers(folders["paddle"]))
    assert merge(folders["paddle"], tmp_path / "merged", file, flags=["--precision", "float16"]) == 0
    assert "cannot be undone: --precision float16 rounds the base itself" in capsys.readouterr().out
    kinds = {name: value.dtype.name for name, value in tensors(tmp_path / "merged").items()}
    assert {dtype for name, dtype in kinds.items() if not name.startswith("vae")} == {"float16"}
    assert {dtype for name, dtype in kinds.items() if name.startswith("vae")} == {"float32"}
    assert not (tmp_path / "merged" / RECORD).exists()
    refused(capsys, merge(tmp_path / "merged", tmp_path / "x", file, flags=["--unmerge"]), f"has no {RECORD}")


def test_a_second_merge_on_top_is_refused(
    folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = save(tmp_path / "a.safetensors", random_layers(folders["paddle"]))
    assert merge(folders["paddle"], tmp_path / "merged", f"{file}:0.5") == 0
    refused(capsys, merge(tmp_path / "merged", tmp_path / "x", file), "a.safetensors:0.5 has been merged into it")
    refused(capsys, merge(folders["paddle"], tmp_path / "merged", file), "is not empty; name a new folder")


def test_what_is_taken_out_must_be_what_was_merged(
    folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = folders["paddle"]
    file = save(tmp_path / "a.safetensors", random_layers(folder))
    other = save(tmp_path / "b.safetensors", random_layers(folder, seed=7))
    assert merge(folder, tmp_path / "merged", file) == 0
    refused(capsys, merge(tmp_path / "merged", tmp_path / "x", other, flags=["--unmerge"]), "needs a.safetensors")
    refused(
        capsys, merge(tmp_path / "merged", tmp_path / "x", file, other, flags=["--unmerge"]), "b.safetensors is none of"
    )
    refused(capsys, merge(tmp_path / "merged", tmp_path / "x", f"{file}:2", flags=["--unmerge"]), "without")
    name = f"{PLACES[0].path}.weight"
    weights = tmp_path / "merged/unet/diffusion_paddle_model.safetensors"
    source = SafetensorsFile(weights)
    values = {key: source.read(key) for key in source.specs}
    values[name] = values[name] + np.float32(0.01)
    write_safetensors(weights, source.specs, values.__getitem__, source.metadata)
    refused(
        capsys,
        merge(tmp_path / "merged", tmp_path / "x", file, flags=["--unmerge"]),
        f"{name} has been changed since the merge",
    )
    assert not (tmp_path / "x").exists()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def refused(capsys: pytest.CaptureFixture[str], code: int, message: str) -> None:
    error = capsys.readouterr().err
    assert (code, error.count("\n")) == (1, 1), error
    assert message in error


def test_a_lora_of_another_model_is_refused_with_names_and_shapes(
    folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = folders["paddle"]
    far = Place("unet", "down_blocks.3.resnets.1.conv1")
    file = save(tmp_path / "far.safetensors", {**random_layers(folder), far: random_factors("lora", [8, 8, 3, 3])})
    refused(capsys, merge(folder, tmp_path / "x", file), f"1 of its 8 layers are not in {folder}")
    refused(capsys, merge(folder, tmp_path / "x", file), "another base model: unet.down_blocks.3.resnets.1.conv1")
    wide = save(tmp_path / "wide.safetensors", {PLACES[0]: random_factors("lora", [320, 320])})
    refused(
        capsys,
        merge(folder, tmp_path / "x", wide),
        "factors are for a weight of [320, 320], and this layer's is [8, 8]",
    )
    assert not (tmp_path / "x").exists()


def test_damaged_files_are_refused(
    folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, layers = folders["paddle"], random_layers(folders["paddle"])
    whole = save(tmp_path / "whole.safetensors", layers).read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[:-10])
    refused(capsys, merge(folder, tmp_path / "x", tmp_path / "cut.safetensors"), "not a whole safetensors file")
    (tmp_path / "a.pt").write_bytes(b"PK\x03\x04")
    refused(capsys, merge(folder, tmp_path / "x", tmp_path / "a.pt"), "is a pickle")
    refused(capsys, merge(folder, tmp_path / "x", tmp_path), "name the file")
    refused(capsys, merge(tmp_path, tmp_path.with_name("x"), tmp_path / "whole.safetensors"), "it has no unet/")
    layers[PLACES[0]]["lora_up.weight"][0, 0] = np.nan
    bad = save(tmp_path / "nan.safetensors", layers)
    refused(capsys, merge(folder, tmp_path / "x", bad), f"unet.{PLACES[0].path} lora_up.weight")
    refused(capsys, merge(folder, tmp_path / "x", f"{bad}:nan"), "the weight must be a number")


@pytest.mark.parametrize("kinds", [("lora", "tucker"), ("loha", "lokr")])
def test_one_file_of_several_adds_what_they_add(
    folders: dict[str, Path], kinds: tuple[str, str], tmp_path: Path
) -> None:
    folder = folders["paddle"]
    one, two = (
        random_layers(folder, kinds[0], rank=2),
        random_layers(folder, kinds[1], PLACES[1:], seed=1, rank=3, alpha=None),
    )
    files = save(tmp_path / "a.safetensors", one), save(tmp_path / "b.safetensors", two)
    out = tmp_path / "both.safetensors"
    assert merge(folder, out, f"{files[0]}:-0.5", f"{files[1]}:2") == 0
    both, parts = read_lora(out), open_parts(folder)
    assert set(both.layers) == set(PLACES)
    for place, factors in both.layers.items():
        shape = parts[place.part].weight_shape(place.path)
        expected = -0.5 * delta_of(one[place], shape)
        if place in two:
            expected += 2 * delta_of(two[place], shape)
        assert np.abs(delta_of(factors, shape) - expected).max() <= 1e-6 * np.abs(expected).max()
    if kinds[0] == "lora":
        assert both.layers[PLACES[1]]["lora_down.weight"].shape[0] == 5
        assert merge(folder, tmp_path / "r.safetensors", *files, flags=["--rank", "5"]) == 0
        again = read_lora(tmp_path / "r.safetensors").layers[PLACES[1]]
        shape = parts["unet"].weight_shape(PLACES[1].path)
        expected = delta_of(one[PLACES[1]], shape) + delta_of(two[PLACES[1]], shape)
        assert np.abs(delta_of(again, shape) - expected).max() <= 1e-6 * np.abs(expected).max()


def test_two_models_loras_are_not_made_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [save(tmp_path / f"{n}.safetensors", {PLACES[0]: random_factors("lora", [n, n])}) for n in (8, 12)]
    code = main(["--lora", *map(str, files), "--output", str(tmp_path / "o.safetensors")])
    refused(capsys, code, "different base models: weights of [8, 8] and [12, 12]")
    dora = {**random_factors("lora", [8, 8]), "dora_scale": np.ones([8, 1], np.float32)}
    file = save(tmp_path / "d.safetensors", {PLACES[0]: dora})
    code = main(["--lora", str(file), "--output", str(tmp_path / "o.safetensors")])
    refused(capsys, code, "is a DoRA, whose change depends on the base")


def test_flags_that_do_not_go_together_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    for flags, message in (
        (["--lora", "a", "--output", "x"], "--pipeline names the folder"),
        (["--lora", "a", "--output", "x", "--pipeline", "p", "--rank", "3"], "--rank is for one LoRA file"),
        (
            ["--lora", "a", "--output", "x", "--pipeline", "p", "--unmerge", "--precision", "float16"],
            "--unmerge writes",
        ),
        (["--lora", "a", "b", "c", "--output", "x", "--pipeline", "p", "--text_encoder_weight", "1", "2"], "2 for 3"),
    ):
        with pytest.raises(SystemExit, match="2"):
            main(flags)
        assert message in capsys.readouterr().err
