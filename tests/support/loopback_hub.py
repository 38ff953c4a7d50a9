"""A hub of repositories on 127.0.0.1: the endpoints that huggingface_hub uses to download and to push."""

import base64
import json
from contextlib import contextmanager
from hashlib import sha1, sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import unquote, urlsplit

LARGE = (".safetensors", ".parquet")
"""Endings of the files that are stored apart, as the hub does with large ones."""


class Repository:
    """The commits of a repository. main is the first branch."""

    def __init__(self, private=False):
        self.private, self.commits, self.branches = private, {}, {}
        self.commit("main", {})

    def commit(self, branch, files):
        name = sha1(f"{branch}{len(self.commits)}{sorted(files)}".encode()).hexdigest()
        self.commits[name] = files
        self.branches[branch] = name
        return name

    def at(self, revision):
        return self.branches.get(revision, revision)


class LoopbackHub:
    """Repositories by (kind, name), and what goes wrong: `fails` and `cuts` are dicts by a part of the address."""

    def __init__(self):
        self.repositories, self.large, self.seen = {}, {}, []
        self.fails, self.cuts = {}, {}
        self.token = "hf_right"

    def add(self, name, files, kind="models", private=False):
        repository = self.repositories[kind, name] = Repository(private)
        return repository.commit("main", dict(files))

    def files(self, name, branch="main"):
        repository = self.repositories["models", name]
        return repository.commits[repository.at(branch)]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def handle_any(self):
        address = urlsplit(self.path).path
        body = self._body()
        self.hub.seen.append(f"{self.command} {address}")
        status = next((status for part, status in self.hub.fails.items() if part in f"{self.command} {address}"), None)
        if status is not None:
            return self._send(status, {"error": "as the test wants it"})
        parts = [unquote(part) for part in address.strip("/").split("/")]
        if parts[0] == "api":
            return self._api(parts[1:], body)
        if parts[0] == "large":
            self.hub.large[parts[1]] = body
            return self._send(200, {})
        if "info" in parts and parts[-1] == "batch":
            return self._send(200, {"transfer": "basic", "objects": [self._upload(one) for one in body["objects"]]})
        kind = "models" if parts[0] != "datasets" else parts.pop(0)
        repository = self._repository(kind, "/".join(parts[:2]))
        if repository is not None:
            self._file(repository, parts[3], "/".join(parts[4:]))
        return None

    do_GET = do_HEAD = do_POST = do_PUT = handle_any  # noqa: N815 the library's names

    def _body(self):
        if self.headers.get("Transfer-Encoding") == "chunked":
            content = b""
            while size := int(self.rfile.readline(), 16):
                content += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        kind = self.headers.get("Content-Type", "")
        if "ndjson" in kind:
            return [json.loads(line) for line in content.splitlines()]
        return json.loads(content) if "json" in kind else content

    def _send(self, status, content, headers=(), length=None):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in dict(headers).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _api(self, parts, body):
        if parts == ["validate-yaml"]:
            return self._send(200, {"warnings": [], "errors": []})
        logged_in = self.headers.get("Authorization") == f"Bearer {self.hub.token}"
        if self.command == "POST" and not logged_in:
            return self._send(401, {"error": "Invalid username or password."})
        if parts == ["repos", "create"]:
            return self._create(
                f"{body['organization']}/{body['name']}", body.get("private") or body.get("visibility") == "private"
            )
        repository = self._repository(parts[0], "/".join(parts[1:3]))
        if repository is None:
            return None
        action, rest = parts[3] if parts[3:] else "revision", "/".join(parts[4:]) or "main"
        return getattr(self, f"_api_{action}")(repository, rest, body)

    def _create(self, name, private):
        place = {"url": f"{self.address}/{name}"}
        if ("models", name) in self.hub.repositories:
            return self._send(409, {"error": "You already created this model repo", **place})
        self.hub.repositories["models", name] = Repository(private)
        return self._send(200, place)

    def _repository(self, kind, name):
        repository = self.hub.repositories.get((kind, name))
        hidden = repository is not None and repository.private and "Authorization" not in self.headers
        if repository is None or hidden:
            self._send(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
            return None
        return repository

    def _api_revision(self, repository, revision, _):
        commit = repository.at(revision)
        if commit not in repository.commits:
            return self._send(404, {"error": "no revision"}, {"X-Error-Code": "RevisionNotFound"})
        return self._send(200, {"id": "any/name", "sha": commit, "private": repository.private, "siblings": []})

    def _api_tree(self, repository, revision, _):
        files = repository.commits[repository.at(revision)]
        return self._send(200, [self._entry(path, content) for path, content in files.items()])

    def _api_branch(self, repository, branch, _):
        if branch in repository.branches:
            return self._send(409, {"error": "Reference already exists"})
        repository.branches[branch] = repository.branches["main"]
        return self._send(200, {})

    def _api_preupload(self, _, __, body):
        modes = {file["path"]: "lfs" if file["path"].endswith(LARGE) else "regular" for file in body["files"]}
        return self._send(
            200,
            {"files": [{"path": path, "uploadMode": mode, "shouldIgnore": False} for path, mode in modes.items()]},
        )

    def _api_commit(self, repository, branch, body):
        files = dict(repository.commits[repository.at(branch)])
        for line in body:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.large[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        commit = repository.commit(branch, files)
        return self._send(200, {"commitUrl": f"{self.address}/any/name/commit/{commit}", "commitOid": commit})

    def _upload(self, one):
        action = {"href": f"{self.address}/large/{one['oid']}"}
        return {"oid": one["oid"], "size": one["size"], "actions": {"upload": action}}

    @staticmethod
    def _entry(path, content):
        entry = {"type": "file", "path": path, "size": len(content), "oid": sha1(content).hexdigest()}
        if path.endswith(LARGE):
            entry["lfs"] = {"oid": sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
        return entry

    def _file(self, repository, revision, path):
        commit = repository.at(revision)
        content = repository.commits.get(commit, {}).get(path)
        if content is None:
            return self._send(404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound"})
        kept = next((count for part, count in self.hub.cuts.items() if part in path), len(content))
        etag = (sha256 if path.endswith(LARGE) else sha1)(content).hexdigest()
        self._send(200, content[:kept], {"X-Repo-Commit": commit, "ETag": f'"{etag}"'}, len(content))
        if kept < len(content):
            self.close_connection = True
        return None


@contextmanager
def serving():
    """Yield a LoopbackHub and its address, while a thread serves it."""
    hub = LoopbackHub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    address = f"http://127.0.0.1:{server.server_address[1]}"
    server.RequestHandlerClass.address = address
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield hub, address
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
