"""Toxiproxy between a client and a server of ours: delays, cut connections, bandwidth limits, for tests and demos.

Toxics are those of Toxiproxy: `latency` (latency, jitter in ms), `bandwidth` (rate in KB/s), `slow_close`, `timeout` (ms; 0 holds for ever), `reset_peer`
(ms), `slicer`, `limit_data` (bytes).
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Literal

from localcloud.assets import binary
from localcloud.home import Home
from localcloud.process import Service

_LOOPBACK = "127.0.0.1"
_NAME = "toxiproxy"


class ToxiproxyError(RuntimeError):
    """Toxiproxy refused a request; the message is its answer."""


@dataclass(frozen=True)
class Proxy:
    """One listening address that forwards to one upstream, as long as it is enabled."""

    server: Toxiproxy
    name: str
    listen: str
    upstream: str

    @property
    def url(self) -> str:
        """The proxy's address as an HTTP URL."""
        return f"http://{self.listen}"

    def add(
        self,
        kind: str,
        *,
        name: str = "",
        stream: Literal["upstream", "downstream"] = "downstream",
        toxicity: float = 1.0,
        **attributes: int,
    ) -> None:
        """Add the toxic `kind` with its attributes to a stream; `toxicity` is the share of connections that get it.

        Raises:
            ToxiproxyError: an unknown kind, or the name is taken.
        """
        toxic = {"name": name or f"{kind}-{stream}", "type": kind, "stream": stream, "toxicity": toxicity, "attributes": attributes}
        self.server.request("POST", f"/proxies/{self.name}/toxics", toxic)

    def remove(self, name: str) -> None:
        """Remove a toxic by its name (default name: KIND-STREAM)."""
        self.server.request("DELETE", f"/proxies/{self.name}/toxics/{name}")

    def cut(self) -> None:
        """Close the listener and every connection: connection refused from now on."""
        self.server.request("POST", f"/proxies/{self.name}", {"enabled": False})

    def heal(self) -> None:
        """Enable it and remove every toxic."""
        toxics = self.server.request("GET", f"/proxies/{self.name}/toxics")
        assert isinstance(toxics, list)
        for toxic in toxics:
            self.remove(toxic["name"])
        self.server.request("POST", f"/proxies/{self.name}", {"enabled": True})


@dataclass(frozen=True)
class Toxiproxy:
    """The proxy server of a home."""

    home: Home

    def up(self) -> None:
        """Start it if it does not run.

        Raises:
            ServiceError: it did not come up.
        """
        self.service().start()

    def down(self) -> None:
        self.service().stop()

    def proxy(self, name: str, upstream: str, *, address: str = _LOOPBACK, port: int = 0) -> Proxy:
        """A proxy to `upstream` (HOST:PORT), made at the first call and without toxics; port 0 means a free one of this home."""
        listen = f"{address}:{port or self.home.port(f'{_NAME}.{name}')}"
        known = self.request("GET", "/proxies")
        assert isinstance(known, dict)
        if name not in known:
            self.request("POST", "/proxies", {"name": name, "listen": listen, "upstream": upstream, "enabled": True})
        proxy = Proxy(self, name, listen, upstream)
        proxy.heal()
        return proxy

    def service(self) -> Service:
        command = [str(binary("toxiproxy-server")), f"-host={_LOOPBACK}", f"-port={self.home.port(_NAME)}"]
        return Service(self.home, _NAME, command, ready=self._ready, stop_timeout=2)

    def request(self, method: str, path: str, body: object = None) -> object:
        """One call of Toxiproxy's own HTTP interface; its JSON answer, or None.

        Raises:
            ToxiproxyError: it refused.
        """
        data = None if body is None else json.dumps(body).encode()
        url = f"http://{_LOOPBACK}:{self.home.port(_NAME)}{path}"
        request = urllib.request.Request(url, data=data, method=method, headers={"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                content = answer.read()
        except urllib.error.HTTPError as error:
            raise ToxiproxyError(f"{method} {path}: {error.code} {error.read().decode(errors='replace').strip()}") from error
        return json.loads(content) if content else None

    def _ready(self) -> bool:
        try:
            self.request("GET", "/proxies")
        except OSError:
            return False
        return True
