"""A web service of blocking threads that claims: one program, shared by all of them.

    python threads.py shop --port 8081
    curl -s localhost:8081/claim -d '{"code": "…", "user": "ann", "visit": "v-1"}'

Whoever calls it names the user, so it listens on this machine only.
"""

from __future__ import annotations

import argparse
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import msgspec

import scanengine


class Handler(BaseHTTPRequestHandler):
    """Answers one connection, in a thread of its own."""

    program: scanengine.Program

    def do_POST(self) -> None:
        """Claim a code for a user."""
        try:
            body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))))
            answer = self.program.claim(body["code"], user=body["user"], visit=body.get("visit"))
        except (ValueError, KeyError, TypeError) as error:  # A ScanError, which names the field, is a ValueError.
            self.reply(400, {"error": str(error)})
            return
        # The outcome is unknown: the caller asks again with the same visit, and gets the same answer as if it had come.
        status = 503 if answer.is_pending else 200
        self.reply(status, msgspec.to_builtins(answer.public()))

    def reply(self, status: int, value: object) -> None:
        """Write a reply."""
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Write nothing: the request may hold a code, which is worth money."""


def main() -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser()
    parser.add_argument("workspace")
    parser.add_argument("--port", type=int, default=8081)
    arguments = parser.parse_args()
    with scanengine.open(arguments.workspace) as Handler.program:
        server = ThreadingHTTPServer(("127.0.0.1", arguments.port), Handler)
        print(f"http://127.0.0.1:{server.server_port}", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            server.server_close()  # Waits for the threads, so that every claim is answered before the ledger is closed.


if __name__ == "__main__":
    main()
