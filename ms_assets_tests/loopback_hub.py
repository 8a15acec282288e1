"""A Hugging Face Hub on loopback: one dataset, whose files are those of a folder, and every fault on request.

Models are pushed to it, by HTTP and not by Xet: files by name in each repository, and what was asked for by POST.
"""

import base64
import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlparse

COMMIT = "c0ffee" * 6 + "c0de"
NEXT_COMMIT = "decade" * 6 + "cafe"
BLOCK = 16_384


class Request(NamedTuple):
    """What a client asked for."""

    method: str
    path: str
    range: str | None
    token: str | None


@dataclass
class Hub:
    """The hub's files, its faults, and what has been asked of it."""

    folder: Path
    dataset: str
    endpoint: str = ""
    revisions: dict[str, str] = field(default_factory=lambda: {"main": COMMIT, "next": NEXT_COMMIT})
    needs_token: bool = False
    statuses: dict[str, list[int]] = field(default_factory=lambda: {"HEAD": [], "GET": [], "API": [], "POST": []})
    """Answers to the next requests of each kind, in place of what was asked for, unless they are 0."""
    headers: dict[str, str] = field(default_factory=dict)
    """Sent along with the statuses."""
    drop_after: int | None = None
    """Bytes of a body after which each connection breaks."""
    wrong_bytes: bool = False
    bytes_per_second: float | None = None
    silent_after: int | None = None
    """Bytes of a body after which no more come, though the connection stays open."""
    ignores_range: bool = False
    without_length: bool = False
    shift: int = 0
    """How far from the asked position a partial answer begins."""
    size_of_head: int | None = None
    """The size that is stated ahead, instead of the true one."""
    etag: str | None = None
    body_from: str | None = None
    """Another hub, to which bodies are redirected."""
    models: dict[str, dict[str, bytes]] = field(default_factory=dict)
    """Files of each model repository."""
    made: list[dict] = field(default_factory=list)
    """Requests to make a repository."""
    large: dict[str, bytes] = field(default_factory=dict)
    """Contents of large files by their SHA-256."""
    commits: int = 0
    requests: list[Request] = field(default_factory=list)
    body_bytes: int = 0

    def asked(self, method: str = "") -> list[Request]:
        """The requests for files of the dataset."""
        return [request for request in self.requests if method in request.method and "/resolve/" in request.path]

    def bodies(self) -> list[Request]:
        """The requests for a file's bytes."""
        return self.asked("GET")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def hub(self) -> Hub:
        return self.server.hub

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = unquote(urlparse(self.path).path)
        token = self.headers.get("Authorization")
        self.hub.requests.append(Request(self.command, path, self.headers.get("Range"), token))
        api, files = f"/api/datasets/{self.hub.dataset}/revision/", f"/datasets/{self.hub.dataset}/resolve/"
        if path.startswith("/api/models/"):
            repo = path.removeprefix("/api/models/")
            siblings = [{"rfilename": name} for name in self.hub.models[repo]]
            return self._json({"id": repo, "sha": COMMIT, "siblings": siblings, "tags": [], "private": True})
        if not path.startswith((api, files)):  # the client asks for a list of its own as well
            return self._answer(404, {"Content-Length": "0"})
        planned = self.hub.statuses["API" if path.startswith(api) else self.command]
        if planned and (status := planned.pop(0)):
            return self._answer(status, {**self.hub.headers, "Content-Length": "0"})
        if self.hub.needs_token and not token:
            return self._answer(401, {"Content-Length": "0"})
        if path.startswith(api):
            return self._revision(path.removeprefix(api))
        commit, _, name = path.removeprefix(files).partition("/")
        commit, file = self.hub.revisions.get(commit, commit), self.hub.folder / name
        if commit not in self.hub.revisions.values():
            return self._answer(404, {"X-Error-Code": "RevisionNotFound", "Content-Length": "0"})
        if not file.is_file():
            return self._answer(404, {"X-Error-Code": "EntryNotFound", "Content-Length": "0"})
        return self._file(file.read_bytes(), commit)

    def _revision(self, name: str) -> None:
        commit = self.hub.revisions.get(name)
        if commit is None:
            return self._answer(404, {"X-Error-Code": "RevisionNotFound", "Content-Length": "0"})
        return self._json({"id": self.hub.dataset, "sha": commit, "siblings": [], "tags": [], "private": False})

    def do_POST(self):
        path, hub = unquote(urlparse(self.path).path), self.hub
        body = self.rfile.read(int(self.headers["Content-Length"]))
        hub.requests.append(Request(self.command, path, None, self.headers.get("Authorization")))
        if (planned := hub.statuses["POST"]) and (status := planned.pop(0)):
            return self._answer(status, {**hub.headers, "Content-Length": "0"})
        if path == "/api/repos/create":
            hub.made.append(asked := json.loads(body))
            repo = f"{asked['organization']}/{asked['name']}"
            there = repo in hub.models
            hub.models.setdefault(repo, {".gitattributes": b""})
            return self._json({"url": f"{hub.endpoint}/{repo}"}, 409 if there else 200)
        if path == "/api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        if path.endswith("/preupload/main"):
            modes = [(file["path"], "lfs" if file["path"].endswith((".parquet", ".faiss")) else "regular")
                     for file in json.loads(body)["files"]]  # fmt: skip
            return self._json({"files": [{"path": path, "uploadMode": m, "shouldIgnore": False} for path, m in modes]})
        if path.endswith("/objects/batch"):
            return self._json({"objects": [self._upload(each) for each in json.loads(body)["objects"]]})
        return self._commit(path.removeprefix("/api/models/").removesuffix("/commit/main"), body)

    def _upload(self, asked: dict) -> dict:
        """Say where a large file is to be put, unless it is here already."""
        href = {"upload": {"href": f"{self.hub.endpoint}/large/{asked['oid']}"}}
        return asked if asked["oid"] in self.hub.large else {**asked, "actions": href}

    def do_PUT(self):
        content = self.rfile.read(int(self.headers["Content-Length"]))
        self.hub.requests.append(Request(self.command, self.path, None, None))
        oid = hashlib.sha256(content).hexdigest()
        if not self.path.endswith(oid):
            return self._answer(422, {"Content-Length": "0"})
        self.hub.large[oid] = content
        return self._answer(200, {"Content-Length": "0"})

    def _commit(self, repo: str, body: bytes) -> None:
        """Change a repository's files by all lines of a commit, or by none."""
        files = dict(self.hub.models[repo])
        for line in body.splitlines():
            match json.loads(line):
                case {"key": "file", "value": {"path": name, "content": content}}:
                    files[name] = base64.b64decode(content)
                case {"key": "lfsFile", "value": {"path": name, "oid": oid}}:
                    files[name] = self.hub.large[oid]
                case {"key": "deletedFile", "value": {"path": name}}:
                    del files[name]
        self.hub.models[repo], self.hub.commits = files, self.hub.commits + 1
        self._json({"commitUrl": f"{self.hub.endpoint}/{repo}/commit/{COMMIT}", "commitOid": COMMIT})

    def _json(self, value: dict, status: int = 200) -> None:
        body = json.dumps(value).encode()
        self._answer(status, {"Content-Type": "application/json", "Content-Length": str(len(body))})
        self.wfile.write(body)

    def _file(self, content: bytes, commit: str) -> None:
        etag = self.hub.etag or hashlib.sha256(content).hexdigest()
        size = len(content) if self.hub.size_of_head is None else self.hub.size_of_head
        stated = {"X-Repo-Commit": commit, "X-Linked-Etag": f'"{etag}"', "X-Linked-Size": str(size)}
        if self.hub.body_from:
            return self._answer(302, stated | {"Location": self.hub.body_from + self.path, "Content-Length": "0"})
        if self.command == "HEAD":
            return self._answer(200, stated | {"Content-Length": str(size)})
        if self.hub.wrong_bytes:
            content = bytes(byte ^ 255 for byte in content[:100]) + content[100:]
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not asked or self.hub.ignores_range:
            return self._body(200, content, {})
        start, end = int(asked[1]) + self.hub.shift, min(int(asked[2] or len(content)), len(content) - 1)
        if start > end:
            return self._answer(416, {"Content-Range": f"bytes */{len(content)}", "Content-Length": "0"})
        span = f"bytes {start}-{end}/{len(content)}"
        return self._body(206, content[start : end + 1], {"Content-Range": span})

    def _body(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        length = {"Connection": "close"} if self.hub.without_length else {"Content-Length": str(len(body))}
        self._answer(status, headers | length)
        whole = self.hub.drop_after is None or self.hub.drop_after >= len(body)
        body = body if whole else body[: self.hub.drop_after]
        for position in range(0, len(body), BLOCK):
            block = body[position : position + BLOCK]
            if self.hub.silent_after is not None and position >= self.hub.silent_after:
                threading.Event().wait()
            if self.hub.bytes_per_second:
                time.sleep(len(block) / self.hub.bytes_per_second)
            self.wfile.write(block)
            self.hub.body_bytes += len(block)
        self.close_connection = self.close_connection or not whole or self.hub.without_length

    def _answer(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_):
        """A client that was killed in the middle is part of the game."""


@contextmanager
def serve(folder: Path, dataset: str) -> Iterator[Hub]:
    """Serve the folder's files until the end of the block."""
    server = _Server(("127.0.0.1", 0), _Handler)
    server.hub = Hub(folder, dataset, f"http://127.0.0.1:{server.server_port}")
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield server.hub
    finally:
        server.shutdown()
        server.server_close()
