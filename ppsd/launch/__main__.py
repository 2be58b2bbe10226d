"""The command line: `python -m ppsd.launch`."""

from __future__ import annotations

import os
import sys
from typing import Any, NoReturn

from paddle.distributed.launch.context import Context

from ppsd.launch.launcher import STOPPED, Launcher
from ppsd.launch.options import check_options, interface_of, numeric, options_of, own_address, restarts_left, use_master

WRONG_FLAGS = 2


def main() -> NoReturn:
    """Run the processes of this machine, again where --max_restart says so. Exits with their code."""
    context = Context()
    check_options(context)
    if context.args.nnodes != "1":
        context.args.master = numeric(context.args.master)
    address = own_address(context.args.host, context.args.ips, context.args.master)
    if address:
        context.node.ip = address
        interface = interface_of(address)
        if interface:  # else gloo tells the others the address that this machine's name has here: often the loopback's
            context.envs.setdefault("GLOO_SOCKET_IFNAME", interface)
    use_master(context.args, context.node.ip)
    launcher = Launcher(context)
    launcher.run()
    code = launcher.end()
    left = restarts_left(context.args, options_of(sys.argv, context.args))
    if left and can_be_mended(code) and not launcher.signals:
        context.logger.warning(f"starting the processes again; that may happen {left - 1} times more")
        start_again(left - 1, context.args)
    sys.exit(code)


def can_be_mended(code: int) -> bool:
    """Whether the same command, started again, may get further."""
    return code not in (0, WRONG_FLAGS, STOPPED)


def start_again(left: int, args: Any) -> NoReturn:
    """This process becomes a new launcher: it meets the other machines as at the start."""
    os.environ.pop("PADDLE_MAX_RESTART", None)
    options = [*options_of(sys.argv, args), "--max_restart", str(left)]
    command = [sys.executable, "-m", "ppsd.launch", *options, args.training_script]
    os.execv(sys.executable, [*command, *args.training_script_args])


if __name__ == "__main__":
    main()
