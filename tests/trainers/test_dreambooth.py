from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Optional
from unittest import mock

import numpy as np
import pytest

from ppsd.sampling.class_images import image_files
from ppsd.trainers import running
from ppsd.trainers import trainer as trainer_module
from ppsd.trainers.arguments.dreambooth import DreamBoothArguments, prior_dtype
from ppsd.trainers.dreambooth import DreamBoothTrainer
from ppsd.trainers.parsing import parse_run
from tests.images import jpeg_bytes
from tests.trainers.conftest import Run, assert_same_weights, losses, weights

ROOT = Path(__file__).parents[2]
PRIOR = {"with_prior_preservation": True, "class_prompt": "a photo of a circle", "num_class_images": 5}


class Subject:
    """Three images of a subject, and where those of its class are to be."""

    def __init__(self, run: Run, folder: Path) -> None:
        self.run, self.instance, self.classes = run, folder / "instance", folder / "class"
        self.instance.mkdir(parents=True)
        for i in range(3):
            (self.instance / f"{i}.jpg").write_bytes(jpeg_bytes(72, 80, i))

    def flags(self, output: Path, **changes: Any) -> list[str]:
        own = {
            "unet_name_or_path": None,
            "file_list": None,
            "instance_data_dir": self.instance,
            "instance_prompt": "a photo of sks circle",
            "class_data_dir": self.classes if changes.get("with_prior_preservation") else None,
            "per_device_train_batch_size": 2,
        }
        return self.run.flags(output, **{**own, **changes})

    def train(self, output: Path, **changes: Any) -> DreamBoothTrainer:
        """Without the check of the data, which has tests of its own."""
        trainer = running.train(DreamBoothTrainer, parsed(self.flags(output, **{"check_data": "off", **changes})))
        assert isinstance(trainer, DreamBoothTrainer)
        return trainer


def parsed(flags: list[str]) -> Any:
    return parse_run(DreamBoothArguments, flags, DreamBoothTrainer.defaults)


@pytest.fixture
def subject(tiny_run: Run, tmp_path: Path) -> Subject:
    return Subject(tiny_run, tmp_path)


@pytest.fixture(scope="module")
def drawn(tiny_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Subject:
    """Its class images have been drawn by a run of one step."""
    subject = Subject(tiny_run, tmp_path_factory.mktemp("drawn"))
    subject.train(subject.classes.parent / "out", **PRIOR, max_steps=1)
    return subject


class Batches:
    """What `reduce` gets while training, and the source and caption of each sample."""

    def __init__(self) -> None:
        self.losses: list[np.ndarray] = []
        self.weights: list[np.ndarray] = []
        self.sources: list[list[int]] = []
        self.captions: list[str] = []

    def train(self, subject: Subject, output: Path, **changes: Any) -> DreamBoothTrainer:
        reduce, compute = trainer_module.reduce, DreamBoothTrainer.compute_loss

        def reduced(sample_losses: Any, weight: Any) -> Any:
            self.losses.append(sample_losses.numpy())
            self.weights.append(weight.numpy())
            return reduce(sample_losses, weight)

        def computed(trainer: Any, model: Any, inputs: dict[str, Any], **options: Any) -> Any:
            self.sources.append(np.asarray(inputs["record"])[:, 0].tolist())
            decode = trainer.bundle.tokenizer.decode
            self.captions += [decode(ids, skip_special_tokens=True) for ids in inputs["input_ids"].tolist()]
            return compute(trainer, model, inputs, **options)

        compute_patch = mock.patch.object(DreamBoothTrainer, "compute_loss", computed)
        with mock.patch.object(trainer_module, "reduce", reduced), compute_patch:
            return subject.train(output, **changes)

    def of(self, step: int, source: int) -> np.ndarray:
        return self.losses[step][np.array(self.sources[step]) == source]


def test_the_loss_is_that_of_the_recipe(drawn: Subject, tmp_path: Path) -> None:
    """mean(instance) + prior_loss_weight * mean(class), and the class weighs what the flag says."""
    seen = Batches()
    logged = losses(seen.train(drawn, tmp_path, **PRIOR, prior_loss_weight=0.3))
    assert len(logged) == 6
    for step, loss in enumerate(logged):
        assert seen.sources[step] == [0, 1, 0, 1], "in turn, two of each: a batch of 2 counts instance images"
        np.testing.assert_allclose(loss, seen.of(step, 0).mean() + 0.3 * seen.of(step, 1).mean(), rtol=1e-5)
    assert abs(logged[0] - np.mean(seen.losses[0])) > 0.01, "the plain mean is another number"


def test_without_prior_it_is_the_mean_of_the_instance_images(subject: Subject, tmp_path: Path) -> None:
    seen = Batches()
    logged = losses(seen.train(subject, tmp_path / "out"))
    assert seen.sources == [[0, 0]] * 6
    np.testing.assert_array_equal(seen.weights, np.ones((6, 2)))
    np.testing.assert_allclose(logged, [step.mean() for step in seen.losses], rtol=1e-5)
    assert set(seen.captions) == {"a photo of sks circle"}, "never dropped, unless --caption_dropout_rate says so"
    assert not subject.classes.exists()


def test_class_images_have_the_class_prompt(drawn: Subject, tmp_path: Path) -> None:
    seen = Batches()
    seen.train(drawn, tmp_path, **PRIOR, max_steps=2)
    assert seen.captions == ["a photo of sks circle", "a photo of a circle"] * 4


def test_captions_of_images_come_before_the_prompt(subject: Subject, tmp_path: Path) -> None:
    (subject.instance / "0.txt").write_text("a red circle")
    more = subject.instance / "4_blue square"
    more.mkdir()
    (more / "a.jpg").write_bytes(jpeg_bytes())
    (more / "b.jpg").write_bytes(jpeg_bytes(seed=1))
    (more / "b.caption").write_text("a green square")
    seen = Batches()
    trainer = seen.train(subject, tmp_path / "out", max_steps=None, num_train_epochs=1, per_device_train_batch_size=1)
    assert trainer.state.global_step == 11, "two images come four times"
    expected = ["a red circle"] + ["a photo of sks circle"] * 2 + ["blue square"] * 4 + ["a green square"] * 4
    assert sorted(seen.captions) == sorted(expected)


def test_a_prompt_is_asked_for_only_where_an_image_has_none(subject: Subject, tmp_path: Path) -> None:
    needed = r"--instance_prompt is needed where images have no caption"
    with pytest.raises(ValueError, match=rf"{needed}(.|\n)*0\.jpg"):
        subject.train(tmp_path / "out", instance_prompt=None)
    (subject.instance / "0.txt").write_text("photo 0")
    with pytest.raises(ValueError, match=rf"{needed}, as .*1\.jpg"):
        subject.train(tmp_path / "out", instance_prompt=None)
    for i in range(3):
        (subject.instance / f"{i}.txt").write_text(f"photo {i}")
    seen = Batches()
    seen.train(subject, tmp_path / "out", instance_prompt=None, max_steps=3)
    assert set(seen.captions) == {"photo 0", "photo 1", "photo 2"}


def test_class_images_are_drawn_once_and_change_nothing_else(drawn: Subject, tmp_path: Path) -> None:
    """A run that draws them trains as one that finds them."""
    assert len(image_files(drawn.classes)) == 5
    found = drawn.train(tmp_path / "a", **PRIOR)
    shutil.copytree(drawn.classes, tmp_path / "class")
    (tmp_path / "class" / drawn.classes.joinpath(image_files(drawn.classes)[2]).name).unlink()
    again = drawn.train(tmp_path / "b", **PRIOR, class_data_dir=tmp_path / "class")
    assert len(image_files(tmp_path / "class")) == 5
    assert losses(found) == losses(again)
    assert_same_weights(weights(tmp_path / "a"), weights(tmp_path / "b"))


def test_a_folder_that_stays_short_of_images_is_an_error(subject: Subject, tmp_path: Path) -> None:
    """What is drawn into a folder with a metadata file is not in that file."""
    subject.classes.mkdir()
    (subject.classes / "a.jpg").write_bytes(jpeg_bytes())
    (subject.classes / "metadata.jsonl").write_text('{"file_name": "a.jpg", "text": "a circle"}\n')
    with pytest.raises(ValueError, match=r"--class_data_dir: .* has 1 of 5 images"):
        subject.train(tmp_path / "out", **PRIOR)


def test_of_more_class_images_as_many_as_asked_for_are_used(drawn: Subject, tmp_path: Path) -> None:
    """An epoch is a pass over the longer of the two folders, as in the public script: here the three instances."""
    seen = Batches()
    prior = {**PRIOR, "num_class_images": 2}
    trainer = seen.train(drawn, tmp_path / "a", **prior, max_steps=None, num_train_epochs=2)
    assert trainer.state.global_step == 4, "two epochs of ceil(3 / 2) steps"
    longer = drawn.train(tmp_path / "b", **PRIOR, max_steps=None, num_train_epochs=2)
    assert longer.state.global_step == 6, "two epochs of ceil(5 / 2) steps"


def test_buckets_take_turns_by_batches(drawn: Subject, tmp_path: Path) -> None:
    buckets = {"enable_bucket": True, "min_bucket_reso": 64, "max_bucket_reso": 128, "bucket_reso_steps": 64}
    with pytest.raises(ValueError, match=r"--enable_bucket with --with_prior_preservation: .* must be even, not 1"):
        drawn.train(tmp_path, **PRIOR, **buckets)
    seen = Batches()
    logged = losses(
        seen.train(drawn, tmp_path, **PRIOR, **buckets, gradient_accumulation_steps=2, max_steps=2, logging_steps=1)
    )
    assert seen.sources == [[0] * 4, [1] * 4, [0] * 4, [1] * 4]
    for step, loss in enumerate(logged):
        np.testing.assert_allclose(loss, seen.losses[2 * step].mean() + seen.losses[2 * step + 1].mean(), rtol=1e-5)


def test_what_is_made_once_is_what_is_made_each_time(drawn: Subject, tmp_path: Path) -> None:
    """Latents, and the states of both prompts, under the name that diffusers' script has for it."""
    made = drawn.train(tmp_path / "a", **PRIOR, center_crop=True)
    once = drawn.train(tmp_path / "b", **PRIOR, cache_latents=True, pre_compute_text_embeddings=True)
    np.testing.assert_allclose(losses(once), losses(made), rtol=1e-6)
    with pytest.raises(ValueError, match="--cache_text_encoder_outputs: this run trains text_encoder"):
        drawn.train(tmp_path / "c", **PRIOR, pre_compute_text_embeddings=True, train_text_encoder=True)


@pytest.mark.parametrize("text_encoder", [False, True])
def test_a_killed_run_goes_on_as_if_never_killed(drawn: Subject, tmp_path: Path, text_encoder: bool) -> None:
    options = {**PRIOR, "train_text_encoder": text_encoder, "use_ema": text_encoder}
    whole = drawn.train(tmp_path / "a", **options)
    drawn.train(tmp_path / "b", **options)
    shutil.rmtree(tmp_path / "b" / "checkpoint-6")
    again = drawn.train(tmp_path / "b", **options)
    assert again.begun_at == 3
    assert losses(again) == losses(whole)
    for part in ("unet", "text_encoder"):
        assert_same_weights(weights(tmp_path / "a", part), weights(tmp_path / "b", part))
    trained = not all(
        np.array_equal(value, weights(drawn.run.pipeline, "text_encoder")[name])
        for name, value in weights(tmp_path / "a", "text_encoder").items()
    )
    assert trained == text_encoder


def log_of(checkpoint: Path) -> dict[int, float]:
    entries = json.loads((checkpoint / "trainer_state.json").read_text())["log_history"]
    return {entry["global_step"]: entry["loss"] for entry in entries if "loss" in entry}


def test_two_processes_are_the_same_run_as_one(subject: Subject, tmp_path: Path) -> None:
    """They share the drawing of class images, too."""
    one = subject.train(tmp_path / "one", **PRIOR, class_data_dir=tmp_path / "by one", sample_batch_size=1)
    flags = subject.flags(tmp_path / "two", **PRIOR, per_device_train_batch_size=1, sample_batch_size=1)
    command = [sys.executable, "-m", "paddle.distributed.launch", "--nproc_per_node", "2"]
    command += ["--log_dir", str(tmp_path / "log"), str(ROOT / "examples/dreambooth/train_dreambooth.py")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, *flags],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    by_two, by_one = (
        {path.name: path.read_bytes() for path in image_files(folder)}
        for folder in (
            subject.classes,
            tmp_path / "by one",
        )
    )
    assert by_two == by_one
    assert len(by_two) == 5
    np.testing.assert_allclose(list(log_of(tmp_path / "two" / "checkpoint-6").values()), losses(one), rtol=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"instance_data_dir": None}, "--instance_data_dir: the folder with images of the subject is needed"),
        ({"instance_data_dir": "nowhere"}, "--instance_data_dir nowhere: "),
        ({**PRIOR, "instance_data_dir": "nowhere"}, "--instance_data_dir nowhere: "),
        ({**PRIOR, "instance_prompt": None}, "--instance_prompt is needed where images have no caption"),
        ({"data_format": "laion400m"}, "--data_format laion400m is for --file_list"),
        ({"file_list": "x.filelist"}, "--file_list: DreamBooth reads --instance_data_dir"),
        ({"train_data_dir": "x"}, "--train_data_dir: DreamBooth reads --instance_data_dir"),
        ({"class_prompt": "x"}, "--class_prompt acts only with --with_prior_preservation"),
        ({"prior_loss_weight": 0.5}, "--prior_loss_weight acts only with --with_prior_preservation"),
        ({"with_prior_preservation": True, "class_prompt": "x", "class_data_dir": None}, "needs --class_data_dir"),
        ({"with_prior_preservation": True}, "needs --class_prompt"),
        ({**PRIOR, "prior_loss_weight": -1}, "--prior_loss_weight is -1.0; it must be at least 0"),
        ({**PRIOR, "num_class_images": 0}, "--num_class_images is 0; it must be at least 1"),
        ({**PRIOR, "prior_generation_precision": "fp16"}, "--prior_generation_precision fp16 needs a GPU"),
        ({**PRIOR, "prior_generation_precision": "half"}, "it must be one of no, fp32, fp16, bf16"),
    ],
)
def test_flags_that_cannot_work_are_named(
    subject: Subject, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match="--") as caught:
        subject.train(tmp_path / "out", device="cpu", **changes)
    assert message in str(caught.value)
    assert not subject.classes.exists(), "nothing was drawn"


def test_class_images_among_the_instance_images_are_refused(subject: Subject, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="give two folders"):
        subject.train(tmp_path / "out", **PRIOR, class_data_dir=subject.instance / "class")


def test_results_among_the_images_are_refused(subject: Subject, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"--output_dir: .* lies in .*instance, the folder of --instance_data_dir"):
        subject.train(subject.instance / "out")
    inside = {**PRIOR, "class_data_dir": tmp_path / "out" / "class", "num_class_images": 1}
    subject.train(tmp_path / "out", **inside, max_steps=1)
    assert not (subject.instance / "out").exists()


@pytest.mark.parametrize(
    ("asked", "device", "dtype"),
    [
        (None, "gpu", "float16"),
        (None, "cpu", None),
        ("no", "gpu", None),
        ("fp32", "gpu", None),
        ("bf16", "gpu:1", "bfloat16"),
        ("fp32", "cpu", None),
    ],
)
def test_precision_of_class_images(asked: Optional[str], device: str, dtype: Optional[str]) -> None:
    assert prior_dtype(asked, device) == dtype


def test_defaults_are_the_public_scripts_and_flags_change_them(tmp_path: Path) -> None:
    plain = parsed(["--output_dir", "out"])
    assert (plain.data.caption_dropout_rate, plain.args.learning_rate, plain.args.weight_decay) == (0.0, 5e-6, 0.01)
    assert (plain.args.lr_scheduler_type.value, plain.args.per_device_train_batch_size) == ("constant", 4)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("learning_rate: 1.0e-6\n")
    changed = parsed(["--output_dir", "out", "--caption_dropout_rate", "0.1", "--config", str(recipe)])
    assert (changed.data.caption_dropout_rate, changed.args.learning_rate) == (0.1, 1e-6)
