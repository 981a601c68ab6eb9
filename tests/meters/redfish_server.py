"""A Redfish service on loopback, as tests need one: https with a certificate made on the spot."""

from __future__ import annotations

import base64
import json
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


@dataclass
class Bmc:
    """What the service answers. A value that is bytes is sent as it is; a callable sends itself."""

    resources: dict[str, Any]
    login: tuple[str, str] | None = None
    asked: list[str] = field(default_factory=list)
    address: str = ""
    certificate: Path | None = None


def resources(watts: object = 512) -> dict[str, Any]:
    """A server with one chassis that is metered and one that is not."""
    listed = [{"@odata.id": f"/redfish/v1/Chassis/{name}"} for name in ("1", "Backplane")]
    return {
        "/redfish/v1/Chassis": {"Members": listed},
        "/redfish/v1/Chassis/1/Power": {
            "PowerControl": [{"Name": "System", "PowerConsumedWatts": watts}]
        },
    }


@contextmanager
def serving(bmc: Bmc, folder: Path | None = None) -> Iterator[Bmc]:
    """Serve it; over https where a folder for the certificate is given."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            bmc.asked.append(self.path)
            answer = bmc.resources.get(self.path, 404)
            if bmc.login is not None:
                token = base64.b64encode(":".join(bmc.login).encode()).decode()
                if self.headers.get("Authorization") != f"Basic {token}":
                    answer = 401
            if callable(answer):
                answer(self)
            elif isinstance(answer, int):
                self._send(answer, b"{}")
            elif isinstance(answer, str):
                self._send(302, b"", answer)
            else:
                content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                self._send(200, content)

        def _send(self, status: int, content: bytes, location: str = "") -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            if location:
                self.send_header("Location", location)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    scheme = "http"
    if folder is not None:
        bmc.certificate = certificate(folder)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(bmc.certificate, folder / "key.pem")
        server.socket = context.wrap_socket(server.socket, server_side=True)
        scheme = "https"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    bmc.address = f"{scheme}://127.0.0.1:{server.server_port}"
    try:
        yield bmc
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def certificate(folder: Path) -> Path:
    """A certificate of 127.0.0.1 signed by itself; its key lies in `key.pem`."""
    made = folder / "certificate.pem"
    words = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 "
        "-subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1"
    )
    files = ["-keyout", str(folder / "key.pem"), "-out", str(made)]
    subprocess.run([*words.split(), *files], check=True, capture_output=True)
    return made


def endless(sent: list[int]) -> Callable[[BaseHTTPRequestHandler], None]:
    """An answer of 256 MiB; `sent` gets how much of it was taken."""

    def send(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(256 << 20))
        handler.end_headers()
        sent.append(0)
        try:
            while sent[-1] < 256 << 20:
                handler.wfile.write(b" " * (64 << 10))
                sent[-1] += 64 << 10
        except OSError:
            return  # the reader left, as it should

    return send


def dripping(handler: BaseHTTPRequestHandler) -> None:
    """An answer of a byte every 20 ms that would take a minute."""
    handler.send_response(200)
    handler.send_header("Content-Length", "3000")
    handler.end_headers()
    try:
        for _ in range(3000):
            handler.wfile.write(b" ")
            handler.wfile.flush()
            time.sleep(0.02)
    except OSError:
        return  # the reader left, as it should
