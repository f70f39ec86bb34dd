"""A server for the client of Weights & Biases, which can stop."""

import contextlib
import gzip
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

__all__ = ["serving"]

PROJECT = {"id": "cA==", "name": "p", "entity": {"id": "ZQ==", "name": "e"}}
BUCKET = {"id": "aWQ=", "displayName": "r", "description": "", "config": "{}", "sweepName": None}
ANSWERS: dict[str, dict[str, Any]] = {
    "query Viewer": {
        "viewer": {"id": "u", "entity": "e", "username": "u", "flags": "{}", "teams": {"edges": []}}
    },
    "query ServerFeatures": {"serverInfo": {"features": []}},
    "query OrganizationCore": {"entity": {"organization": {"coreWeaveOrganizationId": None}}},
    "mutation CreateRunFiles": {"createRunFiles": {"runID": "aWQ=", "uploadHeaders": [], "files": []}},
}
"""By the beginning of a request."""


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        answer = {"data": _answer(json.loads(body))} if self.path == "/graphql" else {"limits": {}}
        text = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *words: Any) -> None:
        """Nothing is printed."""


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    text = request["query"].strip()
    if text.startswith("mutation UpsertBucket"):
        name = request["variables"].get("name")
        bucket = BUCKET | {"name": name, "historyLineCount": 0, "project": PROJECT}
        return {"upsertBucket": {"bucket": bucket, "inserted": True}}
    return next((answer for beginning, answer in ANSWERS.items() if text.startswith(beginning)), {})


@contextlib.contextmanager
def serving() -> Iterator[str]:
    """The server's address; after the block nothing answers there."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
