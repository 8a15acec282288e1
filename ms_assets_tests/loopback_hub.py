"""A Hugging Face Hub on loopback: one dataset, whose files are those of a folder."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlparse

COMMIT = "c0ffee" * 6 + "c0de"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = unquote(urlparse(self.path).path)
        self.server.requests.append(f"{self.command} {path}")
        api, files = f"/api/datasets/{self.server.dataset}/revision/", f"/datasets/{self.server.dataset}/resolve/"
        if path == api + "main":
            body = {"id": self.server.dataset, "sha": COMMIT, "siblings": [], "tags": [], "private": False}
            return self._answer(json.dumps(body).encode(), {"Content-Type": "application/json"})
        revision, _, name = path.removeprefix(files).partition("/")
        file = self.server.folder / name
        if not path.startswith(files) or revision != COMMIT or not file.is_file():
            self.send_response(404)
            self.send_header("X-Error-Code", "RevisionNotFound" if path.startswith(api) else "EntryNotFound")
            self.send_header("Content-Length", "0")
            return self.end_headers()
        content = file.read_bytes()
        return self._answer(content, {"ETag": f'"{hashlib.sha256(content).hexdigest()}"'})

    def _answer(self, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(200)
        for name, value in {**headers, "X-Repo-Commit": COMMIT, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


@contextmanager
def serve(folder: Path, dataset: str) -> Iterator[ThreadingHTTPServer]:
    """Serve the folder; the server has its address as `endpoint` and what was asked as `requests`."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.folder, server.dataset, server.requests = folder, dataset, []
    server.endpoint = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
