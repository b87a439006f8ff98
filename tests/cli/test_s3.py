"""Data from S3, against a stub of it that checks every signature; a real server: tests/slow/test_versitygw.py."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from s3_stub import ACCESS_KEY, REGION, SECRET_KEY, Stub  # noqa: E402
from tiny_model import TEMPER, copy_fixture  # noqa: E402

FIXTURES = pathlib.Path(__file__).resolve().parents[1] / "golden" / "parquet"
ROWS = b"".join(b'{"text": "row %d of the data set, and more words to fill it"}\n' % i for i in range(40000))  # 2.5 MB
LINES = ROWS.splitlines(keepends=True)
FEW = b"".join(LINES[:100])
ODD = "odd/a b+c&d=e%20'ü~(1)*,;@.jsonl"


def environment_for(root, **more):
    kept = {name: value for name, value in os.environ.items()
            if not name.startswith(("AWS_", "TEMPER_", "HF_")) and not name.lower().endswith("_proxy")}  # fmt: skip
    return kept | {"HOME": str(root), "XDG_CACHE_HOME": str(root / "cache")} | more


class Box:
    def __init__(self, stub, root):
        self.stub = stub
        self.root = root
        self.environment = environment_for(root, AWS_ACCESS_KEY_ID=ACCESS_KEY, AWS_SECRET_ACCESS_KEY=SECRET_KEY,
                                           AWS_REGION=REGION, AWS_ENDPOINT_URL=stub.url)  # fmt: skip
        self.objects = stub.buckets["data"]
        self.objects |= {"sets/train.jsonl": ROWS, "sets/valid.jsonl": FEW, "sets/README.md": b"about"}

    def check(self, address, code=0, **env):
        environment = {name: value for name, value in (self.environment | env).items() if value is not None}
        done = subprocess.run([TEMPER, "data", "check", "--data", address, "--json"], capture_output=True, text=True,
                              timeout=60, cwd=self.root, env=environment)  # fmt: skip
        assert done.returncode == code, done.stderr
        return done

    def splits(self, address, **env):
        return {split["split"]: split["rows"] for split in json.loads(self.check(address, **env).stdout)["splits"]}

    def refusal(self, address, code=5, **env):
        done = self.check(address, code, **env)
        errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1 and done.stdout == ""
        return errors[0]

    def fetched(self):
        return [target for method, target, _ in self.stub.requests if method == "GET" and "?" not in target]


@pytest.fixture
def s3(tmp_path):
    stub = Stub()
    yield Box(stub, tmp_path)
    stub.close()


def test_an_object_a_folder_and_a_pattern(s3):
    assert s3.splits("s3://data/sets/train.jsonl") == {"train": 40000}
    assert s3.splits("s3://data/sets") == {"train": 40000, "valid": 100}
    assert s3.splits("s3://data/sets/*.jsonl") == {"train": 40000, "valid": 100}
    s3.objects |= {"parts/a.jsonl": FEW, "parts/b.jsonl": FEW + FEW, "parts/c.csv": b"text\nx\n"}
    assert s3.splits("s3://data/parts/[ab].jsonl") == {"train": 300}
    # What came once is not fetched again, whatever it is called by.
    assert len(s3.fetched()) == 4
    assert s3.splits("s3://data/sets/") == {"train": 40000, "valid": 100}
    assert len(s3.fetched()) == 4


def test_another_content_is_fetched_anew(s3):
    s3.splits("s3://data/sets/valid.jsonl")
    s3.objects["sets/valid.jsonl"] = LINES[0]
    assert s3.splits("s3://data/sets/valid.jsonl") == {"train": 1}


def test_odd_keys_and_listings_of_many_pages(s3):
    s3.objects[ODD] = FEW
    assert s3.splits("s3://data/" + ODD.replace("*", "?").replace(",", "?")) == {"train": 100}
    s3.stub.page = 3
    s3.objects |= {f"many/part-{i}.jsonl": b'{"text": "a"}\n' * (i + 1) for i in range(10)}
    assert s3.splits("s3://data/many/part-*.jsonl") == {"train": 55}


def test_dropped_connections_are_resumed_where_they_ended(s3):
    s3.stub.drop_after = [1_000_000, 700_000]
    s3.stub.busy = 1
    assert s3.splits("s3://data/sets/train.jsonl") == {"train": 40000}
    ranges = [headers.get("range") for method, target, headers in s3.stub.requests if "?" not in target]
    assert ranges == [None, "bytes=1000000-", "bytes=1700000-"]


def test_an_object_that_is_replaced_while_it_comes(s3):
    s3.stub.replaces = {"sets/train.jsonl": ROWS + ROWS}
    assert "was replaced while it was fetched" in s3.refusal("s3://data/sets/train.jsonl")
    assert s3.splits("s3://data/sets/train.jsonl") == {"train": 80000}


def test_the_region_is_learned_and_a_session_s_token_sent(s3):
    assert s3.splits("s3://data/sets", AWS_REGION="us-east-1")["valid"] == 100
    s3.stub.session = "to/ken=="
    assert s3.splits("s3://data/sets", AWS_SESSION_TOKEN="to/ken==")["valid"] == 100


def test_credentials_of_a_profile(s3):
    (s3.root / ".aws").mkdir()
    (s3.root / ".aws" / "credentials").write_text(
        f"[default]\naws_access_key_id = x\n[work]\naws_access_key_id = {ACCESS_KEY}\naws_secret_access_key={SECRET_KEY}\n")
    (s3.root / ".aws" / "config").write_text(f"[profile work]\nregion = {REGION}\nendpoint_url = {s3.stub.url}\n")
    none = dict.fromkeys(["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION", "AWS_ENDPOINT_URL"])
    assert s3.splits("s3://data/sets", AWS_PROFILE="work", **none)["valid"] == 100


def test_who_may_read_but_not_list_gets_the_object(s3):
    s3.stub.denies_listing = True
    assert s3.splits("s3://data/sets/valid.jsonl") == {"train": 100}
    assert "s3:ListBucket" in s3.refusal("s3://data/sets/*.jsonl")


def test_each_refusal_is_one_line_that_says_what_to_do(s3):
    none = dict.fromkeys(["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
    assert "no credentials: set AWS_ACCESS_KEY_ID" in s3.refusal("s3://data/sets", **none)
    assert s3.stub.requests == []
    assert "check AWS_SECRET_ACCESS_KEY" in s3.refusal("s3://data/sets", AWS_SECRET_ACCESS_KEY="wrong")
    assert "check AWS_ACCESS_KEY_ID" in s3.refusal("s3://data/sets", AWS_ACCESS_KEY_ID="wrong")
    assert "there is no bucket 'nothing'" in s3.refusal("s3://nothing/sets")
    assert "no such object" in s3.refusal("s3://data/sets/nothing.jsonl")
    assert "no such object" in s3.refusal("s3://data/se")  # a prefix, but no folder
    assert "there is no .jsonl" in s3.refusal("s3://data/sets/*.parquet", 3)
    assert "there is no .jsonl" in s3.refusal("s3://data/sets/README.md", 3)
    assert "is no address in S3" in s3.refusal("s3://", 2)
    assert "AWS_ENDPOINT_URL 'nowhere' is not an address" in s3.refusal("s3://data/sets", 2, AWS_ENDPOINT_URL="nowhere")
    s3.stub.expired = True
    assert "token is expired; get new credentials" in s3.refusal("s3://data/sets")


def test_without_a_network_what_came_before_is_used(s3):
    gone = {"AWS_ENDPOINT_URL": s3.stub.url}
    assert s3.splits("s3://data/sets")["valid"] == 100
    s3.stub.close()
    done = s3.check("s3://data/sets", **gone)
    assert "what was fetched before is used" in done.stderr
    assert "check the network" in s3.refusal("s3://data/other", **gone)


def test_parquet_gives_the_same_rows_and_fingerprint_as_locally(s3):
    model = copy_fixture("llama32", s3.root)
    s3.objects |= {f"p/train-0000{i}-of-00002.parquet": (FIXTURES / name).read_bytes()
                   for i, name in enumerate(["zstd.parquet", "snappy.parquet"])}  # fmt: skip
    local = s3.root / "local"
    local.mkdir()
    for key in [key for key in s3.objects if key.startswith("p/")]:
        (local / key[2:]).write_bytes(s3.objects[key])
    seen = []
    for data in ("s3://data/p", local):
        done = subprocess.run([TEMPER, "train", "--model", model, "--data", str(data), "--iters", "1", "--batch-size", "1",
                               "--run-dir", f"run{len(seen)}"], capture_output=True, text=True, timeout=60, cwd=s3.root,
                              env=s3.environment)  # fmt: skip
        assert done.returncode == 0, done.stderr
        seen.append(json.loads((s3.root / f"run{len(seen)}" / "run.json").read_text())["dataset"])
    assert seen[0]["fingerprint"] == seen[1]["fingerprint"]
    assert seen[0]["splits"][0]["examples"] == seen[1]["splits"][0]["examples"] == 100
