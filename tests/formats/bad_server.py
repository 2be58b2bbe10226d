"""An HTTP server on this machine that fails on purpose, and tells what it was asked for."""

from __future__ import annotations

import re
import socket
import struct
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

FAULTS = ("500", "503", "429", "reset", "truncate", "stall", "silent")


class BadServer:
    """Serves `files` by path. Each request for a file takes the next of `faults`; "" is none.

    500 ...: that status. reset, truncate, stall: half of the bytes, then so. silent: not even headers.
    ranges: whether range requests are understood; etags: whether versions are told.
    requests: (path, first byte asked for, fault). It answers as S3 would where a bucket is the first part of a path.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.faults: list[str] = []
        self.requests: list[tuple[str, int, str]] = []
        self.ranges = self.etags = True
        self.version = 1
        self.released = threading.Event()
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args: object) -> None:
                pass

            def do_GET(self) -> None:
                outer._answer(self)

            do_HEAD = do_GET

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign]  # clients that hang up
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()

    def add(self, name: str, data: bytes) -> str:
        """Serve `data`; returns its URL."""
        self.files[f"/{name}"] = data
        return f"{self.url}/{name}"

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", handler.headers.get("Range", ""))
        path = unquote(handler.path.partition("?")[0])
        with self._lock:
            fault = self.faults.pop(0) if self.faults else ""
            self.requests.append((path, int(asked[1]) if asked else 0, fault))
        if fault == "silent":
            self.released.wait(20)
        elif fault.isdigit() or path not in self.files:
            self._refuse(handler, int(fault or 404))
        else:
            data = self.files[path]
            end = int(asked[2]) + 1 if asked and asked[2] else len(data)
            self._send(handler, data, (int(asked[1]), min(end, len(data))) if asked and self.ranges else None, fault)

    def _refuse(self, handler: BaseHTTPRequestHandler, status: int) -> None:
        handler.send_response(status)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    def _send(self, handler: BaseHTTPRequestHandler, data: bytes, part: tuple[int, int] | None, fault: str) -> None:
        start, end = part or (0, len(data))
        body = data[start:end]
        handler.send_response(206 if part else 200)
        handler.send_header("Content-Length", str(len(body)))
        if self.ranges:
            handler.send_header("Accept-Ranges", "bytes")
        if part:
            handler.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(data)}")
        if self.etags:
            handler.send_header("ETag", f'"{self.version}"')
        handler.end_headers()
        if handler.command == "HEAD":
            return
        handler.wfile.write(body[: len(body) // 2] if fault else body)
        handler.wfile.flush()
        if fault == "stall":
            self.released.wait(20)
        if fault == "reset":
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if fault:
            handler.close_connection = True
            handler.connection.close() if fault == "reset" else handler.connection.shutdown(socket.SHUT_RDWR)
