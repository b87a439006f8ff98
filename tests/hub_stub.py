"""A small hub on this machine: the part of huggingface.co's HTTP API that downloads and uploads use, with its faults.

Files of `lfs` lie on a second server (another port), to which the first redirects, as the real one does.
"""

import base64
import hashlib
import json
import re
import ssl
import threading
import time
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_right"
READER = "hf_reader"  # a token that may not write


def git_sum(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class Stub:
    def __init__(self):
        self.repos = {}  # "models/org/name" -> {file: bytes}
        self.lfs = re.compile(r".*\.(safetensors|jsonl)$")
        self.revisions = {"main": COMMIT, COMMIT: COMMIT}
        self.private = set()  # need the token
        self.gated = set()  # their files need it
        self.forbidden = set()  # 403 with any token
        self.busy = 0  # answer that many requests with `busy_status` first
        self.busy_status = 429
        self.retry_after = 0
        self.drop_after = []  # bytes after which the storage's next answers break off
        self.pace = 0.0  # seconds between pieces of the storage's answers
        self.stall = False  # the storage sends half and then nothing
        self.ignores_range = False
        self.announced = {}  # file -> size that is claimed
        self.corrupt = set()  # files whose bytes are not those that were promised
        self.objects = {}  # sha256 -> bytes that were uploaded
        self.parts = {}  # sha256 -> {number: bytes}
        self.chunk = None  # size of the parts that larger uploads come in
        self.created = {}  # "models/org/name" -> private?
        self.commits = []  # (repo, revision, message)
        self.drop_uploads = []  # bytes after which the storage hangs up on the next uploads
        self.requests = []  # (server, method, path, headers)
        self.hub, self.hub_url = self.serve(HubHandler)
        self.storage, self.storage_url = self.serve(StorageHandler)

    def serve(self, handler):
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.daemon_threads = True
        server.stub = self
        server.handle_error = lambda *_: None  # a client that goes away is what is tried here
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return server, f"http://127.0.0.1:{server.server_address[1]}"

    def encrypt(self, certificate, key):
        """From now on the hub, not the storage, speaks TLS."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        self.hub.socket = context.wrap_socket(self.hub.socket, server_side=True, do_handshake_on_connect=False)
        self.hub_url = self.hub_url.replace("http:", "https:")

    def close(self):
        for server in (self.hub, self.storage):
            server.shutdown()
            server.server_close()

    def count(self, server=None, method=None, containing=""):
        return sum(
            (server is None or s == server) and (method is None or m == method) and containing in p
            for s, m, p, _ in self.requests
        )


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    name = ""

    def log_message(self, *_):
        pass

    def answer(self, status, body=b"", **headers):
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), str(value))
        if "Content_Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_HEAD(self):
        self.do_GET()

    def do_POST(self):
        self.do_GET()

    def do_PUT(self):
        self.do_GET()

    def read_body(self, limit=None):
        size = int(self.headers.get("Content-Length", 0))
        return self.rfile.read(size if limit is None else min(size, limit))

    def answer_json(self, body, status=200, **headers):
        self.answer(status, json.dumps(body).encode(), Content_Type="application/json", **headers)

    def do_GET(self):
        stub = self.server.stub
        url = urllib.parse.urlsplit(self.path)  # a proxy is asked for the whole address
        path = urllib.parse.unquote(url.path)
        stub.requests.append((self.name, self.command, path, dict(self.headers)))
        try:
            self.handle_path(stub, path)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def send_file(self, stub, name, content, headers, drop=None):
        start = 0
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if asked and not stub.ignores_range:
            start = int(asked[1])
            if start >= len(content):
                return self.answer(416)
            headers |= {"Content_Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
        if name in stub.corrupt:
            content = content[:-1] + bytes([content[-1] ^ 1])
        rest = content[start:]
        self.send_response(206 if start else 200)
        for key, value in (headers | {"Content_Length": len(rest)}).items():
            self.send_header(key.replace("_", "-"), str(value))
        self.end_headers()
        if self.command == "HEAD":
            return None
        for at in range(0, len(rest), 1 << 16):
            piece = rest[at : at + (1 << 16)]
            if drop is not None and at + len(piece) > drop:
                self.wfile.write(piece[: max(0, drop - at)])
                self.wfile.flush()
                self.close_connection = True
                return None
            if stub.stall and at >= len(rest) // 2:
                time.sleep(3)
                self.close_connection = True
                return None
            self.wfile.write(piece)
            time.sleep(stub.pace)
        return None


class HubHandler(Handler):
    name = "hub"

    def handle_path(self, stub, path):
        if stub.busy > 0:
            stub.busy -= 1
            return self.answer(stub.busy_status, Retry_After=stub.retry_after)
        if found := re.fullmatch(r"/api/(models|datasets)/(.+)/revision/(.+)", path):
            return self.describe(stub, f"{found[1]}/{found[2]}", found[3])
        if found := re.fullmatch(r"/api/(models|datasets)/(.+)/tree/([^/]+)", path):
            return self.tree(stub, f"{found[1]}/{found[2]}")
        if self.command == "POST":
            return self.write(stub, path)
        if found := re.fullmatch(r"/(datasets/)?(.+?)/resolve/([^/]+)/(.+)", path):
            repo = (found[1] or "models/") + found[2]
            return self.resolve(stub, repo, found[3], found[4])
        return self.answer(404)

    def refuses(self, stub, repo, files):
        token = self.headers.get("Authorization", "")
        right = token == f"Bearer {TOKEN}"
        if token and not right:
            self.answer(401, b'{"error": "Invalid credentials in Authorization header"}')
        elif repo not in stub.repos or (repo in stub.private and not right):
            self.answer(404 if right else 401, X_Error_Code="RepoNotFound")
        elif repo in stub.forbidden:
            self.answer(403)
        elif files and repo in stub.gated and not right:
            self.answer(401, X_Error_Code="GatedRepo")
        else:
            return False
        return True

    def describe(self, stub, repo, revision):
        if self.refuses(stub, repo, False):
            return None
        if revision not in stub.revisions:
            return self.answer(404, X_Error_Code="RevisionNotFound")
        siblings = [{"rfilename": name} for name in stub.repos[repo]]
        id = repo.split("/", 1)[1]
        body = {"_id": "1", "id": id, "modelId": id, "sha": stub.revisions[revision], "private": False,
                "siblings": siblings}  # fmt: skip
        return self.answer(200, json.dumps(body).encode(), Content_Type="application/json")

    def write(self, stub, path):
        body = self.read_body()
        token = self.headers.get("Authorization", "")
        if token != f"Bearer {TOKEN}":
            known = token == f"Bearer {READER}"
            return self.answer_json({"error": "no right to write" if known else "Invalid username or password."},
                                    403 if known else 401)  # fmt: skip
        if path == "/api/repos/create":
            return self.create(stub, json.loads(body))
        if found := re.fullmatch(r"/api/(models/[^/]+/[^/]+)/branch/(.+)", path):
            known = found[2] in stub.revisions
            stub.revisions[found[2]] = COMMIT
            return self.answer_json({}, 409 if known else 200)
        if found := re.fullmatch(r"/api/(models/[^/]+/[^/]+)/preupload/(.+)", path):
            return self.preupload(stub, found[1], found[2], json.loads(body)["files"])
        if found := re.fullmatch(r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", path):
            return self.answer_json({"objects": [self.action(stub, item) for item in json.loads(body)["objects"]]})
        if found := re.fullmatch(r"/api/(models/[^/]+/[^/]+)/commit/(.+)", path):
            return self.commit(stub, found[1], found[2], [json.loads(line) for line in body.splitlines()])
        if path == "/verify":
            item = json.loads(body)
            return self.answer_json({}, 200 if len(stub.objects.get(item["oid"], b"")) == item["size"] else 404)
        return self.answer(404)

    def create(self, stub, body):
        repo = f"models/{body['organization']}/{body['name']}"
        if body["organization"] == "others":
            return self.answer_json({"error": "You don't have the rights to create a model under others"}, 403)
        if repo in stub.repos:
            return self.answer_json({"error": "You already created this model repo", "url": repo}, 409)
        stub.repos[repo] = {}
        stub.created[repo] = body.get("private")
        name = repo.removeprefix("models/")
        return self.answer_json({"url": f"{stub.hub_url}/{name}", "name": name, "id": "1"})

    def preupload(self, stub, repo, revision, files):
        if repo not in stub.repos or revision not in stub.revisions:
            return self.answer(404, X_Error_Code="RepoNotFound")
        for file in files:
            assert len(base64.b64decode(file["sample"])) == min(512, file["size"])
        return self.answer_json({"files": [
            {"path": file["path"], "uploadMode": "lfs" if stub.lfs.match(file["path"]) else "regular", "shouldIgnore": False}
            for file in files
        ]})  # fmt: skip

    def action(self, stub, item):
        """What is left to do for one object: nothing if its bytes are there."""
        oid, size = item["oid"], item["size"]
        if oid in stub.objects:
            return {"oid": oid, "size": size}
        upload = {"href": f"{stub.storage_url}/upload/{oid}"}
        if stub.chunk and size > stub.chunk:
            count = (size + stub.chunk - 1) // stub.chunk
            upload["header"] = {"chunk_size": str(stub.chunk)} | {
                f"{i + 1:05}": f"{upload['href']}/{i + 1}" for i in range(count)
            }
            upload["href"] = f"{stub.storage_url}/complete/{oid}"
        return {"oid": oid, "size": size, "actions": {"upload": upload, "verify": {"href": f"{stub.hub_url}/verify"}}}

    def commit(self, stub, repo, revision, lines):
        assert lines[0]["key"] == "header"
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "lfsFile":
                assert value["algo"] == "sha256" and len(stub.objects[value["oid"]]) == value["size"]
                stub.repos[repo][value["path"]] = stub.objects[value["oid"]]
            else:
                assert line["key"] == "file" and value["encoding"] == "base64"
                stub.repos[repo][value["path"]] = base64.b64decode(value["content"])
        stub.commits.append((repo, revision, lines[0]["value"]["summary"]))
        url = f"{stub.hub_url}/{repo.removeprefix('models/')}/commit/{COMMIT}"
        return self.answer_json({"commitUrl": url, "commitOid": COMMIT, "hookOutput": "", "success": True})

    def tree(self, stub, repo):
        if self.refuses(stub, repo, False):
            return None
        entries = []
        for name, content in stub.repos[repo].items():
            entry = {"type": "file", "path": name, "size": len(content), "oid": git_sum(content)}
            if stub.lfs.match(name):
                entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
            entries.append(entry)
        return self.answer(200, json.dumps(entries).encode(), Content_Type="application/json")

    def resolve(self, stub, repo, revision, name):
        if self.refuses(stub, repo, True):
            return None
        content = stub.repos[repo].get(name)
        if content is None:
            return self.answer(404, X_Error_Code="EntryNotFound")
        common = {"X_Repo_Commit": stub.revisions[revision]}
        if not stub.lfs.match(name):
            return self.send_file(stub, name, content, common | {"ETag": f'"{git_sum(content)}"'})
        size = stub.announced.get(name, len(content))
        return self.answer(
            302,
            Location=f"{stub.storage_url}/{repo}/{urllib.parse.quote(name)}?signature=x",
            X_Linked_Etag=f'"{hashlib.sha256(content).hexdigest()}"',
            X_Linked_Size=size,
            **common,
        )


class StorageHandler(Handler):
    name = "storage"

    def handle_path(self, stub, path):
        if self.command == "PUT":
            return self.receive(stub, path)
        if self.command == "POST":
            return self.complete(stub, path)
        repo, _, name = re.fullmatch(r"/((models|datasets)/[^/]+/[^/]+)/(.+)", path).groups()
        drop = stub.drop_after.pop(0) if stub.drop_after and self.command == "GET" else None
        return self.send_file(stub, name, stub.repos[repo][name], {"ETag": '"storage"'}, drop)

    def receive(self, stub, path):
        assert "Authorization" not in self.headers  # the address itself is the right to write
        _, _, oid, *number = path.split("/")
        drop = stub.drop_uploads.pop(0) if stub.drop_uploads else None
        content = self.read_body(drop)
        if drop is not None:
            self.close_connection = True
            return None
        if number:
            stub.parts.setdefault(oid, {})[int(number[0])] = content
        elif hashlib.sha256(content).hexdigest() == oid:
            stub.objects[oid] = content
        else:
            return self.answer(400)
        return self.answer(200, ETag=f'"{hashlib.md5(content).hexdigest()}"')

    def complete(self, stub, path):
        asked = json.loads(self.read_body())
        parts = stub.parts.pop(asked["oid"])
        for part in asked["parts"]:
            assert part["etag"] == f'"{hashlib.md5(parts[part["partNumber"]]).hexdigest()}"'
        content = b"".join(parts[number] for number in sorted(parts))
        assert hashlib.sha256(content).hexdigest() == asked["oid"]
        stub.objects[asked["oid"]] = content
        return self.answer(200, b"{}")
