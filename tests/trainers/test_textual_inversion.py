"""Textual inversion: nothing but the new rows changes, in any layout, cut anywhere; and the files hold those rows."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ppsd import compat
from ppsd.interop.added_embeddings import add_files
from ppsd.interop.embeddings import load_embeddings
from ppsd.models.bundle import load_bundle
from ppsd.models.saving import read_weights
from ppsd.sampling.pipeline import generate, load_pipeline
from ppsd.trainers.parsing import parse_run
from ppsd.trainers.running import train
from ppsd.trainers.textual_inversion import TextualInversionTrainer
from tests.images import jpeg_bytes, part_line, write_lines, write_lists
from tests.trainers.conftest import Run, assert_same_weights, losses, weights
from tests.trainers.image_folders import write_folder

TABLE = "text_model.embeddings.token_embedding.weight"
TOKENS = {"placeholder_token": "<toy>", "num_vectors": 2, "initializer_token": "circle"}


def invert(tiny_run: Run, output: Path, **changes: Any) -> TextualInversionTrainer:
    values = {"unet_name_or_path": None, **TOKENS, "learning_rate": 1e-2, "weight_decay": 0.0, **changes}
    flags = tiny_run.flags(output, **values)
    trainer = train(
        TextualInversionTrainer,
        parse_run(TextualInversionTrainer.own_arguments, flags, TextualInversionTrainer.defaults),
    )
    assert isinstance(trainer, TextualInversionTrainer)
    return trainer


@pytest.fixture(scope="module")
def named_run(tiny_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Captions that have the token."""
    folder = tmp_path_factory.mktemp("named")
    lines = [part_line(f"a <toy> on {i % 3}", jpeg_bytes(80, 80, i)) for i in range(40)]
    file_list = write_lists(folder, {"named": [write_lines(folder / "part", lines)]})
    return replace(tiny_run, file_list=file_list)


def rows(folder: Path) -> np.ndarray:
    (token, values), *others = load_embeddings(folder / "learned_embeds.safetensors")
    assert token == "<toy>"
    assert not others
    return values


def test_only_the_new_rows_change(tiny_run: Run, tmp_path: Path) -> None:
    trainer = invert(tiny_run, tmp_path, save_as_full_pipeline=True)
    for part in ("unet", "vae"):
        assert_same_weights(weights(tiny_run.pipeline, part), weights(tmp_path, part))
    before, after = weights(tiny_run.pipeline, "text_encoder"), weights(tmp_path, "text_encoder")
    table, old = after.pop(TABLE), before.pop(TABLE)
    assert_same_weights(before, after)
    np.testing.assert_array_equal(table[: len(old)], old)
    np.testing.assert_array_equal(table[len(old) :], rows(tmp_path))
    circle = load_bundle(str(tiny_run.pipeline)).tokenizer("circle")["input_ids"][1]
    moved = np.abs(rows(tmp_path) - old[circle])
    assert rows(tmp_path).shape == (2, 16)
    assert np.median(moved) > 1e-3
    assert not np.array_equal(*rows(tmp_path))
    trained = {name for name, p in trainer.step.named_parameters() if not p.stop_gradient}
    assert trained == {"embeddings.<toy>"}


def test_a_killed_run_goes_on_as_if_never_killed(tiny_run: Run, tmp_path: Path) -> None:
    for options in ({}, {"use_ema": True, "dataloader_num_workers": 1}):
        folder = tmp_path / str(len(options))
        whole = invert(tiny_run, folder, **options)
        expected = rows(folder)
        shutil.rmtree(folder / "checkpoint-6")
        again = invert(tiny_run, folder, **options)
        assert losses(again) == losses(whole)
        np.testing.assert_array_equal(rows(folder), expected)
        np.testing.assert_array_equal(again.bundle.embeddings().numpy(), whole.bundle.embeddings().numpy())
    average = read_weights(folder / "checkpoint-6" / "embeddings" / "weights.ema.safetensors")["<toy>"]
    np.testing.assert_array_equal(rows(folder), average)
    assert not np.array_equal(average, whole.bundle.embeddings().numpy())


def test_a_checkpoint_holds_nothing_but_the_rows(tiny_run: Run, tmp_path: Path) -> None:
    trainer = invert(tiny_run, tmp_path, max_steps=1)
    checkpoint = tmp_path / "checkpoint-1"
    assert [path.name for path in checkpoint.iterdir() if path.is_dir()] == ["embeddings"]
    (token, values), *_ = load_embeddings(checkpoint / "embeddings" / "weights.safetensors")
    assert token == "<toy>"
    np.testing.assert_array_equal(values, rows(tmp_path))
    state = read_weights(checkpoint / "optimizer.safetensors")
    assert {key.rsplit(".", 1)[0] for key in state} == {"embeddings.<toy>"}
    assert not (tmp_path / "model_index.json").exists()
    a1111 = load_embeddings(tmp_path / "a1111" / "toy.safetensors")
    assert a1111[0][0] == "<toy>"
    np.testing.assert_array_equal(a1111[0][1], rows(tmp_path))
    assert trainer.args.learning_rate == 1e-2


def test_accumulation_is_the_same_step_as_one_large_batch(tiny_run: Run, tmp_path: Path) -> None:
    invert(tiny_run, tmp_path / "a")
    invert(tiny_run, tmp_path / "b", per_device_train_batch_size=2, gradient_accumulation_steps=2)
    np.testing.assert_allclose(rows(tmp_path / "a"), rows(tmp_path / "b"), atol=2e-5)


def test_recomputing_changes_nothing(tiny_run: Run, tmp_path: Path) -> None:
    """Of a frozen UNet, whose first blocks have no gradient to recompute for."""
    try:
        compat.require_recompute()
    except ValueError:
        pytest.skip("this paddle cannot recompute here")
    trainer = invert(tiny_run, tmp_path / "a", max_steps=3)
    again = invert(tiny_run, tmp_path / "b", max_steps=3, recompute=True)
    np.testing.assert_allclose(losses(again), losses(trainer), rtol=1e-6)
    np.testing.assert_allclose(rows(tmp_path / "b"), rows(tmp_path / "a"), atol=2e-5)


def test_files_over_the_base_draw_what_the_exported_pipeline_draws(tiny_run: Run, tmp_path: Path) -> None:
    invert(tiny_run, tmp_path, save_as_full_pipeline=True)
    whole, base = load_pipeline(str(tmp_path)), load_pipeline(str(tiny_run.pipeline))
    options: dict[str, Any] = {"guidance_scale": 2.0, "num_inference_steps": 2, "seed": 0}
    plain = generate(base, ["a <toy>"], **options)
    assert add_files(base, [tmp_path / "learned_embeds.safetensors"]) == ["<toy>"]
    pictures = [generate(pipe, ["a <toy>", "a red circle"], **options) for pipe in (whole, base)]
    np.testing.assert_array_equal(*pictures)
    assert not np.array_equal(pictures[0][0], plain[0])
    with pytest.raises(ValueError, match=r"learned_embeds\.safetensors: .*the tokenizer knows <toy> already"):
        add_files(whole, [tmp_path / "learned_embeds.safetensors"])


def test_pivotal_tuning_trains_the_unet_and_the_rows(named_run: Run, tmp_path: Path) -> None:
    tiny_run = named_run
    changes: dict[str, Any] = {**TOKENS, "unet_name_or_path": None, "embedding_learning_rate": 1e-2}
    trainer = tiny_run.train(tmp_path, **changes)
    first = weights(tmp_path / "checkpoint-3", "embeddings")["<toy>"]
    assert not np.array_equal(first, rows(tmp_path))
    assert list(trainer.step.trained) == ["unet", "embeddings"]
    old, new = weights(tiny_run.pipeline, "text_encoder"), weights(tmp_path, "text_encoder")
    np.testing.assert_array_equal(new[TABLE][: len(old[TABLE])], old.pop(TABLE))
    np.testing.assert_array_equal(new.pop(TABLE)[-2:], rows(tmp_path))
    assert_same_weights(old, new)
    unet = weights(tmp_path)["conv_out.weight"]
    assert not np.array_equal(unet, weights(tiny_run.pipeline)["conv_out.weight"])
    tokenizer = load_bundle(str(tmp_path)).tokenizer
    assert tokenizer.convert_tokens_to_ids(["<toy>", "<toy>_1"]) == [len(tokenizer) - 2, len(tokenizer) - 1]
    shutil.rmtree(tmp_path / "checkpoint-6")
    tiny_run.train(tmp_path, **changes)
    np.testing.assert_array_equal(weights(tmp_path)["conv_out.weight"], unet)
    with pytest.raises(ValueError, match=r"--placeholder_token: .* holds a trained embedding"):
        tiny_run.train(tmp_path, unet_name_or_path=None)


def test_the_text_encoder_and_the_rows_are_trained_side_by_side(named_run: Run, tmp_path: Path) -> None:
    changes = {**TOKENS, "unet_name_or_path": None, "train_text_encoder": True, "max_steps": 2}
    named_run.train(tmp_path, **changes)
    old, new = weights(named_run.pipeline, "text_encoder")[TABLE], weights(tmp_path, "text_encoder")[TABLE]
    saved = weights(tmp_path / "checkpoint-2", "text_encoder")[TABLE]
    np.testing.assert_array_equal(new, np.concatenate([saved, rows(tmp_path)]))
    assert saved.shape == old.shape
    assert not np.array_equal(saved, old)


@pytest.mark.parametrize(
    ("rates", "row_rate"),
    [
        ({"learning_rate": 1e-2, "unet_learning_rate": 1e-4}, 1e-2),
        ({"learning_rate": 1e-2, "unet_learning_rate": 0, "text_encoder_learning_rate": 0}, 1e-2),
        ({"learning_rate": 1e-3, "unet_learning_rate": 1e-4, "embedding_learning_rate": 2e-2}, 2e-2),
    ],
)
def test_each_part_beside_the_rows_has_its_own_rate(
    named_run: Run, tmp_path: Path, rates: dict[str, float], row_rate: float
) -> None:
    """Adam's first step moves every weight that has a gradient by its learning rate. Clipping changes nothing, either:
    what stays as it is does not count."""
    changes = {"max_steps": 1, "lr_scheduler_type": "constant", "weight_decay": 0.0, "adam_epsilon": 1e-20}
    before = named_run.train(tmp_path / "a", **TOKENS, unet_name_or_path=None, do_train=False)
    trainer = named_run.train(tmp_path / "b", **TOKENS, unet_name_or_path=None, **changes, **rates)
    moved = np.abs(trainer.bundle.embeddings().numpy() - before.bundle.embeddings().numpy())
    np.testing.assert_allclose(np.median(moved), row_rate, rtol=0.02)
    unet = np.abs(weights(tmp_path / "b")["conv_out.weight"] - weights(named_run.pipeline)["conv_out.weight"])
    np.testing.assert_allclose(np.median(unet), rates["unet_learning_rate"], rtol=0.02, atol=1e-9)


def test_an_export_of_embeddings_leaves_a_pipeline_beside_it_whole(tiny_run: Run, tmp_path: Path) -> None:
    invert(tiny_run, tmp_path, max_steps=1, save_as_full_pipeline=True)
    invert(tiny_run, tmp_path, max_steps=1)
    assert len(generate(load_pipeline(str(tmp_path)), ["<toy>"], guidance_scale=1, num_inference_steps=1, seed=0)) == 1


def test_rows_stay_after_their_share_of_the_steps(named_run: Run, tmp_path: Path) -> None:
    changes: dict[str, Any] = {**TOKENS, "unet_name_or_path": None, "train_text_encoder_ti_frac": 0.5, "save_steps": 2}
    named_run.train(tmp_path, **changes)
    at = {n: weights(tmp_path / f"checkpoint-{n}", "embeddings")["<toy>"] for n in (2, 4, 6)}
    unets = {n: weights(tmp_path / f"checkpoint-{n}")["conv_out.weight"] for n in (4, 6)}
    assert not np.array_equal(at[2], at[4])  # the third step is the last
    np.testing.assert_array_equal(at[4], at[6])
    assert not np.array_equal(unets[4], unets[6])
    shutil.rmtree(tmp_path / "checkpoint-6")
    named_run.train(tmp_path, **changes)
    np.testing.assert_array_equal(weights(tmp_path)["conv_out.weight"], unets[6])


def test_rows_decay_only_where_they_are_alone(tiny_run: Run, tmp_path: Path) -> None:
    """With gradients of zero, only what decays moves."""
    changes: dict[str, Any] = {**TOKENS, "do_train": False, "weight_decay": 0.5, "learning_rate": 1.0}
    alone = invert(tiny_run, tmp_path / "a", **changes)
    beside = tiny_run.train(tmp_path / "b", **changes)
    for trainer, decays in ((alone, True), (beside, False)):
        trainer.create_optimizer_and_scheduler(num_training_steps=10)
        before = trainer.bundle.embeddings().numpy()
        for parameter in trainer.step.parameters():
            if not parameter.stop_gradient:
                parameter.sum().scale(0.0).backward()
        trainer.optimizer.step()
        assert np.array_equal(before, trainer.bundle.embeddings().numpy()) != decays


def test_captions_are_templates_or_own_ones_with_the_token(tiny_run: Run, tmp_path: Path) -> None:
    lines = [part_line("a <toy>, own" if i % 4 == 0 else "other", jpeg_bytes(80, 80, i)) for i in range(48)]
    file_list = write_lists(tmp_path, {"some": [write_lines(tmp_path / "part", lines)]})
    trainer = invert(tiny_run, tmp_path / "out", do_train=False, learnable_property="style", file_list=file_list)
    trainer._checkpoint = None
    decode = trainer.bundle.tokenizer.decode
    loader = iter(trainer.get_train_dataloader())
    batches = [next(loader)["input_ids"].tolist() for _ in range(12)]
    captions = [decode(ids, skip_special_tokens=True).strip() for batch in batches for ids in batch]
    own = [caption for caption in captions if "own" in caption]
    others = {caption for caption in captions if "own" not in caption}
    assert 8 <= len(own) <= 16
    assert all("<toy> <toy>_1" in caption for caption in captions)
    assert len(others) > 10
    assert all(re.fullmatch(r"(a|the) .* in the style of <toy> <toy>_1", caption) for caption in others), others


def test_pictures_of_a_folder_need_no_captions(tiny_run: Run, tmp_path: Path) -> None:
    """With cached latents the steps are the same."""
    folder = write_folder(tmp_path / "images", [(72, 80), (80, 66), (64, 64)])
    for file in folder.glob("*.txt"):
        file.unlink()
    options: dict[str, Any] = {
        "file_list": None,
        "train_data_dir": folder,
        "center_crop": True,
        "template_file": tmp_path / "own.txt",
    }
    (tmp_path / "own.txt").write_text("a {} here\nthere is a {}\n")
    options |= {"dataset_repeats": 4, "num_train_epochs": 2, "max_steps": None}
    trainer = invert(tiny_run, tmp_path / "a", **options)
    assert trainer.state.max_steps == 6
    cached = invert(tiny_run, tmp_path / "b", **options, cache_latents=True)
    np.testing.assert_allclose(losses(trainer), losses(cached), rtol=1e-4)
    np.testing.assert_allclose(rows(tmp_path / "a"), rows(tmp_path / "b"), atol=1e-4)


def test_a_finished_run_only_writes_its_files_again(tiny_run: Run, tmp_path: Path) -> None:
    invert(tiny_run, tmp_path, max_steps=2)
    expected = rows(tmp_path)
    (tmp_path / "learned_embeds.safetensors").unlink()
    assert losses(invert(tiny_run, tmp_path, max_steps=2)) == []
    np.testing.assert_array_equal(rows(tmp_path), expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_text_encoder": True, "only_save_updated_model": False}, "--only_save_updated_model False"),
        ({"learning_rate": 0, "embedding_learning_rate": 1}, "--embedding_learning_rate needs a --learning_rate"),
        ({"embedding_learning_rate": -1}, "--embedding_learning_rate is -1.0; it must be at least 0"),
        (
            {"embedding_learning_rate": 1, "optimizer_type": "Adafactor", "optimizer_args": "relative_step=True"},
            "relative_step=True: all weights have one step size",
        ),
        ({"placeholder_token": None, "num_vectors": None}, "--initializer_token is of new tokens"),
        ({"train_text_encoder_ti_frac": 0}, "--train_text_encoder_ti_frac is 0.0; it must be above 0"),
        (
            {**dict.fromkeys(TOKENS), "train_text_encoder_ti_frac": 0.5},
            "--train_text_encoder_ti_frac is of new tokens",
        ),
        ({"text_encoder_learning_rate": 1e-6}, "--text_encoder_learning_rate: the text encoder is not trained"),
        ({"cache_text_encoder_outputs": True}, "--cache_text_encoder_outputs: this run trains embeddings"),
    ],
)
def test_what_cannot_work_beside_other_weights_is_refused(
    tiny_run: Run, tmp_path: Path, changes: dict, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_run.train(tmp_path, **{**TOKENS, **changes})


def test_a_token_that_no_caption_has_is_named(tiny_run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("WARNING", logger="ppsd"):
        tiny_run.train(tmp_path, **TOKENS, max_steps=2)
    assert "<toy> has learned nothing in the first steps" in caplog.text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"placeholder_token": None}, "--placeholder_token is missing|--initializer_token is of new tokens"),
        ({"placeholder_token": "a b"}, "--placeholder_token 'a b': it must be without white space"),
        ({"placeholder_token": "red"}, "--placeholder_token: the tokenizer knows red already"),
        ({"placeholder_token": ["<a>", "<a>_1"]}, "one is named as a vector of another"),
        ({"placeholder_token": ["<a>", "a:"]}, "--placeholder_token: <a> and a: would be saved as one file"),
        ({"placeholder_token": ["<Toy>", "<toy>"]}, "<Toy> and <toy> would be saved as one file"),
        ({"placeholder_token": "train"}, "write it as <train>"),
        ({"initializer_token": "a red circle"}, "is 3 tokens of the tokenizer's, and <toy> has --num_vectors 2"),
        ({"num_vectors": [1, 2, 3]}, "--num_vectors has 3 values for 1 tokens"),
        ({"train_text_encoder": True}, "--train_text_encoder: textual inversion trains new tokens only"),
        ({"train_text_encoder_ti_frac": 0.5}, "--train_text_encoder_ti_frac: nothing else is trained"),
        ({"learnable_property": "mood"}, "--learnable_property is mood; it must be object or style"),
        ({"unet_learning_rate": 1.0}, "--unet_learning_rate"),
        ({"caption_rule": "longest"}, "--caption_rule longest"),
    ],
)
def test_what_cannot_work_is_refused(tiny_run: Run, tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        invert(tiny_run, tmp_path, do_train=False, **changes)
