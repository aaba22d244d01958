"""A model hub on the loopback interface: just enough of the protocol for small files, and some ways to fail."""

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_secretsecretsecret"


class HubServer(ThreadingHTTPServer):
    """Keeps repositories in memory.

    Attributes:
        repositories: {repository id: {"private": bool, "files": {path: bytes}}}.
        requests: (method, path) of everything asked.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), HubHandler)
        self.repositories: dict[str, dict[str, Any]] = {}
        self.requests: list[tuple[str, str]] = []
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class HubHandler(BaseHTTPRequestHandler):
    """Answers what `create_repo` and `upload_folder` ask."""

    server: HubServer
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.requests.append(("POST", self.path))
        if self.refuses():
            return
        if self.path == "/api/repos/create":
            self.create(json.loads(body))
        elif self.path == "/api/validate-yaml":
            self.answer(200, {"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            files = [
                {"path": item["path"], "uploadMode": "regular", "shouldIgnore": False}
                for item in json.loads(body)["files"]
            ]
            self.answer(200, {"files": files})
        elif "/commit/" in self.path:
            self.commit(body)
        else:
            self.answer(404, {"error": "not here"})

    def do_GET(self) -> None:
        self.server.requests.append(("GET", self.path))
        if not self.refuses():
            self.answer(200, {"id": "me/zoo", "sha": "0" * 40, "siblings": []})

    def refuses(self) -> bool:
        wrong = self.headers.get("Authorization") != f"Bearer {TOKEN}"
        if wrong:
            self.answer(401, {"error": "Invalid credentials in Authorization header"})
        return wrong

    def create(self, wish: dict[str, Any]) -> None:
        name = "/".join(filter(None, (wish.get("organization"), wish["name"])))
        exists = name in self.server.repositories
        private = wish.get("private", wish.get("visibility") == "private")
        self.server.repositories.setdefault(name, {"private": private, "files": {}})
        self.answer(409 if exists else 200, {"url": f"{self.server.address}/{name}", "id": name, "name": name})

    def commit(self, body: bytes) -> None:
        name = "/".join(self.path.split("/")[3:5])
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                content = base64.b64decode(line["value"]["content"])
                self.server.repositories[name]["files"][line["value"]["path"]] = content
        url = f"{self.server.address}/{name}/commit/{'1' * 40}"
        self.answer(200, {"success": True, "commitOid": "1" * 40, "commitUrl": url, "hookOutput": ""})

    def answer(self, status: int, content: object) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: Any) -> None:
        """Keep quiet."""
