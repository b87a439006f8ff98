"""Data from a real S3 server, versitygw, which checks signatures itself. Needs Go (the first build takes minutes)."""

import datetime
import hashlib
import hmac
import http.client
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import time
import urllib.parse

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from tiny_model import ROOT, TEMPER, copy_fixture  # noqa: E402

VERSION = "v1.8.0"
KEY, SECRET, REGION = "AKIDREAL", "a/secret+with=signs", "us-east-1"
PARQUET = ROOT / "tests" / "golden" / "parquet"
ROWS = b"".join(b'{"text": "row %d of the data set, and more words to fill it"}\n' % i for i in range(40000))
ODD = "odd/a b+c&d=e%20'ü~(1);@ é.jsonl"


def server_binary():
    tools = ROOT / "build" / "tools"
    binary = pathlib.Path(os.environ.get("TEMPER_VERSITYGW", tools / f"versitygw-{VERSION}"))
    if not binary.exists():
        if shutil.which("go") is None:
            pytest.skip("Go is not installed")
        subprocess.run(["go", "install", f"github.com/versity/versitygw/cmd/versitygw@{VERSION}"], check=True, timeout=540,
                       env=os.environ | {"GOBIN": str(tools), "GOFLAGS": "-mod=mod"})  # fmt: skip
        (tools / "versitygw").rename(binary)
    return binary


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def put(port, target, body=b""):
    """A signed PUT, by hand."""
    now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    path = urllib.parse.quote(target, safe="/-_.~")
    headers = {"host": f"127.0.0.1:{port}", "x-amz-content-sha256": hashlib.sha256(body).hexdigest(), "x-amz-date": now}
    names = ";".join(headers)
    canonical = "\n".join(["PUT", path, "", *(f"{n}:{v}" for n, v in headers.items()), "", names,
                           headers["x-amz-content-sha256"]])  # fmt: skip
    scope = f"{now[:8]}/{REGION}/s3/aws4_request"
    text = "\n".join(["AWS4-HMAC-SHA256", now, scope, hashlib.sha256(canonical.encode()).hexdigest()])
    key = ("AWS4" + SECRET).encode()
    for part in scope.split("/"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    signature = hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
    headers["Authorization"] = f"AWS4-HMAC-SHA256 Credential={KEY}/{scope},SignedHeaders={names},Signature={signature}"
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("PUT", path, body, headers)
    answer = connection.getresponse()
    said = answer.read()
    assert answer.status == 200, said


def wait_for(port):
    for _ in range(200):
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise AssertionError("versitygw does not answer")


class Server:
    def __init__(self, root):
        self.root = root
        self.port = free_port()
        (root / "objects").mkdir()
        command = [server_binary(), "--access", KEY, "--secret", SECRET, "--region", REGION, "--port",
                   f"127.0.0.1:{self.port}", "--quiet", "posix", "--sidecar", str(root / "meta"), str(root / "objects")]  # fmt: skip
        (root / "meta").mkdir()
        self.process = subprocess.Popen([str(word) for word in command], stdout=subprocess.DEVNULL)
        wait_for(self.port)
        put(self.port, "/data")
        for name in ("zstd", "snappy", "gzip"):
            put(self.port, f"/data/sets/{name}.parquet", (PARQUET / f"{name}.parquet").read_bytes())
        put(self.port, "/data/rows/train.jsonl", ROWS)
        put(self.port, f"/data/{ODD}", ROWS[: ROWS.index(b"row 100 ") - 10])
        for i in range(1005):
            put(self.port, f"/data/many/part-{i:04}.jsonl", b'{"text": "a"}\n')
        self.environment = {name: value for name, value in os.environ.items()
                            if not name.startswith(("AWS_", "TEMPER_")) and not name.lower().endswith("_proxy")}  # fmt: skip
        self.environment |= {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_REGION": REGION,
                             "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}", "HOME": str(root),
                             "XDG_CACHE_HOME": str(root / "cache")}  # fmt: skip

    def run(self, *arguments, **env):
        return subprocess.run([TEMPER, *map(str, arguments)], capture_output=True, text=True, timeout=120, cwd=self.root,
                              env=self.environment | env)  # fmt: skip

    def rows(self, address):
        done = self.run("data", "check", "--data", address, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)["splits"][0]["rows"]

    def refusal(self, address, **env):
        done = self.run("data", "check", "--data", address, **env)
        assert done.returncode == 5, done.stderr
        return done.stderr


@pytest.fixture(scope="module")
def s3(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("s3"))
    yield server
    server.process.terminate()
    server.process.wait(timeout=10)


def test_objects_folders_patterns_and_odd_keys(s3):
    assert s3.rows("s3://data/rows/train.jsonl") == 40000
    assert s3.rows("s3://data/rows") == 40000
    assert s3.rows("s3://data/sets/*.parquet") == 150
    assert s3.rows("s3://data/" + ODD) == 100


def test_a_listing_of_more_than_one_page(s3):
    assert s3.rows("s3://data/many/part-*.jsonl") == 1005


def test_an_interrupted_download_goes_on(s3):
    s3.rows("s3://data/rows/train.jsonl")
    [whole] = [path for path in (s3.root / "cache").rglob("objects/*") if path.stat().st_size == len(ROWS)]
    part = whole.with_name(whole.name + ".incomplete")
    part.write_bytes(ROWS[:1_000_000])
    whole.unlink()
    done = s3.run("data", "check", "--data", "s3://data/rows/train.jsonl", "--json")
    assert "of which 1.00 MB came before" in done.stderr and whole.read_bytes() == ROWS and not part.exists()


def test_a_wrong_secret_and_wrong_names_are_said(s3):
    assert "check AWS_SECRET_ACCESS_KEY" in s3.refusal("s3://data/rows", AWS_SECRET_ACCESS_KEY="wrong")
    assert "check AWS_ACCESS_KEY_ID" in s3.refusal("s3://data/rows", AWS_ACCESS_KEY_ID="wrong")
    assert "there is no bucket 'nothing'" in s3.refusal("s3://nothing/rows")
    assert "no such object" in s3.refusal("s3://data/nothing.jsonl")


def test_training_sees_the_rows_that_it_sees_locally(s3):
    model = copy_fixture("llama32", s3.root)
    fingerprints = set()
    for data in ("s3://data/sets/*.parquet", f"{PARQUET}/gzip.parquet,{PARQUET}/snappy.parquet,{PARQUET}/zstd.parquet"):
        run = f"run{len(fingerprints)}"
        done = s3.run("train", "--model", model, "--data", data, "--iters", 1, "--batch-size", 1, "--run-dir", run)
        assert done.returncode == 0, done.stderr
        fingerprints.add(json.loads((s3.root / run / "run.json").read_text())["dataset"]["fingerprint"])
        shutil.rmtree(s3.root / run)
    assert len(fingerprints) == 1
