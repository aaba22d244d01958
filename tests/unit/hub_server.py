"""A model hub on the loopback interface, standard library only, to which the real clients talk over HTTP.

It keeps repositories with their history in memory and speaks what `create_repo`, `upload_folder`, `snapshot_download`,
`hf_hub_download` and `datasets.load_dataset` ask: create, preupload, commit, LFS, Xet tokens, revision, tree, paths-info,
resolve. Faults can be ordered: a status, a cut connection, silence.
"""

# ruff: noqa: ARG002 - routes are called with one set of arguments

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "hf_secretsecretsecret"
READER = "hf_readreadreadread"  # may read and not write
LARGE = (".safetensors", ".parquet", ".wscore")
LATER = 4102444800  # the year 2100


@dataclass
class Fault:
    """What goes wrong with the next requests whose method and path match.

    Attributes:
        pattern: regular expression over `METHOD path`.
        how: a status, `cut` (the connection ends halfway), `stalled` (it stays open halfway) or `silent` (no answer).
        times: how often; None = always.
        headers: of the answer with a status.
    """

    pattern: str
    how: int | str
    times: int | None = 1
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Repository:
    """Its commits, oldest first: (id, {path: content or LFS pointer})."""

    private: bool
    commits: list[tuple[str, dict[str, "bytes | Pointer"]]] = field(default_factory=list)

    def find(self, revision: str) -> tuple[str, dict[str, "bytes | Pointer"]] | None:
        if revision == "main":
            return self.commits[-1]
        return next((commit for commit in self.commits if commit[0] == revision), None)


@dataclass
class Pointer:
    """A large file."""

    oid: str
    size: int


class HubServer(ThreadingHTTPServer):
    """Keeps repositories in memory.

    Attributes:
        repositories: by `models/owner/name` or `datasets/owner/name`.
        objects: contents of large files by SHA-256.
        hashes: Xet hash of large files by SHA-256; files that are read by Xet must be made known with `know`.
        requests: (method, path) of everything asked.
        faults: what goes wrong next.
        xet: folder that serves as Xet storage; None = large files go by LFS.
    """

    daemon_threads = True

    def __init__(self, xet: Path | None = None) -> None:
        super().__init__(("127.0.0.1", 0), HubHandler)
        self.repositories: dict[str, Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.hashes: dict[str, str] = {}
        self.requests: list[tuple[str, str]] = []
        self.faults: list[Fault] = []
        self.xet = xet
        self.stopping, self.stalled = threading.Event(), threading.Event()
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def stop(self) -> None:
        self.stopping.set()
        self.shutdown()
        self.server_close()

    def files(self, name: str, kind: str = "models") -> dict[str, bytes]:
        """Return the newest content of a repository; large files that went by Xet are named only."""
        _, content = self.repositories[f"{kind}/{name}"].commits[-1]
        return {
            path: self.objects.get(item.oid, b"") if isinstance(item, Pointer) else item
            for path, item in content.items()
        }

    def count(self, pattern: str) -> int:
        """Return how many requests matched."""
        return sum(bool(re.search(pattern, f"{method} {path}")) for method, path in self.requests)

    def know(self, folder: Path) -> None:
        """Learn the Xet hashes of the files below a folder."""
        import hf_xet

        paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        for path, info in zip(paths, hf_xet.hash_files([str(path) for path in paths]), strict=True):
            self.hashes[hashlib.sha256(path.read_bytes()).hexdigest()] = info.hash


class HubHandler(BaseHTTPRequestHandler):
    """Answers one connection."""

    server: HubServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.handle_request()

    def do_HEAD(self) -> None:
        self.answer(200, {}) if self.path == "/" else self.handle_request()

    def do_POST(self) -> None:
        self.handle_request()

    def do_PUT(self) -> None:
        self.handle_request()

    def handle_request(self) -> None:
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline().strip() or b"0", 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        address = urlsplit(self.path)
        path = unquote(address.path)
        self.server.requests.append((self.command, path))
        if self.fails(f"{self.command} {path}") or self.refuses(path):
            return
        for method, pattern, answer in ROUTES:
            match = re.fullmatch(pattern, path)
            if method in (self.command, "GET" if self.command == "HEAD" else self.command) and match:
                query = {key: values[0] for key, values in parse_qs(address.query).items()}
                answer(self, body, query, **match.groupdict())
                return
        self.answer(404, {"error": "not here"})

    def fails(self, request: str) -> bool:
        for fault in self.server.faults:
            if fault.times == 0 or not re.search(fault.pattern, request):
                continue
            if fault.times is not None:
                fault.times -= 1
            if isinstance(fault.how, int):
                self.answer(fault.how, {"error": f"ordered {fault.how}"}, fault.headers)
            elif fault.how == "silent":
                self.server.stopping.wait()
                self.close_connection = True
            elif fault.how == "stalled":
                self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\nhalf")
                self.wfile.flush()
                self.server.stalled.set()
                self.server.stopping.wait()
                self.close_connection = True
            elif fault.how == "cut":
                self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\nhalf")
                self.wfile.flush()
                self.connection.close()
                self.close_connection = True
            return True
        return False

    def refuses(self, path: str) -> bool:
        given = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if path.startswith("/storage/"):
            return False  # LFS storage has signed addresses instead
        if given not in (TOKEN, READER):
            self.answer(401, {"error": "Invalid credentials in Authorization header"})
            return True
        writes = self.command in ("POST", "PUT") and not path.endswith(("paths-info", "validate-yaml"))
        if given == READER and writes:
            self.answer(403, {"error": "You don't have the rights to write"})
            return True
        return False

    def whoami(self, body: bytes, query: dict[str, str]) -> None:
        self.answer(200, {"name": "me", "type": "user", "auth": {"accessToken": {"role": "write"}}})

    def create(self, body: bytes, query: dict[str, str]) -> None:
        wish = json.loads(body)
        name = "/".join(filter(None, (wish.get("organization"), wish["name"])))
        key = f"{wish.get('type') or 'model'}s/{name}"
        exists = key in self.server.repositories
        private = bool(wish.get("private", wish.get("visibility") == "private"))
        if not exists:
            first = ("0" * 39 + "1", {".gitattributes": b"*.safetensors filter=lfs\n"})
            self.server.repositories[key] = Repository(private, [first])
        prefix = "" if key.startswith("models/") else "datasets/"
        self.answer(409 if exists else 200, {"url": f"{self.server.address}/{prefix}{name}", "id": name, "name": name})

    def validate(self, body: bytes, query: dict[str, str]) -> None:
        self.answer(200, {"errors": [], "warnings": []})

    def preupload(self, body: bytes, query: dict[str, str], kind: str, name: str, revision: str) -> None:
        found = self.find(kind, name, revision)
        if found is None:
            return
        _, content = found
        files = []
        for item in json.loads(body)["files"]:
            old = content.get(item["path"])
            large = item["path"].endswith(LARGE)
            oid = None if old is None else old.oid if isinstance(old, Pointer) else git_hash(old)
            mode = "lfs" if large else "regular"
            files.append({"path": item["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self.answer(200, {"files": files})

    def commit(self, body: bytes, query: dict[str, str], kind: str, name: str, revision: str) -> None:
        found = self.find(kind, name, revision)
        if found is None:
            return
        content = dict(found[1])
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                content[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                content[value["path"]] = Pointer(value["oid"], value["size"])
            elif line["key"] == "deletedFile":
                del content[value["path"]]
        repository = self.server.repositories[f"{kind}/{name}"]
        commit = hashlib.sha1(f"{name}{len(repository.commits)}".encode()).hexdigest()
        repository.commits.append((commit, content))
        url = f"{self.server.address}/{name}/commit/{commit}"
        self.answer(200, {"success": True, "commitOid": commit, "commitUrl": url, "hookOutput": ""})

    def lfs_batch(self, body: bytes, query: dict[str, str], name: str) -> None:
        objects = []
        for item in json.loads(body)["objects"]:
            known = item["oid"] in self.server.objects
            upload = {"href": f"{self.server.address}/storage/{item['oid']}", "header": {}}
            objects.append(
                {"oid": item["oid"], "size": item["size"], **({} if known else {"actions": {"upload": upload}})}
            )
        self.answer(200, {"transfer": "basic", "objects": objects})

    def store(self, body: bytes, query: dict[str, str], oid: str) -> None:
        assert hashlib.sha256(body).hexdigest() == oid
        self.server.objects[oid] = body
        self.answer(200, {})

    def xet_token(self, body: bytes, query: dict[str, str], kind: str, name: str, what: str, revision: str) -> None:
        headers = {
            "X-Xet-Cas-Url": f"local://{self.server.xet}",
            "X-Xet-Access-Token": "token",
            "X-Xet-Token-Expiration": str(LATER),
        }
        content = {"casUrl": headers["X-Xet-Cas-Url"], "accessToken": "token", "exp": LATER}
        self.answer(200, content, headers)

    def revision(self, body: bytes, query: dict[str, str], kind: str, name: str, revision: str = "main") -> None:
        found = self.find(kind, name, revision)
        if found is not None:
            siblings = [{"rfilename": path} for path in sorted(found[1])]
            self.answer(200, {"id": name, "sha": found[0], "private": True, "siblings": siblings, "tags": []})

    def tree(
        self, body: bytes, query: dict[str, str], kind: str, name: str, revision: str, folder: str | None = None
    ) -> None:
        found = self.find(kind, name, revision)
        if found is None:
            return
        prefix = f"{folder}/" if folder else ""
        paths = [path for path in sorted(found[1]) if path.startswith(prefix)]
        if not paths:
            self.answer(404, {"error": "no such folder"}, {"X-Error-Code": "EntryNotFound"})
            return
        entries, folders = [], set()
        for path in paths:
            rest = path.removeprefix(prefix)
            if query.get("recursive") == "true" or "/" not in rest:
                entries.append(self.entry(path, found[1][path]))
            else:
                folders.add(prefix + rest.partition("/")[0])
        entries += [{"type": "directory", "path": path, "oid": "0" * 40, "size": 0} for path in sorted(folders)]
        self.answer(200, entries)

    def paths_info(self, body: bytes, query: dict[str, str], kind: str, name: str, revision: str) -> None:
        found = self.find(kind, name, revision)
        if found is None:
            return
        text = body.decode()
        wanted = json.loads(text)["paths"] if text.startswith("{") else parse_qs(text).get("paths", [])
        entries = []
        for path in wanted:
            if path in found[1]:
                entries.append(self.entry(path, found[1][path]))
            elif any(other.startswith(f"{path}/") for other in found[1]):
                entries.append({"type": "directory", "path": path, "oid": "0" * 40, "size": 0})
        self.answer(200, entries)

    def entry(self, path: str, item: "bytes | Pointer") -> dict[str, Any]:
        if not isinstance(item, Pointer):
            return {"type": "file", "path": path, "oid": git_hash(item), "size": len(item)}
        lfs = {"oid": item.oid, "size": item.size, "pointerSize": 134}
        xet = {"xetHash": self.server.hashes[item.oid]} if self.server.xet and item.oid in self.server.hashes else {}
        return {"type": "file", "path": path, "oid": item.oid[:40], "size": item.size, "lfs": lfs, **xet}

    def resolve(
        self, body: bytes, query: dict[str, str], name: str, revision: str, path: str, prefix: str | None = None
    ) -> None:
        kind = "datasets" if prefix else "models"
        found = self.find(kind, name, revision)
        if found is None:
            return
        if path not in found[1]:
            self.answer(404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound"})
            return
        item, headers = found[1][path], {"X-Repo-Commit": found[0]}
        if isinstance(item, Pointer):
            data = self.server.objects.get(item.oid, b"")
            headers |= {"ETag": f'"{item.oid}"', "X-Linked-Etag": f'"{item.oid}"', "X-Linked-Size": str(item.size)}
            if self.server.xet and item.oid in self.server.hashes:
                route = f"{self.server.address}/api/{kind}/{name}/xet-read-token/{found[0]}"
                headers |= {"X-Xet-Hash": self.server.hashes[item.oid], "X-Xet-Refresh-Route": route}
        else:
            data = item
            headers |= {"ETag": f'"{git_hash(data)}"'}
        self.send(data, headers)

    def find(self, kind: str, name: str, revision: str) -> tuple[str, dict[str, "bytes | Pointer"]] | None:
        repository = self.server.repositories.get(f"{kind}/{name}")
        if repository is None:
            self.answer(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
            return None
        found = repository.find(revision)
        if found is None:
            self.answer(404, {"error": "Revision not found"}, {"X-Error-Code": "RevisionNotFound"})
        return found

    def send(self, data: bytes, headers: dict[str, str]) -> None:
        start, status = 0, 200
        if asked := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or ""):
            start, end, status = int(asked[1]), int(asked[2] or len(data) - 1), 206
            headers = {**headers, "Content-Range": f"bytes {start}-{min(end, len(data) - 1)}/{len(data)}"}
            data = data[: end + 1]
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[start:])

    def answer(self, status: int, content: object, headers: dict[str, str] | None = None) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        if isinstance(content, dict) and "error" in content:
            self.send_header("X-Error-Message", str(content["error"]))
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *args: Any) -> None:
        """Keep quiet."""


def git_hash(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


ID = r"(?P<name>[^/]+/[^/]+)"
API = rf"/api/(?P<kind>models|datasets)/{ID}"
ROUTES: list[tuple[str, str, Any]] = [
    ("GET", r"/api/whoami-v2", HubHandler.whoami),
    ("POST", r"/api/repos/create", HubHandler.create),
    ("POST", r"/api/validate-yaml", HubHandler.validate),
    ("POST", rf"{API}/preupload/(?P<revision>[^/]+)", HubHandler.preupload),
    ("POST", rf"{API}/commit/(?P<revision>[^/]+)", HubHandler.commit),
    ("POST", rf"{API}/paths-info/(?P<revision>[^/]+)", HubHandler.paths_info),
    ("GET", rf"{API}/xet-(?P<what>read|write)-token/(?P<revision>[^/]+)", HubHandler.xet_token),
    ("GET", rf"{API}/revision/(?P<revision>[^/]+)", HubHandler.revision),
    ("GET", rf"{API}/tree/(?P<revision>[^/]+)(?:/(?P<folder>.+))?", HubHandler.tree),
    ("GET", API, HubHandler.revision),
    ("POST", rf"/(?:datasets/)?{ID}\.git/info/lfs/objects/batch", HubHandler.lfs_batch),
    ("PUT", r"/storage/(?P<oid>[0-9a-f]{64})", HubHandler.store),
    ("GET", rf"/(?P<prefix>datasets/)?{ID}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", HubHandler.resolve),
]
