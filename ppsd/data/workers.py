"""Worker processes that make items ahead of time. Knows neither paddle nor samples.

Each worker is a fork: it starts at once and shares the parent's memory, tokenizer included. It uses no device and runs
no paddle code. Items travel through a pipe, not through shared memory, whose size containers limit. A worker that
dies, however it dies, closes its pipe, so the parent gets an error and never waits in vain; a worker whose parent has
died ends by itself.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import queue
import signal
import sys
import threading
import traceback
import weakref
from collections.abc import Iterable, Iterator, Sequence
from multiprocessing.connection import Connection
from typing import Any, Callable

MakeItems = Callable[[], Iterable[Any]]


class WorkerPool:
    """One process for each of `makers`, which yields its items up to `prefetch` ahead of what is taken."""

    def __init__(self, makers: Sequence[MakeItems], prefetch: int) -> None:
        if "fork" not in multiprocessing.get_all_start_methods():
            raise ValueError("--dataloader_num_workers: this system cannot fork processes; 0 reads without them")
        context = multiprocessing.get_context("fork")
        self._processes: list[Any] = []
        self._readers: list[Connection] = []
        self._stop = weakref.finalize(self, _stop, os.getpid(), self._processes, self._readers)
        for make_items in makers:
            reader, writer = context.Pipe(duplex=False)
            self._readers.append(reader)
            process = context.Process(
                target=_work, args=(make_items, writer, tuple(self._readers), prefetch), daemon=True
            )
            process.start()
            writer.close()
            self._processes.append(process)

    def take(self, worker: int) -> Any:
        """The next item of one worker.

        Raises ValueError with the worker's message when that is what its items raised, RuntimeError for anything else.
        """
        try:
            failure, item = self._readers[worker].recv()
        except (EOFError, OSError):  # OSError: the worker died with half an item written
            self._processes[worker].join(timeout=5)
            raise RuntimeError(f"data worker {worker} died: {_ending(self._processes[worker].exitcode)}") from None
        if failure is not None:
            raise failure
        return item

    def take_in_turn(self, count: int) -> Iterator[Any]:
        """Items for ever: of each `count` in turn, number k comes from worker k modulo the number of workers."""
        while True:
            for index in range(count):
                yield self.take(index % len(self._processes))

    def close(self) -> None:
        """End all workers; whatever they had prepared is lost."""
        self._stop()


def _stop(owner: int, processes: list[Any], readers: list[Connection]) -> None:
    if os.getpid() != owner:  # a forked copy of the pool
        return
    for process in processes:
        process.kill()
    for process in processes:
        process.join()
    for reader in readers:
        reader.close()


def _ending(exitcode: int | None) -> str:
    if exitcode == -signal.SIGKILL:
        return "it was killed, which the system does when memory runs out"
    return f"signal {-exitcode}" if exitcode is not None and exitcode < 0 else f"exit code {exitcode}"


def _work(make_items: MakeItems, writer: Connection, readers: Sequence[Connection], prefetch: int) -> None:
    """The life of a worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends its workers
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for reader in readers:
        reader.close()
    gc.freeze()  # never run the destructors of what the parent owns, such as device memory
    items: queue.Queue[Any] = queue.Queue(maxsize=prefetch)
    sender = threading.Thread(target=_send, args=(items, writer), daemon=True)
    sender.start()
    try:
        for item in make_items():
            items.put((None, item))
    except ValueError as error:
        items.put((ValueError(str(error)), None))
    except Exception:  # noqa: BLE001  it is raised in the parent
        items.put((RuntimeError(f"data worker failed:\n{traceback.format_exc()}"), None))
    items.put(None)
    sender.join()


def _send(items: queue.Queue[Any], writer: Connection) -> None:
    """Send items until None; ends the process when that is impossible."""
    try:
        while (item := items.get()) is not None:
            writer.send(item)
    except (BrokenPipeError, ConnectionResetError):
        os._exit(0)  # the parent is gone
    except Exception:  # noqa: BLE001  without a sender the worker must not live on
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
