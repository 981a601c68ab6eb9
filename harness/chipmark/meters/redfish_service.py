"""A Redfish service: JSON by GET, within limits, from the host that was named and no other.

The password comes from the environment alone and is in no error, log or record: an address with
a password in it is refused without being repeated. TLS is verified unless the user says no, and
plain HTTP is for this machine itself.
"""

from __future__ import annotations

import base64
import http.client
import ipaddress
import os
import socket
import ssl
import threading
import time
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urljoin, urlsplit

from chipmark.errors import BadInputError, ChipmarkError, UsageError
from chipmark.meters.choice import MeterChoice
from chipmark_models.foreign_file import MIB, parse_json
from chipmark_models.plain_text import one_line

PASSWORD = "CHIPMARK_REDFISH_PASSWORD"
"""The variable of the environment that holds it."""

LIMIT_S = 5.0
"""Of one answer, all of its redirects included."""

MOST_BYTES = MIB
_REDIRECTS = 3
_MOVED = (301, 302, 303, 307, 308)
_NOT_THERE = (404, 405, 501)
_EXAMPLE = "for example --meter redfish:https://bmc.example,user=monitor"


class ServiceError(ChipmarkError):
    """The service does not answer, or not as it should; its message has no address."""


@dataclass(slots=True)
class RedfishService:
    """One controller. `address` is for people; it holds no user and no password."""

    address: str
    host: str
    port: int
    context: ssl.SSLContext | None
    """None for plain HTTP."""
    verifies: bool
    user: str
    authorization: str = field(repr=False)
    limit_s: float = LIMIT_S
    _connection: http.client.HTTPConnection | None = field(default=None, repr=False)

    @classmethod
    def of(cls, choice: MeterChoice) -> RedfishService:
        """The service that `--meter redfish:ADDRESS,...` names; raises UsageError."""
        try:
            parts = urlsplit(choice.target)
            port, host = parts.port, parts.hostname or ""
        except ValueError:
            raise UsageError("--meter redfish has an address that is none", _EXAMPLE) from None
        if parts.username is not None or parts.password is not None or "@" in parts.netloc:
            raise UsageError(
                "--meter redfish has a user or a password in its address",
                f"give user=NAME, and the password in {PASSWORD}",
            )
        if parts.scheme not in ("https", "http") or not host or parts.path not in ("", "/"):
            shown = one_line(choice.target, 80) or "no address"
            raise UsageError(f"--meter redfish names {shown}", _EXAMPLE)
        if parts.scheme == "http" and not _is_this_machine(host):
            raise UsageError(
                f"--meter redfish:http://{one_line(host, 80)} would send user and password in the "
                "clear",
                "use https:// (verify=no where the certificate is the controller's own)",
            )
        verify = choice.options.get("verify", "yes")
        if verify not in ("yes", "no"):
            raise UsageError(f"--meter redfish has verify={one_line(verify, 40)}", "yes or no")
        verifies = verify == "yes"
        context = None
        if parts.scheme == "https":
            context = _context(verifies, choice.options.get("ca", ""))
        port = port or (443 if context else 80)
        shown_host = f"[{host}]" if ":" in host else host
        user = choice.options.get("user", "")
        return cls(
            address=f"{parts.scheme}://{shown_host}:{port}",
            host=host,
            port=port,
            context=context,
            verifies=verifies or context is None,
            user=user,
            authorization=_authorization(user),
        )

    def get(self, path: str) -> dict[str, Any]:
        """The JSON object at a path. ServiceError where there is none."""
        document = self.find(path)
        if document is None:
            raise ServiceError(f"{one_line(path, 120)} is not there")
        return document

    def find(self, path: str) -> dict[str, Any] | None:
        """As `get`; None where the service says that there is no such resource."""
        until = time.monotonic() + self.limit_s
        for _ in range(_REDIRECTS + 1):
            path, kept = self._checked(path), self._connection is not None
            try:
                status, location, content = self._answer(path, until)
            except (OSError, http.client.HTTPException) as error:
                self.close()
                if kept and isinstance(error, ConnectionError):
                    continue  # controllers end a connection that was idle
                raise self._unreachable(error, until) from error
            if status in _MOVED and location:
                path = self._moved(path, location)
                continue
            return self._document(path, status, content)
        raise ServiceError(f"{one_line(path, 120)} is redirected over {_REDIRECTS} times")

    def close(self) -> None:
        """End the connection; the next `get` opens one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _answer(self, path: str, until: float) -> tuple[int, str, bytes]:
        left_s = until - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        connection = self._opened(left_s)
        # The time limit of a socket is that of one packet: a byte a second would never end.
        guard = threading.Timer(max(0.0, until - time.monotonic()), _cut, [connection])
        guard.daemon = True
        guard.start()
        try:
            headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
            if self.authorization:
                headers["Authorization"] = self.authorization
            connection.request("GET", path, headers=headers)
            response = connection.getresponse()
            content = response.read(MOST_BYTES + 1)
            if len(content) <= MOST_BYTES and (response.length or time.monotonic() >= until):
                self.close()
                raise TimeoutError if time.monotonic() >= until else ConnectionAbortedError("cut")
            if len(content) > MOST_BYTES or response.will_close:
                self.close()
            return response.status, response.headers.get("Location", ""), content
        finally:
            guard.cancel()

    def _opened(self, left_s: float) -> http.client.HTTPConnection:
        if self._connection is None:
            connection: http.client.HTTPConnection
            if self.context is not None:
                connection = http.client.HTTPSConnection(
                    self.host, self.port, timeout=left_s, context=self.context
                )
            else:
                connection = http.client.HTTPConnection(self.host, self.port, timeout=left_s)
            connection.connect()
            self._connection = connection
        elif self._connection.sock is not None:
            self._connection.sock.settimeout(left_s)
        return self._connection

    def _checked(self, path: str) -> str:
        if not path.startswith("/") or path.startswith("//") or not path.isascii():
            raise ServiceError(f"{one_line(path, 120)!r} is not a path of the service")
        if any(character <= " " or character == "\x7f" for character in path):
            raise ServiceError(f"{one_line(path, 120)!r} is not a path of the service")
        return path

    def _moved(self, path: str, location: str) -> str:
        try:
            there = urlsplit(urljoin(f"{self.address}{path}", location))
            port = there.port or {"https": 443, "http": 80}.get(there.scheme)
        except ValueError:
            raise ServiceError("it redirects to an address that is none") from None
        scheme = "https" if self.context is not None else "http"
        if (there.scheme, there.hostname, port) != (scheme, self.host.lower(), self.port):
            raise ServiceError(
                f"it redirects to {one_line(there.hostname or 'nowhere', 80)}, another service, "
                "which is refused",
                "name the service itself with --meter redfish:https://BMC",
            )
        return there.path + (f"?{there.query}" if there.query else "")

    def _document(self, path: str, status: int, content: bytes) -> dict[str, Any] | None:
        shown = one_line(path, 120)
        if status in (401, 403):
            who = f"the user {one_line(self.user, 40)}" if self.user else "a caller without a name"
            raise ServiceError(
                f"it refuses {who} (HTTP {status} for {shown})",
                f"give user=NAME, and the password in {PASSWORD}",
            )
        if status in _NOT_THERE:
            return None
        if status != 200:
            raise ServiceError(f"it answers HTTP {status} for {shown}")
        if len(content) > MOST_BYTES:
            raise ServiceError(f"its answer for {shown} has over {MOST_BYTES:,} bytes")
        try:
            document = parse_json(content, shown)
        except BadInputError as error:
            raise ServiceError(f"its answer for {shown}: {error.problem}") from error
        if not isinstance(document, dict):
            raise ServiceError(f"its answer for {shown} is not a JSON object")
        return document

    def _unreachable(self, error: Exception, until: float) -> ServiceError:
        if isinstance(error, ssl.SSLCertVerificationError):
            return ServiceError(
                f"its certificate does not verify: {one_line(error.verify_message, 120)}",
                "give ca=FILE with the certificate that signed it, or verify=no",
            )
        if isinstance(error, TimeoutError) or time.monotonic() >= until:
            return ServiceError(f"it took over {self.limit_s:g} s to answer")
        return ServiceError(
            f"it cannot be asked: {one_line(str(error) or type(error).__name__, 120)}"
        )


def _authorization(user: str) -> str:
    password = os.environ.get(PASSWORD, "")
    if not user:
        return ""
    if not password:
        raise UsageError(
            f"--meter redfish has user={one_line(user, 40)} and no password",
            f"put it into the environment as {PASSWORD}",
        )
    token = base64.b64encode(f"{user}:{password}".encode()).decode()
    return f"Basic {token}"


def _context(verifies: bool, ca: str) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=ca or None)
    except (OSError, ssl.SSLError) as error:
        raise UsageError(
            f"--meter redfish has ca={one_line(ca, 80)}, which is not a certificate ({error})",
            "give a PEM file",
        ) from error
    if not verifies:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _is_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _cut(connection: http.client.HTTPConnection) -> None:
    """End a connection whose answer is late: what reads from it sees an end."""
    if connection.sock is None:
        return
    try:
        connection.sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # it has ended
