"""Worker processes that make items ahead of time. Knows neither paddle nor samples.

Each worker is a fork: it starts at once and shares the parent's memory, tokenizer included. It uses no device and runs
no paddle code. The arrays of an item travel through anonymous shared memory, which is not that of /dev/shm, whose size
containers limit; the rest of it through a pipe. A worker that dies, however it dies, closes its pipe, so the parent
gets an error and never waits in vain; a worker whose parent has died ends by itself.
"""

from __future__ import annotations

import gc
import mmap
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import traceback
import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any, Callable

MakeItems = Callable[[], Iterable[Any]]


_ALIGNMENT = 64


class WorkerPool:
    """One process for each of `makers`, which yields its items up to `prefetch` ahead of what is taken.

    The arrays of an item that was taken are valid until `keep` more were taken from its worker. Items whose arrays have
    more than `slot_bytes` bytes together travel through the pipe, too.
    """

    def __init__(self, makers: Sequence[MakeItems], prefetch: int, keep: int = 1, slot_bytes: int = 2**22) -> None:
        if "fork" not in multiprocessing.get_all_start_methods():
            raise ValueError("--dataloader_num_workers: this system cannot fork processes; 0 reads without them")
        context = multiprocessing.get_context("fork")
        self._processes: list[Any] = []
        self._ends: list[tuple[Connection, Connection]] = []  # items come from the first, slots go back by the second
        self._slots: list[Slots] = []
        self._taken = [0] * len(makers)
        self._keep = keep
        self._stop = weakref.finalize(self, _stop, os.getpid(), self._processes, self._ends)
        for make_items in makers:
            reader, writer = context.Pipe(duplex=False)
            credits, returns = context.Pipe(duplex=False)
            self._ends.append((reader, returns))
            self._slots.append(Slots(prefetch + keep, slot_bytes))
            parents = [end for ends in self._ends for end in ends]
            process = context.Process(
                target=_work, args=(make_items, writer, credits, self._slots[-1], parents), daemon=True
            )
            # what threads the fork begins by itself (paddle 2.6.2 has one) must not take the signal either
            before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
            process.start()
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            writer.close()
            credits.close()
            self._processes.append(process)

    def take(self, worker: int) -> Any:
        """The next item of one worker.

        Raises ValueError with the worker's message when that is what its items raised, RuntimeError for anything else.
        """
        reader, returns = self._ends[worker]
        if self._taken[worker] >= self._keep:
            with suppress(BrokenPipeError):  # what a worker sent before it ended is still to be had
                os.write(returns.fileno(), b".")
        try:
            message = reader.recv_bytes()
            self._taken[worker] += 1
        except (EOFError, OSError):  # OSError: the worker died with half an item written
            self._processes[worker].join(timeout=5)
            raise RuntimeError(f"data worker {worker} died: {_ending(self._processes[worker].exitcode)}") from None
        failure, item = self._slots[worker].load(message, self._taken[worker] - 1)
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


class Slots:
    """Shared memory for the arrays of `count` items of a worker; item number n uses slot n modulo `count`."""

    def __init__(self, count: int, slot_bytes: int) -> None:
        self.count, self._bytes = count, slot_bytes
        self._memory = memoryview(mmap.mmap(-1, count * slot_bytes))  # its pages are taken when they are first written

    def dump(self, item: Any, number: int) -> bytes:
        """A message from which `load` gives the item back, and in a slot the arrays that it refers to."""
        buffers: list[pickle.PickleBuffer] = []
        data = pickle.dumps(item, protocol=5, buffer_callback=buffers.append)
        arrays = [buffer.raw() for buffer in buffers]
        sizes = [array.nbytes for array in arrays]
        if sum(map(_aligned, sizes)) > self._bytes:
            return pickle.dumps((pickle.dumps(item, protocol=5), []))
        place = number % self.count * self._bytes
        for array in arrays:
            self._memory[place : place + array.nbytes] = array
            place += _aligned(array.nbytes)
        return pickle.dumps((data, sizes))

    def load(self, message: bytes, number: int) -> Any:
        """The item, whose arrays are views of the slot."""
        data, sizes = pickle.loads(message)
        place = number % self.count * self._bytes
        views = []
        for size in sizes:
            views.append(self._memory[place : place + size])
            place += _aligned(size)
        return pickle.loads(data, buffers=views)


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def _stop(owner: int, processes: list[Any], ends: list[tuple[Connection, Connection]]) -> None:
    if os.getpid() != owner:  # a forked copy of the pool
        return
    for process in processes:
        process.kill()
    for process in processes:
        process.join()
    for reader, returns in ends:
        reader.close()
        returns.close()


def _ending(exitcode: int | None) -> str:
    if exitcode == -signal.SIGKILL:
        return "it was killed, which the system does when memory runs out"
    return f"signal {-exitcode}" if exitcode is not None and exitcode < 0 else f"exit code {exitcode}"


def _end_by_sigterm_of(parent: int) -> None:
    """From all others it is ignored: launchers and schedulers send SIGTERM to every process of a run, and the parent
    still needs data until it has saved."""
    threading.Thread(target=_await_sigterm, args=(parent,), daemon=True).start()


def _await_sigterm(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(128 + signal.SIGTERM)


def _work(
    make_items: MakeItems, writer: Connection, credits: Connection, slots: Slots, parents: Sequence[Connection]
) -> None:
    """The life of a worker."""
    for sent_to_all in (signal.SIGINT, signal.SIGHUP):  # Ctrl-C and a closed terminal reach the whole group;
        signal.signal(sent_to_all, signal.SIG_IGN)  # the parent ends its workers
    _end_by_sigterm_of(os.getppid())
    for end in parents:
        end.close()
    gc.freeze()  # never run the destructors of what the parent owns, such as device memory
    try:
        for number, result in enumerate(_results(make_items)):
            if number >= slots.count and not os.read(credits.fileno(), 1):
                break  # the parent is gone
            writer.send_bytes(slots.dump(result, number))
    except (BrokenPipeError, ConnectionResetError):
        pass  # the parent is gone
    except Exception:  # noqa: BLE001  what cannot be sent
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)  # nothing of the parent's that is registered to run at the end may run here


def _results(make_items: MakeItems) -> Iterator[tuple[Exception | None, Any]]:
    """The items, each with None, and at last what they raised."""
    try:
        for item in make_items():
            yield None, item
    except ValueError as error:
        yield ValueError(str(error)), None
    except Exception:  # noqa: BLE001  it is raised in the parent
        yield RuntimeError(f"data worker failed:\n{traceback.format_exc()}"), None
