"""What a file list of millions of parts costs: seconds and memory until the list is read and until the first batch.

    python -m tests.benchmarks.many_parts [--parts 5000000] [--num_workers 0]

Only the parts that the lanes open first are there. Each row is a process of its own; memory is the most that it had
above what it had after its imports.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from ppsd.data.config import StreamConfig
from ppsd.data.order import epoch_order
from ppsd.data.seeds import derive_seed
from ppsd.formats.filelist import read_filelist
from tests.images import jpeg_bytes, part_line, write_lines

LANES = 64
RECORDS = 120  # more than a lane shuffles at a time
SEED = 0


def make_list(folder: Path, parts: int) -> Path:
    """A filelist of `parts` parts in folders of 1000, with entries of about 80 characters."""
    folder = folder / "laion5b" / "a-folder-with-a-longer-name"
    path = folder / "all.filelist"
    path.parent.mkdir(parents=True)
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(f"{_part(folder, number)}\n" for number in range(parts))
    lines = [part_line(f"caption {i}", jpeg_bytes(seed=i)) for i in range(RECORDS)]
    real = write_lines(folder / "part", lines, compress=True)
    for units in epoch_order(parts, LANES, derive_seed(SEED, 0), 0):
        part = Path(_part(folder, units[0].part))
        part.parent.mkdir(exist_ok=True)
        os.link(real, part)
    return path


def _part(folder: Path, number: int) -> str:
    return f"{folder}/{number // 1000:05d}/part-{number:08d}.gz"


def list_alone(path: Path, num_workers: int) -> None:
    parts = read_filelist(path)
    parts.names_digest()


def first_batch(path: Path, num_workers: int) -> None:
    from ppsd.data.loader import StreamLoader
    from tests.tiny import tiny_tokenizer

    config = StreamConfig(str(path), resolution=64, num_lanes=LANES)
    loader = StreamLoader(config, tiny_tokenizer(), batch_size=LANES, num_workers=num_workers, seed=SEED)
    batch = next(iter(loader))
    assert len(batch["input_ids"]) == LANES
    assert loader.tally.skipped == 0, loader.tally
    loader.close()


def access_time(path: Path, accesses: int = 20_000) -> float:
    """Microseconds that taking one part from the list costs, at random places."""
    parts, rng = read_filelist(path), random.Random(0)
    places = [rng.randrange(len(parts)) for _ in range(accesses)]
    begin = time.perf_counter()
    for place in places:
        parts[place]
    return (time.perf_counter() - begin) / accesses * 1e6


STAGES: dict[str, Callable[[Path, int], None]] = {"file list": list_alone, "first batch": first_batch}


def measure(stage: str, path: Path, num_workers: int) -> None:
    """Prints seconds and MiB; in a process of its own."""
    if stage == "first batch":
        import tests.tiny  # noqa: F401
    before, begin = _memory("VmRSS"), time.perf_counter()
    STAGES[stage](path, num_workers)
    print(time.perf_counter() - begin, _memory("VmHWM") - before, before)


def _memory(field: str) -> float:
    """MiB."""
    text = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith(f"{field}:")) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", type=int, default=5_000_000)
    parser.add_argument("--num_workers", type=int, default=0)
    parser.add_argument("--measure", nargs=2, metavar=("STAGE", "LIST"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        measure(args.measure[0], Path(args.measure[1]), args.num_workers)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = make_list(Path(folder), args.parts)
        print(f"{args.parts} parts, {path.stat().st_size / 1e6:.0f} MB of list")
        print(f"{'until':<14}{'seconds':>9}{'MiB':>7}{'MiB of imports':>17}")
        for stage in STAGES:
            command = [sys.executable, "-m", "tests.benchmarks.many_parts", "--measure", stage, str(path)]
            command += ["--num_workers", str(args.num_workers)]
            answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            seconds, memory, imports = map(float, answer.split()[-3:])
            print(f"{stage:<14}{seconds:>9.2f}{memory:>7.0f}{imports:>17.0f}")
        print(f"taking a part from the list: {access_time(path):.1f} us")


if __name__ == "__main__":
    main()
