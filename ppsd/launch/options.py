"""What the options of paddle.distributed.launch mean on this machine."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Optional


def check_options(context: Any) -> None:
    """SystemExit with one line for what this launcher does not do, or what would undo the run."""
    args = context.args
    elsewhere = [str(args.master).startswith("etcd://"), args.servers, args.trainers, args.auto_tuner_json]
    if any(elsewhere) or args.run_mode not in (None, "collective") or args.legacy:
        sys.exit(
            "error: only runs with --master HOST:PORT or --ips; python -m paddle.distributed.launch has the others"
        )
    if context.unknown_args:
        sys.exit(f"error: paddle.distributed.launch has no option {context.unknown_args[0]}")
    if restarts_left(args, options_of(sys.argv, args)) and "--overwrite_output_dir" in args.training_script_args:
        sys.exit("error: --max_restart with --overwrite_output_dir would start over each time; leave one of them out")


def options_of(argv: Sequence[str], args: Any) -> list[str]:
    """What stands before the script."""
    return list(argv[1 : len(argv) - len(args.training_script_args) - 1])


def restarts_left(args: Any, options: Sequence[str]) -> int:
    """Restarts must be asked for: paddle's default for --max_restart is 3, and does nothing."""
    asked = any(option.split("=")[0] == "--max_restart" for option in options) or "PADDLE_MAX_RESTART" in os.environ
    return max(0, int(args.max_restart)) if asked else 0


def numeric(master: Optional[str]) -> Optional[str]:
    """ADDRESS:PORT of HOST:PORT: paddle has the machines meet where ADDRESS is this machine's, and knows no names.

    SystemExit for another form, and for a host without an IPv4 address that other machines can reach.
    """
    if not master:
        return None
    host, _, port = master.rpartition(":")
    if not host or not port.isdigit():
        sys.exit(f"error: --master {master}: it must be HOST:PORT")
    try:
        address = socket.gethostbyname(host)
    except OSError:
        sys.exit(f"error: --master {master}: this machine knows no IPv4 address of {host}")
    if address.startswith("127.") and host not in (address, "localhost"):
        sys.exit(f"error: --master {master}: {host} is {address} here; give the address that the others reach it by")
    return f"{address}:{port}"


def use_master(args: Any, address: str) -> None:
    """--ips says what --master, --nnodes and --rank say; only with a master do the machines know of one another."""
    if args.ips and not args.master and "," in args.ips:
        ips = args.ips.split(",")
        if address not in ips:
            sys.exit(f"error: --host {address} is none of --ips {args.ips}")
        args.master, args.nnodes, args.rank = f"{ips[0]}:{args.start_port}", str(len(ips)), ips.index(address)


def own_address(host: Optional[str], ips: Optional[str], master: Optional[str]) -> Optional[str]:
    """The address the other machines reach this one by, where an option tells. Paddle asks for that of the host name.

    SystemExit if none of `--ips` is of this machine: paddle would number it 0 like the first one.
    """
    if host:
        return host
    if ips and not master:
        mine = [ip for ip in ips.split(",") if is_local(ip)]
        if not mine:
            sys.exit(f"error: --ips {ips}: none of them is an address of this machine")
        return mine[0]
    if master:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, suppress(OSError):
            probe.connect((master.rsplit(":", 1)[0], 9))  # sends nothing
            return str(probe.getsockname()[0])
    return None


def is_local(ip: str) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        try:
            probe.bind((ip, 0))
        except OSError:
            return False
    return True


def interface_of(address: str) -> Optional[str]:
    """The network interface whose first IPv4 address it is."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            with suppress(OSError):  # it has no address
                reply = fcntl.ioctl(probe, 0x8915, struct.pack("256s", name.encode()))  # SIOCGIFADDR, see netdevice(7)
                if socket.inet_ntoa(reply[20:24]) == address:
                    return name
    return None
