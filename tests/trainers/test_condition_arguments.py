"""The flags of conditions are settings of the stream, with the same names and meanings."""

from __future__ import annotations

from dataclasses import fields

from ppsd.data.config import StreamConfig
from ppsd.data.masks import COVERAGE, KINDS, kinds_of
from ppsd.trainers.arguments.conditions import ConditionArguments


def test_every_flag_is_a_setting_of_the_stream() -> None:
    flags = {field.name for field in fields(ConditionArguments)}
    assert flags == {
        "conditioning_image_column",
        "mask_column",
        "depth_column",
        "annotator",
        "annotator_model",
        "mask_kinds",
        "mask_coverage",
    }
    assert flags <= {field.name for field in fields(StreamConfig)}
    assert all(field.metadata["help"] for field in fields(ConditionArguments))


def test_the_defaults_work_for_each_condition() -> None:
    given = vars(ConditionArguments())
    for name in ("conditioning", "mask", "depth"):
        config = StreamConfig("x", conditions=(name,), **given)
        assert kinds_of(config.mask_kinds) == KINDS
        assert config.mask_coverage == COVERAGE
        assert config.annotator is config.mask_column is None
