from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import paddle
import pytest
from ppdiffusers import DDIMScheduler, StableDiffusionPipeline
from visualdl import LogReader

from ppsd import compat
from ppsd.diffusion.draws import draw
from ppsd.models.saving import read_weights
from ppsd.sampling.pipeline import generate, load_pipeline
from ppsd.trainers.trained import frozen_weights
from tests.images import jpeg_bytes, part_line, write_lines, write_lists
from tests.tiny import tiny_unet
from tests.trainers.conftest import Run, assert_same_weights, losses, weights


def test_the_same_command_twice_is_bit_identical(tiny_run: Run, tmp_path: Path) -> None:
    first, second = tiny_run.train(tmp_path / "a"), tiny_run.train(tmp_path / "b")
    assert losses(first) == losses(second)
    assert len(set(losses(first))) == 6
    assert_same_weights(weights(tmp_path / "a"), weights(tmp_path / "b"))
    other = tiny_run.train(tmp_path / "c", seed=8)
    assert losses(other)[0] != losses(first)[0]


def test_workers_previews_and_logs_change_nothing(tiny_run: Run, tmp_path: Path) -> None:
    plain = tiny_run.train(tmp_path / "a")
    busy = tiny_run.train(tmp_path / "b", dataloader_num_workers=2, image_logging_steps=2, report_to="visualdl")
    assert losses(plain) == losses(busy)
    assert_same_weights(weights(tmp_path / "a"), weights(tmp_path / "b"))


def test_recomputing_changes_nothing(tiny_run: Run, tmp_path: Path) -> None:
    try:
        compat.require_recompute()
    except ValueError as error:
        pytest.skip(str(error))
    plain = tiny_run.train(tmp_path / "a", train_text_encoder=True)
    again = tiny_run.train(tmp_path / "b", train_text_encoder=True, recompute=True)
    assert losses(plain) == losses(again)
    assert again.bundle.unet.down_blocks[0].gradient_checkpointing
    assert_same_weights(weights(tmp_path / "a"), weights(tmp_path / "b"))


def test_accumulation_is_the_same_step_as_one_large_batch(tiny_run: Run, tmp_path: Path) -> None:
    whole = tiny_run.train(tmp_path / "a", per_device_train_batch_size=4)
    parts = tiny_run.train(tmp_path / "b", per_device_train_batch_size=2, gradient_accumulation_steps=2)
    np.testing.assert_allclose(losses(whole), losses(parts), rtol=1e-5)
    assert parts.state.global_step == 6


@pytest.mark.parametrize("options", [{}, {"use_ema": True, "train_text_encoder": True, "dataloader_num_workers": 1}])
def test_a_killed_run_goes_on_as_if_never_killed(tiny_run: Run, tmp_path: Path, options: dict) -> None:
    """Continuing from checkpoint-3 in the same folder, by the same command."""
    tiny_run.train(tmp_path / "a", **options)
    whole = tiny_run.train(tmp_path / "b", **options)
    shutil.rmtree(tmp_path / "b" / "checkpoint-6")
    again = tiny_run.train(tmp_path / "b", **options)
    assert losses(again) == losses(whole)
    for part in ["unet"] + (["text_encoder"] if options else []):
        assert_same_weights(weights(tmp_path / "a", part), weights(tmp_path / "b", part))
        step_6 = weights(tmp_path / "b" / "checkpoint-6", part)
        assert_same_weights(weights(tmp_path / "a" / "checkpoint-6", part), step_6)


def test_a_finished_run_is_not_trained_again(tiny_run: Run, tmp_path: Path) -> None:
    tiny_run.train(tmp_path)
    before = weights(tmp_path)
    shutil.rmtree(tmp_path / "unet")
    again = tiny_run.train(tmp_path)
    assert losses(again) == []
    assert_same_weights(before, weights(tmp_path))


def test_overwriting_starts_over_and_forgets_old_checkpoints(tiny_run: Run, tmp_path: Path) -> None:
    tiny_run.train(tmp_path, max_steps=6)
    again = tiny_run.train(tmp_path, max_steps=3, overwrite_output_dir=True)
    assert len(losses(again)) == 3
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-3"]


def test_half_written_checkpoints_are_never_continued(tiny_run: Run, tmp_path: Path) -> None:
    """A checkpoint has its name only when it is whole."""
    tiny_run.train(tmp_path, max_steps=3)
    (tmp_path / ".saving").mkdir()
    (tmp_path / "checkpoint-3").rename(tmp_path / ".saving" / "checkpoint-3.1234abcd")
    again = tiny_run.train(tmp_path, max_steps=3)
    assert len(losses(again)) == 3
    assert not (tmp_path / ".saving").exists()


def test_save_total_limit_keeps_the_newest(tiny_run: Run, tmp_path: Path) -> None:
    tiny_run.train(tmp_path, save_steps=1, save_total_limit=2)
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-5", "checkpoint-6"]


def test_checkpoint_layout_is_the_recipes(tiny_run: Run, tmp_path: Path) -> None:
    tiny_run.train(tmp_path / "a", use_ema=True, train_text_encoder=True, max_steps=1)
    checkpoint = tmp_path / "a" / "checkpoint-1"
    assert {p.name for p in checkpoint.iterdir()} == {
        *("unet", "text_encoder", "optimizer.safetensors"),
        *("state.json", "trainer_state.json", "data_position.json", "ppsd.json", "COMPLETE"),
    }
    assert (checkpoint / "unet" / "diffusion_paddle_model.ema.safetensors").is_file()
    tiny_run.train(tmp_path / "b", only_save_updated_model=False, max_steps=1)
    folders = {p.name for p in (tmp_path / "b" / "checkpoint-1").iterdir() if p.is_dir()}
    assert folders == {"unet", "text_encoder", "vae", "tokenizer", "scheduler"}
    assert load_pipeline(str(tmp_path / "b" / "checkpoint-1")).unet.config.sample_size == 8


def test_only_what_is_asked_for_is_trained(tiny_run: Run, tmp_path: Path) -> None:
    trainer = tiny_run.train(tmp_path, max_steps=2)
    for part in ("vae", "text_encoder"):
        assert_same_weights(weights(tiny_run.pipeline, part), weights(tmp_path, part))
    trained = {name.split(".")[0] for name, p in trainer.step.named_parameters() if not p.stop_gradient}
    assert trained == {"unet"}


def test_each_part_has_its_own_learning_rate(tiny_run: Run, tmp_path: Path) -> None:
    """Adam's first step moves every weight that has a gradient by its learning rate."""
    tiny_run.train(
        tmp_path,
        max_steps=1,
        train_text_encoder=True,
        unet_name_or_path=tiny_run.pipeline / "unet",
        unet_learning_rate=1e-3,
        text_encoder_learning_rate=1e-5,
        lr_scheduler_type="constant",
        weight_decay=0.0,
        max_grad_norm=-1,
        adam_epsilon=1e-20,
    )
    for part, rate in (("unet", 1e-3), ("text_encoder", 1e-5)):
        before, after = weights(tiny_run.pipeline, part), weights(tmp_path, part)
        moved = np.concatenate([np.abs(after[name] - before[name]).ravel() for name in before])
        assert np.isclose(np.median(moved[moved > 0]), rate, rtol=0.02)


def test_norms_and_biases_do_not_decay(tiny_run: Run, tmp_path: Path) -> None:
    """With zero gradients and a large decay, only what decays moves."""
    trainer = tiny_run.train(tmp_path, do_train=False, weight_decay=0.5, learning_rate=1.0)
    trainer.create_optimizer_and_scheduler(num_training_steps=10)
    before = {name: p.numpy().copy() for name, p in trainer.step.named_parameters()}
    for p in trainer.step.parameters():
        if not p.stop_gradient:
            p.sum().scale(0.0).backward()
    trainer.optimizer.step()
    decayed = {n for n, p in trainer.step.named_parameters() if not np.array_equal(p.numpy(), before[n])}
    zero = {name for name, value in before.items() if not value.any()}
    expected = {n for n, p in trainer.step.named_parameters() if not p.stop_gradient and p.ndim > 1} - zero
    assert decayed == expected
    assert "unet.conv_norm_out.weight" not in decayed


def test_the_loss_is_the_objective_on_the_samples_own_noise(tiny_run: Run, tmp_path: Path) -> None:
    """A UNet that puts out zero has the mean square of the noise as epsilon loss."""
    trainer = tiny_run.train(tmp_path, do_train=False)
    trainer._checkpoint = None
    batch = next(iter(trainer.get_train_dataloader()))
    expected = draw(batch["seed"], (4, 8, 8), num_train_timesteps=1000).noise.numpy()
    np.testing.assert_allclose(float(trainer.compute_loss(trainer.model, batch)), (expected**2).mean(), rtol=1e-6)


def test_the_prediction_type_is_the_schedulers_unless_given(tiny_run: Run, tmp_path: Path) -> None:
    pipeline = Path(shutil.copytree(tiny_run.pipeline, tmp_path / "pipeline"))
    file = pipeline / "scheduler" / "scheduler_config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps({**config, "prediction_type": "v_prediction"}))
    run = Run(pipeline, tiny_run.unet_config, tiny_run.file_list)
    assert run.train(tmp_path / "a", do_train=False).step.objective.prediction_type == "v_prediction"
    given = run.train(tmp_path / "b", max_steps=1, prediction_type="sample")
    assert given.step.objective.prediction_type == "sample"
    assert load_pipeline(str(tmp_path / "b")).scheduler.config.prediction_type == "sample"


def test_the_export_is_a_pipeline_anyone_can_load(tiny_run: Run, tmp_path: Path) -> None:
    tiny_run.train(tmp_path, max_steps=2)
    pipe = StableDiffusionPipeline.from_pretrained(str(tmp_path), safety_checker=None)
    assert isinstance(pipe.scheduler, DDIMScheduler)
    assert pipe.unet.config.sample_size == 8
    pictures = generate(pipe, ["a red circle"], guidance_scale=2.0, num_inference_steps=2, seed=0)
    assert pictures.shape == (1, 64, 64, 3)


def test_the_export_holds_the_averaged_weights(tiny_run: Run, tmp_path: Path) -> None:
    tiny_run.train(tmp_path, max_steps=3, use_ema=True)
    average = tmp_path / "checkpoint-3" / "unet" / "diffusion_paddle_model.ema.safetensors"
    assert_same_weights(read_weights(average), weights(tmp_path))
    assert not np.array_equal(weights(tmp_path)["conv_out.bias"], weights(average.parents[1])["conv_out.bias"])


def test_a_checkpoints_unet_draws_over_a_base_pipeline(tiny_run: Run, tmp_path: Path) -> None:
    tiny_run.train(tmp_path, max_steps=2)
    pipe = load_pipeline(str(tiny_run.pipeline), str(tmp_path / "checkpoint-2" / "unet"))
    assert_same_weights(weights(tmp_path), {k: v.numpy() for k, v in pipe.unet.state_dict().items()})


def test_a_checkpoints_averaged_unet_can_be_drawn(tiny_run: Run, tmp_path: Path) -> None:
    tiny_run.train(tmp_path / "a", max_steps=2, use_ema=True)
    unet = tmp_path / "a" / "checkpoint-2" / "unet"
    pipe = load_pipeline(str(tiny_run.pipeline), str(unet), "ema")
    averaged = read_weights(unet / "diffusion_paddle_model.ema.safetensors")
    assert_same_weights(averaged, {k: v.numpy() for k, v in pipe.unet.state_dict().items()})
    tiny_run.train(tmp_path / "b", max_steps=1)
    with pytest.raises(ValueError, match=r"--unet: .* has no \"ema\" weights"):
        load_pipeline(str(tiny_run.pipeline), str(tmp_path / "b" / "checkpoint-1" / "unet"), "ema")


def test_skipped_records_are_reported_when_the_run_ends(
    tiny_run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    part = write_lines(tmp_path / "part", [part_line("ok", jpeg_bytes(80, 80)), b"one column\n", *[b""] * 3])
    file_list = write_lists(tmp_path, {"some": [part]})
    with caplog.at_level("WARNING", logger="ppsd"):
        tiny_run.train(tmp_path / "out", file_list=file_list, max_steps=1)
    assert "too few columns" in caplog.text
    assert f"{part}:2" in caplog.text


def test_a_check_deletes_nothing(tiny_run: Run, tmp_path: Path) -> None:
    tiny_run.train(tmp_path, max_steps=1)
    tiny_run.train(tmp_path, max_steps=1, do_train=False, overwrite_output_dir=True)
    assert (tmp_path / "checkpoint-1").is_dir()
    with pytest.raises(ValueError, match="--resume_from_checkpoint none"):
        tiny_run.train(tmp_path, max_steps=1, resume_from_checkpoint="none")


def test_previews_and_scalars_are_written(tiny_run: Run, tmp_path: Path) -> None:
    prompts = ["a red circle", "a blue square"]
    tiny_run.train(
        tmp_path, image_logging_steps=4, report_to="visualdl", validation_prompts=prompts, guidance_scale=2.0
    )
    names = sorted(path.name for path in (tmp_path / "previews").iterdir())
    assert names == ["reconstruction.png", "step-0000004.png", "step-0000006.png"]
    reader = LogReader(file_path=str(next((tmp_path / "runs").rglob("*.log"))))
    tags = reader.get_tags()
    assert {"previews", "reconstruction"} <= set(tags["image"])
    scalars = {tag.split("/")[-1] for tag in tags["scalar"]}
    assert {"loss", "learning_rate", "interval_samples_per_second", "data_wait_share", "peak_memory_gb"} <= scalars


def test_a_continued_run_draws_the_same_captions(tiny_run: Run, tmp_path: Path) -> None:
    first = tiny_run.train(tmp_path, max_steps=3, image_logging_steps=3)
    assert len(first.previews.prompts) == 4
    assert any("set" in prompt for prompt in first.previews.prompts)
    again = tiny_run.train(tmp_path, max_steps=6, image_logging_steps=3)
    assert list(again.previews.prompts) == list(first.previews.prompts)
    assert {path.name for path in (tmp_path / "previews").iterdir()} == {
        "prompts.txt",
        "reconstruction.png",
        "step-0000003.png",
        "step-0000006.png",
    }


def test_checking_only_trains_nothing(tiny_run: Run, tmp_path: Path) -> None:
    trainer = tiny_run.train(tmp_path, do_train=False)
    assert trainer.state.global_step == 0
    assert not list(tmp_path.glob("checkpoint-*"))
    assert not (tmp_path / "model_index.json").exists()


def test_epochs_give_the_number_of_steps(tiny_run: Run, tmp_path: Path) -> None:
    trainer = tiny_run.train(tmp_path, max_steps=None, num_records=9, num_train_epochs=1.5)
    assert trainer.state.global_step == 3  # 9 records are 2 whole steps of 4


def test_a_stream_without_end_needs_its_steps(tiny_run: Run, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no known length: give --max_steps"):
        tiny_run.train(tmp_path, max_steps=0)


def test_ema_of_an_unaveraged_checkpoint_is_refused(tiny_run: Run, tmp_path: Path) -> None:
    tiny_run.train(tmp_path, max_steps=3)
    with pytest.raises(ValueError, match=r"--use_ema: .* was saved without EMA"):
        tiny_run.train(tmp_path, max_steps=6, use_ema=True)


def test_optimizer_state_does_not_depend_on_what_the_process_made_before(tiny_run: Run, tmp_path: Path) -> None:
    """Paddle names parameters by counting layers; a notebook has made many."""
    straight = tiny_run.train(tmp_path / "a")
    tiny_run.train(tmp_path / "b", max_steps=3, lr_scheduler_type="constant")
    tiny_unet()
    constant = tiny_run.train(tmp_path / "c", lr_scheduler_type="constant")
    tiny_run.train(tmp_path / "b", lr_scheduler_type="constant")
    assert_same_weights(weights(tmp_path / "b"), weights(tmp_path / "c"))
    assert losses(straight)[0] == losses(constant)[0]


def test_random_state_is_untouched_by_previews(tiny_run: Run, tmp_path: Path) -> None:
    pipe = load_pipeline(str(tiny_run.pipeline))
    paddle.seed(3)
    np.random.seed(3)
    state = paddle.get_rng_state()[0], np.random.get_state()[1].tolist()
    generate(pipe, ["a"], guidance_scale=3.0, num_inference_steps=2, seed=1)
    assert np.random.get_state()[1].tolist() == state[1]
    after = paddle.rand([3]).numpy()
    paddle.set_rng_state([state[0]])
    np.testing.assert_array_equal(after, paddle.rand([3]).numpy())


def test_overwriting_with_a_mistake_deletes_nothing(tiny_run: Run, tmp_path: Path) -> None:
    tiny_run.train(tmp_path, max_steps=1)
    with pytest.raises(ValueError, match="--unet_name_or_path"):
        tiny_run.train(tmp_path, max_steps=1, overwrite_output_dir=True, unet_name_or_path="nowhere.json")
    assert (tmp_path / "checkpoint-1").is_dir()
    again = tiny_run.train(
        tmp_path, max_steps=2, overwrite_output_dir=True, resume_from_checkpoint=tmp_path / "checkpoint-1"
    )
    assert again.state.global_step == 2
    assert (tmp_path / "checkpoint-1").is_dir()


@pytest.mark.parametrize("part", ["", "unet"])
def test_the_model_that_is_read_is_never_replaced(tiny_run: Run, tmp_path: Path, part: str) -> None:
    base = Path(shutil.copytree(tiny_run.pipeline, tmp_path / "base"))
    with pytest.raises(ValueError, match=r"--output_dir: the result in .* would replace"):
        tiny_run.train(base, unet_name_or_path=base / part if part else None, pretrained_model_name_or_path=base)


def test_the_data_can_be_started_over(tiny_run: Run, tmp_path: Path) -> None:
    first = tiny_run.train(tmp_path, max_steps=3)
    with pytest.raises(ValueError, match=r"--buffer_size was 100 and is 7; .*--ignore_data_skip"):
        tiny_run.train(tmp_path, buffer_size=7)
    again = tiny_run.train(tmp_path, buffer_size=7, ignore_data_skip=True)
    assert again.state.global_step == 6
    assert first.loader.position()["samples"] == again.loader.position()["samples"] == 12


def test_a_finished_half_precision_run_is_exported_without_rounding(tiny_run: Run, tmp_path: Path) -> None:
    """What AMP O2 leaves in memory when the same command is run again: half-precision layers, float32 files."""
    tiny_run.train(tmp_path, max_steps=1)
    wanted = weights(tmp_path / "checkpoint-1")
    trainer = tiny_run.train(tmp_path, max_steps=1, do_train=False)
    trainer.originals = frozen_weights(trainer.bundle, whole=True)
    for part in (trainer.bundle.unet, trainer.bundle.vae, trainer.bundle.text_encoder):
        part.to(dtype="bfloat16")
    shutil.rmtree(tmp_path / "unet")
    trainer.load_to_export(str(tmp_path / "checkpoint-1"))
    trainer.export()
    assert_same_weights(wanted, weights(tmp_path))
    for part in ("vae", "text_encoder"):
        assert_same_weights(weights(tiny_run.pipeline, part), weights(tmp_path, part))
