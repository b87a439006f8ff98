"""A small S3 on this machine: listing and reading of buckets, every request's signature checked, with its faults.

The check is written from AWS's description of version 4 signatures with Python's hmac alone.
"""

import hashlib
import hmac
import re
import threading
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from xml.sax.saxutils import escape

ACCESS_KEY, SECRET_KEY, REGION = "AKIDSTUB", "se/cret+key", "eu-north-7"


def digest(key, text):
    return hmac.new(key, text.encode(), hashlib.sha256).digest()


def wrong_signature(method, target, headers, secret):
    """The S3 error code of what is wrong, or None. `headers`: names in lower case."""
    form = re.compile(r"AWS4-HMAC-SHA256 Credential=([^/]+)/(\d{8})/([^/]+)/s3/aws4_request, ?"
                      r"SignedHeaders=([^,]+), ?Signature=([0-9a-f]{64})")  # fmt: skip
    found = form.fullmatch(headers.get("authorization", ""))
    if not found:
        return "AccessDenied"
    key_id, day, region, names, signature = found.groups()
    if key_id != ACCESS_KEY:
        return "InvalidAccessKeyId"
    if region != REGION:
        return "AuthorizationHeaderMalformed"
    path, _, query = target.partition("?")
    pairs = sorted(pair.partition("=")[::2] for pair in query.split("&") if pair)
    assert {"host", "x-amz-date", "x-amz-content-sha256"} <= set(names.split(";"))
    canonical = "\n".join([
        method, path, "&".join(f"{name}={value}" for name, value in pairs),
        *(f"{name}:{headers[name].strip()}" for name in names.split(";")), "", names, headers["x-amz-content-sha256"],
    ])  # fmt: skip
    text = "\n".join(["AWS4-HMAC-SHA256", headers["x-amz-date"], f"{day}/{region}/s3/aws4_request",
                      hashlib.sha256(canonical.encode()).hexdigest()])  # fmt: skip
    key = ("AWS4" + secret).encode()
    for part in (day, region, "s3", "aws4_request"):
        key = digest(key, part)
    return None if digest(key, text).hex() == signature else "SignatureDoesNotMatch"


class Stub:
    def __init__(self):
        self.buckets = {"data": {}}  # bucket -> {key: bytes}
        self.page = 1000  # keys a page of a listing
        self.session = None  # the session token that is asked for
        self.expired = False
        self.denies_listing = False
        self.drop_after = []  # bytes after which the next answers with objects break off
        self.pace = 0.0
        self.busy = 0  # answer that many requests with 503 first
        self.replaces = {}  # key -> content that takes its place after the next listing
        self.requests = []  # (method, target, headers)
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.server.stub = self
        self.server.handle_error = lambda *_: None
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def close(self):
        self.server.shutdown()
        self.server.server_close()


def etag(content):
    return f'"{hashlib.md5(content).hexdigest()}"'


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        stub = self.server.stub
        headers = {name.lower(): value for name, value in self.headers.items()}
        stub.requests.append((self.command, self.path, headers))
        try:
            self.handle_request(stub, headers)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def error(self, status, code):
        more = f"<Region>{REGION}</Region>" if code == "AuthorizationHeaderMalformed" else ""
        self.answer(status, f"<Error><Code>{code}</Code><Message>no</Message>{more}</Error>".encode())

    def answer(self, status, body, **headers):
        self.send_response(status)
        for name, value in (headers | {"Content_Length": len(body)}).items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def handle_request(self, stub, headers):
        if stub.busy > 0:
            stub.busy -= 1
            return self.error(503, "SlowDown")
        if wrong := wrong_signature(self.command, self.path, headers, SECRET_KEY):
            return self.error(400 if wrong == "AuthorizationHeaderMalformed" else 403, wrong)
        if stub.expired:
            return self.error(400, "ExpiredToken")
        if stub.session is not None and headers.get("x-amz-security-token") != stub.session:
            return self.error(403, "InvalidToken")
        path, _, query = self.path.partition("?")
        _, bucket, key = urllib.parse.unquote(path).split("/", 2)
        if bucket not in stub.buckets:
            return self.error(404, "NoSuchBucket")
        if not key:
            return self.list(stub, stub.buckets[bucket], urllib.parse.parse_qs(query, keep_blank_values=True))
        return self.read(stub, stub.buckets[bucket], key, headers)

    def list(self, stub, objects, query):
        if stub.denies_listing:
            return self.error(403, "AccessDenied")
        assert query["list-type"] == ["2"]
        after = query.get("continuation-token", [""])[0]
        keys = sorted(key for key in objects if key.startswith(query["prefix"][0]) and key > after)
        page, rest = keys[: stub.page], keys[stub.page :]
        quote = urllib.parse.quote_plus if query.get("encoding-type") == ["url"] else str
        entries = "".join(
            f"<Contents><Key>{escape(quote(key))}</Key><ETag>{escape(etag(objects[key]), {chr(34): '&quot;'})}</ETag>"
            f"<Size>{len(objects[key])}</Size></Contents>" for key in page
        )  # fmt: skip
        more = f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>" if rest else ""
        body = (f"<ListBucketResult><EncodingType>url</EncodingType><IsTruncated>{str(bool(rest)).lower()}</IsTruncated>"
                f"{more}{entries}</ListBucketResult>")  # fmt: skip
        objects |= stub.replaces
        stub.replaces = {}
        return self.answer(200, body.encode())

    def read(self, stub, objects, key, headers):
        if key not in objects:
            return self.error(404, "NoSuchKey")
        content = objects[key]
        if headers.get("if-match", etag(content)) != etag(content):
            return self.error(412, "PreconditionFailed")
        begin = int(re.fullmatch(r"bytes=(\d+)-", headers["range"])[1]) if "range" in headers else 0
        drop = stub.drop_after.pop(0) if stub.drop_after and self.command == "GET" else None
        more = {"Content_Range": f"bytes {begin}-{len(content) - 1}/{len(content)}"} if begin else {}
        if drop is None:
            return self.answer(206 if begin else 200, content[begin:], ETag=etag(content), **more)
        self.send_response(206 if begin else 200)
        for name, value in (more | {"Content_Length": len(content) - begin}).items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        self.wfile.write(content[begin : begin + drop])
        self.wfile.flush()
        self.close_connection = True
        return None
