"""nginx with one worker that answers ``return 200`` and a body of a fixed length; the body sent to it is discarded.

python nginx.py BYTES
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CONFIGURATION = """\
daemon off;
worker_processes 1;
pid nginx.pid;
error_log stderr error;
{user}
events {{ worker_connections 1024; }}
http {{
  access_log off;
  keepalive_requests 1000000000;
  client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi;
  scgi_temp_path scgi;
  default_type application/json;
  server {{ listen 127.0.0.1:{port} backlog=1024; location / {{ return 200 "{body}"; }} }}
}}
"""
WAIT_S = 20.0


def main() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="nginx-peer-") as folder:
        path = Path(folder) / "nginx.conf"
        # As root nginx gives its worker to another user, who has no business in this folder.
        user = "user root;" if os.getuid() == 0 else ""
        path.write_text(CONFIGURATION.format(user=user, port=port, body="x" * int(sys.argv[1])))
        server = subprocess.Popen(["nginx", "-p", folder, "-c", str(path), "-e", "stderr"])
        signal.signal(signal.SIGTERM, lambda *_: server.terminate())
        due = time.monotonic() + WAIT_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except ConnectionRefusedError:
                assert server.poll() is None, "nginx ended"
                assert time.monotonic() < due, "nginx does not answer"
                time.sleep(0.05)
        print(port, flush=True)
        server.wait()


if __name__ == "__main__":
    main()
