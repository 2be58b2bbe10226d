"""Every quirk of paddle, paddlenlp and ppdiffusers that ppsd works around, each with the versions it was seen in.

Each room that knows paddle calls `apply()` when it is imported, before anything of the stack is.
"""

from __future__ import annotations

import itertools
import logging
import os
import sys
import tempfile
import time
import warnings
import zlib  # noqa: F401  paddle 2.6.2 exports zlib's symbols: a gzip module loaded after it crashes the process
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Optional

# Said at every start by paddle 3.3.1 and paddlenlp 2.8.1, and nothing that a user of ppsd could act on.
for _message in ("No ccache found", "Setuptools is replacing distutils"):
    warnings.filterwarnings("ignore", message=_message)

import paddle  # noqa: E402  after the filters
from paddle.nn import LayerNorm, functional  # noqa: E402
from paddlenlp.transformers.conversion_utils import ConversionMixin  # noqa: E402

_layer_norm_forward: Callable[[LayerNorm, paddle.Tensor], paddle.Tensor] = LayerNorm.forward
_convert: Callable[..., dict[str, Any]] = ConversionMixin.convert.__func__


def apply() -> None:
    """Install the cures that work by replacing a method. Safe to call again."""
    LayerNorm.forward = _forward_with_frozen_weight
    ConversionMixin.convert = classmethod(_convert_in_memory)


def _forward_with_frozen_weight(self: LayerNorm, input: paddle.Tensor) -> paddle.Tensor:
    """LayerNorm with a right gradient through a frozen weight. x [..., *normalized_shape] -> the same shape.

    paddle 2.6.2 to 3.3.1, CPU: the kernel's backward takes a weight that needs no gradient for 1. Left to the kernel
    without it, normalisation is right, so weight and bias are applied outside. Other devices keep their one kernel.
    """
    weight = self.weight
    if weight is None or not weight.stop_gradient or input.stop_gradient or not input.place.is_cpu_place():
        return _layer_norm_forward(self, input)
    shape = self._normalized_shape
    scaled = functional.layer_norm(input, shape, None, None, self._epsilon) * weight.reshape(shape)
    return scaled if self.bias is None else scaled + self.bias.reshape(shape)


def _convert_in_memory(cls: Any, weight_file: str, config: Any, cache_dir: str) -> dict[str, Any]:
    """Convert the torch weights of a text encoder and leave the folder they are read from alone.

    paddlenlp 2.8.1 writes what it converted into that folder: an error where it is read-only, a race between processes.
    It skips the writing where the file is already there.
    """
    with tempfile.TemporaryDirectory() as scratch:
        Path(scratch, "model_state.pdparams").touch()
        return _convert(cls, weight_file, config, scratch)


def generator_numbers(state: Any) -> list[Any]:
    """The state of one of paddle's random generators as JSON: three numbers, and with paddle 3.3.1 a text, too."""
    return [bytes(part).decode("ascii") if isinstance(part, list) else part for part in state.__getstate__()]


def generator_state(like: Any, numbers: Sequence[Any]) -> Optional[Any]:
    """What `generator_numbers` was given; `like` is a state of this paddle. None if another paddle's does not fit."""
    if [type(part) for part in numbers] != [type(part) for part in generator_numbers(like)]:
        return None
    made: Any = type(like)
    state = made.__new__(made)
    state.__setstate__(tuple(list(part.encode("ascii")) if isinstance(part, str) else part for part in numbers))
    return state


def keep_float32(layer: paddle.nn.Layer) -> None:
    """Have AMP O2 (`paddle.amp.decorate`) leave the weights of a layer and its sublayers as they are.

    paddlenlp 2.8.1 gives no say in it, and the mark that `decorate` looks for is misspelled in paddle 2.6.2.
    """
    for each in layer.sublayers(include_self=True):
        each._cast_to_low_precision = each._cast_to_low_precison = False


def require_recompute() -> None:
    """ValueError where recomputation does not work: paddle 2.6.2 on the CPU fails in the middle of the first step."""
    from paddle.distributed.fleet.utils import recompute

    x = paddle.ones([1])
    x.stop_gradient = False
    try:
        recompute(paddle.nn.functional.relu, x, use_reentrant=False)  # as ppdiffusers calls it
    except RuntimeError as error:
        raise ValueError(
            f"--recompute: paddle {paddle.__version__} cannot recompute on {paddle.device.get_device()}; leave it out"
        ) from error


def use_fused_linear() -> None:
    """Have models built from here on use cuBLASLt's fused matmul and bias (FLAG_FUSED_LINEAR of the public recipe).

    ValueError where the device or the build has no such kernel: any CPU, and CUDA before 11.6.
    """
    from paddle.incubate.nn import FusedLinear

    try:
        FusedLinear(8, 8)(paddle.zeros([8, 8]))
    except (RuntimeError, AttributeError) as error:  # without CUDA, paddle 2.6.2 lacks even the attribute
        device = paddle.device.get_device()
        raise ValueError(
            f"FLAG_FUSED_LINEAR needs a GPU and a paddle built with CUDA 11.6 or later; "
            f"paddle {paddle.__version__} on {device} has no fused linear kernel. Leave the flag off here"
        ) from error
    paddle.nn.Linear = FusedLinear


def first_alone(work: Callable[[], Any]) -> None:
    """Do `work` in the first process of a run; the others wait for it, however long it takes, and do none.

    Collectives time out: with paddle 3.3.1 and gloo after 30 s. So the others ask the store that the processes met at.
    Raises what `work` raises, and in the others ValueError when the first process has ended.
    """
    if not paddle.distributed.is_initialized():
        work()
        return
    from paddle.base import core

    store, key = core.create_or_get_global_tcp_store(), f"ppsd/first_alone/{next(_turns)}"
    if paddle.distributed.get_rank() == 0:
        work()
        store.add(key, 1)
    try:
        while not store.add(key, 0):
            time.sleep(0.1)
    except (ValueError, RuntimeError) as error:  # the store ends with the first process
        raise ValueError("the first process has ended; its log says why") from error


def meet() -> None:
    """Wait until all processes of a run have come here, however long that takes: a barrier would time out (see above).

    Raises ValueError when the first process has ended.
    """
    if not paddle.distributed.is_initialized():
        return
    from paddle.base import core

    store, key = core.create_or_get_global_tcp_store(), f"ppsd/meet/{next(_turns)}"
    try:
        store.add(key, 1)
        while store.add(key, 0) < paddle.distributed.get_world_size():
            time.sleep(0.1)
    except (ValueError, RuntimeError) as error:  # the store ends with the first process
        raise ValueError("the first process has ended; its log says why") from error


_turns = itertools.count()


def leave_process_group(code: int = 0) -> None:
    """End a process of a distributed run that has done all its work, with exit code `code`. Alone: does nothing.

    Seen with paddle 3.3.1 and gloo: about one launch in 30 aborts (exit code -6) while its threads are taken down after
    the last line of Python, because a peer has left before.
    """
    if not paddle.distributed.is_initialized():
        return
    first_alone(_finish_wandb)  # and it may still be writing the result, for longer than a barrier waits
    paddle.distributed.barrier()
    _exit(code)


def abandon_process_group(code: int, message: str) -> None:
    """End a process of a distributed run that has failed, without waiting for the others. Alone: does nothing.

    After an error the interpreter's own end may abort in the threads that talk to them (paddle 3.3.1, gloo).
    """
    if paddle.distributed.is_initialized():
        sys.stderr.write(f"{message}\n")
        _exit(code)


def _exit(code: int) -> None:
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _finish_wandb() -> None:
    """Send what --report_to wandb has yet to send, which it leaves to the interpreter's end."""
    wandb = sys.modules.get("wandb")
    if wandb is not None and wandb.run is not None:
        wandb.finish()
