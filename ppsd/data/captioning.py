"""Captions for the images of a folder, from a model, from tags, or both: what is to be done, and doing it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import Callable, Optional, Protocol, Union

import numpy as np
from PIL import Image

from ppsd.data.captions import tags_of, without_tags
from ppsd.data.decode import decode_image
from ppsd.data.tally import Tally
from ppsd.formats.caption_files import CaptionStore, ImageCaption, Item
from ppsd.formats.image_bytes import read_image_file
from ppsd.types import BadRecord

NO_TAGS = "no tags"
EXAMPLES = 3


class Speaker(Protocol):
    """A model that says what is in a picture."""

    def picture(self, image: Image.Image) -> np.ndarray:
        """What the model is shown of an upright RGB image, float32 [3,S,S]. Called in threads."""

    def captions(self, pictures: np.ndarray, names: Sequence[str]) -> list[str]:
        """Of pictures [B,3,S,S]; all chance comes from the names."""


@dataclass(frozen=True)
class Rules:
    """What becomes of captions. tags: by the name of the image. Each field is the flag of tools/caption_images.py."""

    tags: Mapping[str, Sequence[str]] = field(default_factory=dict)
    undesired_tags: Optional[str] = None
    append_tags: bool = False
    overwrite: bool = False
    batch_size: int = 8
    num_workers: int = 1


@dataclass
class Plan:
    """Images that get a caption, and those whose caption gets tags; how many stay as they are, and what is skipped."""

    new: list[ImageCaption] = field(default_factory=list)
    longer: list[tuple[ImageCaption, str]] = field(default_factory=list)
    kept: int = 0
    skipped: Tally = field(default_factory=Tally)


@dataclass
class Report:
    """How many captions were written and kept, what was skipped, and the first captions by image."""

    written: int = 0
    kept: int = 0
    skipped: Tally = field(default_factory=Tally)
    examples: list[tuple[str, str]] = field(default_factory=list)

    def wrote(self, name: str, caption: str) -> None:
        self.written += 1
        if len(self.examples) < EXAMPLES:
            self.examples.append((name, caption))


def with_tags(caption: Optional[str], tags: Sequence[str], undesired: Optional[str]) -> str:
    """A caption and the tags it has not got yet, without those that are undesired (see ppsd.data.captions)."""
    unwanted = tags_of(undesired)
    said = without_tags(caption or "", unwanted)
    present = {*tags_of(said), *unwanted}
    return ", ".join([*([said] if said else []), *(tag for tag in tags if tag not in present)])


def make_plan(items: Iterable[Item], store: CaptionStore, rules: Rules, has_model: bool) -> Plan:
    """For the items of a store. Looks at captions and names, not at images."""
    plan = Plan()
    for where, item in items:
        if isinstance(item, BadRecord):
            plan.skipped.add(item.reason, where, item.detail)
            continue
        found = _decide(store, item, rules, has_model)
        if isinstance(found, BadRecord):
            plan.skipped.add(found.reason, where, found.detail)
        elif isinstance(found, str):
            plan.longer.append((item, found))
        elif found:
            plan.new.append(item)
        else:
            plan.kept += 1
    return plan


def _decide(store: CaptionStore, item: ImageCaption, rules: Rules, has_model: bool) -> Union[bool, str, BadRecord]:
    """Whether the image gets a new caption, or the longer form of the one that it has."""
    if item.fresh:
        return False
    if item.caption is not None and not rules.overwrite:
        if isinstance(item.caption, BadRecord) or not rules.append_tags:
            return item.caption if isinstance(item.caption, BadRecord) else False
        tags = tags_of(without_tags(",".join(rules.tags.get(item.name, ())), tags_of(rules.undesired_tags)))
        longer = with_tags(item.caption, tags, None)
        return longer if longer != item.caption else False
    if not has_model and item.name not in rules.tags:
        return BadRecord(NO_TAGS)
    return store.obstacle(item.name) or True


def carry_out(
    plan: Plan, store: CaptionStore, rules: Rules, speaker: Optional[Speaker], on_image: Callable[[], object]
) -> Report:
    """Write what is planned; calls on_image after each image. A run that is cut is continued by the same call."""
    report = Report(kept=plan.kept, skipped=plan.skipped)
    for item, caption in plan.longer:
        store.extend(item.name, caption)
        report.wrote(item.name, caption)
        on_image()
    for item, said in _said(plan.new, speaker, rules):
        if isinstance(said, BadRecord):
            report.skipped.add(said.reason, str(item.path), said.detail)
        else:
            caption = with_tags(said, rules.tags.get(item.name, ()), rules.undesired_tags)
            store.write(item.name, caption)
            report.wrote(item.name, caption)
        on_image()
    store.finish()
    return report


def _said(
    items: Sequence[ImageCaption], speaker: Optional[Speaker], rules: Rules
) -> Iterator[tuple[ImageCaption, Union[str, BadRecord]]]:
    if speaker is None:
        yield from ((item, "") for item in items)
        return
    pictures = _pictures(items, speaker, rules)
    while batch := list(islice(pictures, rules.batch_size)):
        good = [(item, picture) for item, picture in batch if not isinstance(picture, BadRecord)]
        names = [item.name for item, _ in good]
        made = speaker.captions(np.stack([picture for _, picture in good]), names) if good else []
        captions = dict(zip(names, made))
        yield from ((item, bad if isinstance(bad, BadRecord) else captions[item.name]) for item, bad in batch)


def _pictures(
    items: Sequence[ImageCaption], speaker: Speaker, rules: Rules
) -> Iterator[tuple[ImageCaption, Union[np.ndarray, BadRecord]]]:
    """In order; up to two batches are decoded ahead of the one that the model looks at."""
    pending: deque[Future[Union[np.ndarray, BadRecord]]] = deque()
    with ThreadPoolExecutor(rules.num_workers) as pool:
        waiting = iter(items)
        for item in items:
            for ahead in islice(waiting, 1 + 2 * rules.batch_size - len(pending)):
                pending.append(pool.submit(_picture, ahead, speaker))
            yield item, pending.popleft().result()


def _picture(item: ImageCaption, speaker: Speaker) -> Union[np.ndarray, BadRecord]:
    data = read_image_file(item.path)
    image = data if isinstance(data, BadRecord) else decode_image(data)
    return image if isinstance(image, BadRecord) else speaker.picture(image)
