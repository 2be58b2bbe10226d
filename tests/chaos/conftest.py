from __future__ import annotations

from collections.abc import Iterator
from typing import Callable

import pytest

from tests.chaos.inputs import RECORDS_PER_PART, tiny_inputs
from tests.chaos.recipe import Recipe
from tests.chaos.runners import Zygote


@pytest.fixture(scope="session")
def zygote() -> Iterator[Zygote]:
    runner = Zygote()
    yield runner
    runner.close()


@pytest.fixture(scope="session")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """Two and a half epochs in 60 steps."""
    return Recipe(tiny_inputs(tmp_path_factory.mktemp("chaos")), RECORDS_PER_PART, max_steps=60, save_steps=3)


@pytest.fixture
def show(record_property: Callable[[str, object], None]) -> Callable[[list[str]], None]:
    """Lines for the end of the test session."""
    return lambda lines: record_property("table", "\n".join(lines))
