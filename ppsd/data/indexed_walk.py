"""The way through an indexed source: group number n of the source is group n mod G of epoch n // G.

So who draws a group, and what was drawn before, makes no difference, and there is nothing to find again after a pause.
"""

from __future__ import annotations

from typing import Union

from ppsd.data.buckets import Size
from ppsd.data.epoch_plan import EpochPlan, epoch_groups, epoch_plan
from ppsd.data.filling import stand_ins
from ppsd.data.indexed import IndexedSource
from ppsd.data.order import Shuffled
from ppsd.data.seeds import Draw, derive_seed
from ppsd.data.settings import Cursor, LaneSettings
from ppsd.data.tally import Tally, bad_records
from ppsd.types import BadRecord, LatentRecord, Record, Sample


class IndexedWalk:
    """Groups of one indexed source. Raises ValueError for a source that has no records."""

    def __init__(self, settings: LaneSettings, source: int) -> None:
        found = settings.sources[source]
        assert isinstance(found, IndexedSource)
        self._settings, self._index, self._source = settings, source, found
        self._seed = derive_seed(settings.seed, source)
        self._size = epoch_groups(found, settings.buckets, settings.group_size)
        self._bad: dict[int, BadRecord] = {}
        if not self._size:
            raise ValueError(self._nothing())

    def draw(self, number: int, tally: Tally) -> tuple[list[Sample], Cursor]:
        """Group `number` of the source; what is skipped is counted in `tally`, once an epoch.

        Where no sample of a group can be made another group of the epoch takes its place. Raises ValueError where none
        can be made at all.
        """
        epoch, place = divmod(number, self._size)
        cursor = Cursor(epoch, line=place + 1)
        if place == 0:
            tally.merge(bad_records(self._source.bad))
        samples = self._group(epoch, place, tally)
        if samples:
            return samples, cursor
        for other in Shuffled(self._size, self._seed, Draw.BORROW, epoch, place):
            samples = self._group(epoch, other, Tally(), borrower=place)
            if samples:
                tally.repeated += len(samples)
                return samples, cursor
        raise ValueError(self._nothing())

    def _nothing(self) -> str:
        found = [(self._source.records.where(index), self._bad[index]) for index in sorted(self._bad)]
        tally = bad_records([*self._source.bad, *found])
        return f"{self._source.name}: not one of its {tally.skipped} records can be used: {tally}"

    def _group(self, epoch: int, place: int, tally: Tally, borrower: int = -1) -> list[Sample]:
        """Its samples. Good ones stand in, differently cropped and noised, for those that cannot be made."""
        settings, plan = self._settings, self._plan(epoch)
        size = settings.size if plan.sizes is None else (int(plan.sizes[place][0]), int(plan.sizes[place][1]))
        good: list[tuple[Union[Record, LatentRecord], Sample]] = []
        for index, copy in zip(plan.records[place].tolist(), plan.copies[place].tolist()):
            if index in self._bad and (copy or borrower >= 0):
                continue
            seed = derive_seed(self._seed, Draw.RECORD, epoch, index, copy, borrower)
            made = self._make(index, seed, size)
            if isinstance(made, BadRecord):
                self._bad[index] = made
                if copy == 0:
                    tally.add(made.reason, self._source.records.where(index), made.detail)
                continue
            made[1].record = (self._index, index, copy)
            good.append(made)
            tally.repeated += copy < 0
        missing = settings.group_size - len(good) if good else 0
        tally.repeated += missing
        return [sample for _, sample in good] + stand_ins(good, missing, settings.make_sample, size)

    def _make(self, index: int, seed: int, size: Size) -> Union[tuple[Union[Record, LatentRecord], Sample], BadRecord]:
        record = self._source.records[index]
        if isinstance(record, BadRecord):
            return record
        made = self._settings.make_sample(record, seed, size)
        return made if isinstance(made, BadRecord) else (record, made)

    def _plan(self, epoch: int) -> EpochPlan:
        settings = self._settings
        return epoch_plan(self._source, self._seed, epoch, settings.shuffle, settings.buckets, settings.group_size)
