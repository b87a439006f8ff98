"""Models and data by their names on the hub: against a stub of it on this machine, with dropped connections."""

import hashlib
import json
import os
import pathlib
import resource
import shutil
import signal
import subprocess
import sys
import time

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from hub_stub import COMMIT, TOKEN, Stub, git_sum  # noqa: E402
from tiny_model import ROOT, TEMPER, TEMPLATE, copy_fixture  # noqa: E402

MODEL = "some-org/tiny.model"
DATA = "some-org/rows"
ROWS = b"".join(b'{"text": "row %d of the data set, and more words to fill it"}\n' % i for i in range(40000))  # 2.5 MB
DEMO = ROOT / "examples" / "hawaiian" / "base"
PARQUET = pathlib.Path(__file__).resolve().parents[1] / "golden" / "parquet"
SUM = hashlib.sha256(ROWS).hexdigest()


@pytest.fixture
def stub():
    server = Stub()
    yield server
    server.close()


@pytest.fixture
def hub(stub, tmp_path):
    return Box(stub, tmp_path)


class Box:
    def __init__(self, stub, root):
        self.stub = stub
        self.root = root
        self.cache = root / "home" / "hub"
        kept = {
            name: value for name, value in os.environ.items()
            if not name.startswith(("HF_", "HUGGING", "TRANSFORMERS", "TEMPER_", "SSL_CERT_"))
            and not name.lower().endswith(("_proxy", "_ca_bundle"))
        }  # fmt: skip
        self.environment = kept | {"HF_HOME": str(root / "home"), "HF_ENDPOINT": stub.hub_url, "HF_HUB_DISABLE_XET": "1",
                                   "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}  # fmt: skip
        stub.repos[f"datasets/{DATA}"] = {"train.jsonl": ROWS, "README.md": b"about", "other.bin": b"x"}

    def add_model(self):
        folder = copy_fixture("llama32", self.root)
        files = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
        files |= {"original/params.json": b"{}", "pytorch_model.bin": b"x", "model.gguf": b"x", "README.md": b"about",
                  "consolidated.safetensors": b"x", "chat_template.jinja": TEMPLATE.encode()}  # fmt: skip
        self.stub.repos[f"models/{MODEL}"] = files
        return files

    def command(self, *arguments):
        return [TEMPER, *map(str, arguments)]

    def run(self, *arguments, **options):
        environment = self.environment | options.pop("env", {})
        return subprocess.run(self.command(*arguments), capture_output=True, text=True, timeout=60, cwd=self.root,
                              env=environment, **options)  # fmt: skip

    def check_data(self, name=f"hf://datasets/{DATA}", **options):
        return self.run("data", "check", "--data", name, "--json", **options)

    def rows(self, **options):
        done = self.check_data(**options)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)["splits"][0]["rows"]

    def refusal(self, done, code=5):
        """The one line of an error."""
        assert done.returncode == code, done.stderr
        errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1 and done.stdout == ""
        return errors[0]

    def folder(self, kind="datasets", name=DATA):
        return self.cache / f"{kind}--{name.replace('/', '--')}"

    def blobs(self):
        return sorted(path.name for path in (self.folder() / "blobs").iterdir())

    def python(self, code):
        return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60,
                              env=self.environment)  # fmt: skip


def test_a_model_is_fetched_into_the_standard_layout_and_answers(hub):
    files = hub.add_model()
    done = hub.run("generate", "--model", MODEL, "--prompt", "w7 w8", "--max-tokens", 4, "--json")
    assert done.returncode == 0, done.stderr
    assert f"Fetching {MODEL}: " in done.stderr
    folder = hub.folder("models", MODEL)
    assert (folder / "refs" / "main").read_text() == COMMIT
    snapshot = folder / "snapshots" / COMMIT
    weights = [name for name in files if name.startswith("model") and name.endswith(".safetensors")]
    assert sorted(path.name for path in snapshot.iterdir()) == sorted(
        {name for name in files if name.endswith(".json") and "/" not in name} | {"chat_template.jinja", *weights}
    )
    for path in snapshot.iterdir():
        content = files[path.name]
        etag = hashlib.sha256(content).hexdigest() if path.name in weights else git_sum(content)
        assert os.readlink(path) == f"../../blobs/{etag}" and path.read_bytes() == content
    local = hub.run("generate", "--model", snapshot, "--prompt", "w7 w8", "--max-tokens", 4, "--json")
    assert json.loads(local.stdout)["token_ids"] == json.loads(done.stdout)["token_ids"]
    # The second time one request asks what the name stands for, for each set of files, and nothing is fetched.
    before = len(hub.stub.requests)
    assert hub.run("models", "--model", f"hf://{MODEL}@main", "--json").returncode == 0
    assert len(hub.stub.requests) == before + 1


def test_no_weights_come_for_what_needs_none(hub):
    hub.add_model()
    assert hub.run("models", "--model", MODEL).returncode == 0
    assert hub.stub.count(containing="safetensors") == 0


def test_training_records_the_name_and_its_adapter_finds_the_model(hub):
    hub.add_model()
    row = json.dumps({"prompt": "w7 w8", "completion": "w9"}) + "\n"
    hub.stub.repos[f"datasets/{DATA}"] = {"data/train.jsonl": row.encode() * 4, "data/valid.jsonl": row.encode()}
    hub.stub.revisions["dev"] = COMMIT
    done = hub.run("train", "--model", MODEL, "--revision", "dev", "--hf-dataset", DATA, "--iters", 1, "--batch-size", 1,
                   "--run-dir", "run")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads((hub.root / "run" / "run.json").read_text())["config"]["model"] == MODEL
    answer = hub.run("generate", "--adapter", "run", "--prompt", "w7", "--max-tokens", 2, env={"HF_HUB_OFFLINE": "1"})
    assert answer.returncode == 0, answer.stderr


def test_huggingface_hub_finds_what_temper_fetched(hub):
    hub.add_model()
    assert hub.run("generate", "--model", MODEL, "--prompt", "w7", "--max-tokens", 1).returncode == 0
    assert hub.rows() == 40000
    before = len(hub.stub.requests)
    code = (
        "from huggingface_hub import hf_hub_download, snapshot_download, scan_cache_dir\n"
        f"print(hf_hub_download('{MODEL}', 'config.json', local_files_only=True))\n"
        f"print(snapshot_download('{MODEL}', local_files_only=True))\n"
        f"print(hf_hub_download('{DATA}', 'train.jsonl', repo_type='dataset', local_files_only=True))\n"
        "scan = scan_cache_dir()\n"
        "assert not scan.warnings, scan.warnings\n"
        "print(sorted(repo.repo_id for repo in scan.repos))\n"
    )
    done = hub.python(code)
    assert done.returncode == 0, done.stderr
    snapshot = hub.folder("models", MODEL) / "snapshots" / COMMIT
    assert done.stdout.splitlines() == [
        str(snapshot / "config.json"), str(snapshot),
        str(hub.folder() / "snapshots" / COMMIT / "train.jsonl"), str([DATA, MODEL]),
    ]  # fmt: skip
    assert len(hub.stub.requests) == before
    # Asked online it fetches only what Temper left out.
    done = hub.python(f"from huggingface_hub import snapshot_download as f; f('{MODEL}')")
    assert done.returncode == 0, done.stderr
    assert hub.stub.count("storage", "GET", "model.safetensors") == 1


def test_temper_finds_what_huggingface_hub_fetched(hub):
    hub.add_model()
    code = f"from huggingface_hub import snapshot_download as f; f('{MODEL}'); f('{DATA}', repo_type='dataset')"
    done = hub.python(code)
    assert done.returncode == 0, done.stderr
    before = len(hub.stub.requests)
    offline = {"HF_HUB_OFFLINE": "1"}
    assert hub.rows(env=offline) == 40000
    done = hub.run("generate", "--model", MODEL, "--prompt", "w7", "--max-tokens", 1, env=offline)
    assert done.returncode == 0 and len(hub.stub.requests) == before
    assert hub.rows() == 40000
    assert len(hub.stub.requests) == before + 1


def test_a_token_stays_with_its_host(hub):
    hub.stub.private.add(f"datasets/{DATA}")
    assert hub.rows(env={"HF_TOKEN": TOKEN}) == 40000
    sent = {server: {"Authorization" in headers for s, _, _, headers in hub.stub.requests if s == server}
            for server in ("hub", "storage")}  # fmt: skip
    assert sent == {"hub": {True}, "storage": {False}}


def test_the_token_of_the_login_file_is_used(hub):
    hub.stub.private.add(f"datasets/{DATA}")
    (hub.root / "home").mkdir()
    (hub.root / "home" / "token").write_text(TOKEN + "\n")
    assert hub.rows() == 40000


def test_dropped_connections_are_resumed(hub):
    hub.stub.drop_after = [300_000, 0, 700_000, 1_000_000]
    assert hub.rows() == 40000
    starts = [h.get("Range") for s, m, _, h in hub.stub.requests if s == "storage" and m == "GET"]
    assert starts == [None, "bytes=300000-", "bytes=300000-", "bytes=1000000-", "bytes=2000000-"]
    assert hub.blobs() == [SUM]


def test_a_server_without_ranges_starts_over(hub):
    hub.stub.ignores_range = True
    hub.stub.drop_after = [1_000_000]
    assert hub.rows() == 40000
    assert (hub.folder() / "blobs" / SUM).read_bytes() == ROWS


def test_busy_servers_are_asked_again(hub):
    hub.stub.busy = 2
    assert hub.rows() == 40000
    hub.stub.busy, hub.stub.busy_status = 1, 503
    assert hub.rows() == 40000


def test_a_server_that_stays_busy_is_named(hub):
    hub.stub.busy, hub.stub.retry_after = 100, 1000
    line = hub.refusal(hub.check_data())
    assert "answered 429 (too many requests)" in line and "run this again" in line


def test_a_silent_server_is_given_up_and_resumed(hub):
    hub.stub.stall = True
    environment = {"HF_HUB_DOWNLOAD_TIMEOUT": "1"}
    process = subprocess.Popen(hub.command("data", "check", "--data", f"hf://datasets/{DATA}"), env=hub.environment
                               | environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)  # fmt: skip
    wait_for(lambda: hub.stub.count("storage", "GET") >= 2)
    hub.stub.stall = False
    process.communicate(timeout=60)
    assert process.returncode == 0 and hub.blobs() == [SUM]


def wait_for(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def start_and_wait_for_a_part(hub):
    hub.stub.pace = 0.05
    process = subprocess.Popen(hub.command("data", "check", "--data", f"hf://datasets/{DATA}"), env=hub.environment,
                               stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)  # fmt: skip
    part = hub.folder() / "blobs" / f"{SUM}.incomplete"
    wait_for(lambda: part.exists() and part.stat().st_size > 500_000)
    return process, part


def test_a_killed_download_resumes_with_the_right_checksum(hub):
    process, part = start_and_wait_for_a_part(hub)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    kept = part.stat().st_size
    assert 0 < kept < len(ROWS)
    assert not (hub.folder() / "snapshots").exists() or not list((hub.folder() / "snapshots").rglob("*.jsonl"))
    hub.stub.pace = 0
    assert hub.rows() == 40000
    *_, (_, _, _, headers) = [r for r in hub.stub.requests if r[0] == "storage"]
    assert headers["Range"] == f"bytes={kept}-"
    assert hashlib.sha256((hub.folder() / "blobs" / SUM).read_bytes()).hexdigest() == SUM and hub.blobs() == [SUM]


def test_two_processes_fetch_a_blob_once(hub):
    process, _ = start_and_wait_for_a_part(hub)
    second = subprocess.Popen(hub.command("data", "check", "--data", f"hf://datasets/{DATA}"), env=hub.environment,
                              stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)  # fmt: skip
    _, said = second.communicate(timeout=60)
    process.communicate(timeout=60)
    assert (process.returncode, second.returncode) == (0, 0)
    assert f"Waiting for another process that fetches {DATA}: train.jsonl" in said
    assert hub.stub.count("storage", "GET") == 1


def test_a_wrong_checksum_is_deleted_and_named(hub):
    hub.stub.corrupt.add("train.jsonl")
    line = hub.refusal(hub.check_data())
    assert f"{DATA}: train.jsonl: wrong checksum" in line and SUM in line
    assert hub.blobs() == []
    hub.stub.corrupt.clear()
    assert hub.rows() == 40000


def test_a_damaged_part_is_found_by_the_checksum(hub):
    blobs = hub.folder() / "blobs"
    blobs.mkdir(parents=True)
    (blobs / f"{SUM}.incomplete").write_bytes(b"x" * 1000)
    assert "wrong checksum" in hub.refusal(hub.check_data()) and hub.blobs() == []
    assert hub.rows() == 40000


def test_offline_makes_no_request(hub):
    offline = {"HF_HUB_OFFLINE": "1"}
    line = hub.refusal(hub.check_data(env=offline))
    assert DATA in line and "HF_HUB_OFFLINE is set" in line and hub.stub.requests == []
    assert hub.rows() == 40000
    before = len(hub.stub.requests)
    assert hub.rows(env=offline) == 40000 and len(hub.stub.requests) == before


def test_without_a_network_the_cache_serves(hub):
    nowhere = {"HF_ENDPOINT": "http://127.0.0.1:9"}
    line = hub.refusal(hub.check_data(env=nowhere))
    assert f"{DATA}: no such folder here" in line and "127.0.0.1:9" in line and "check the network" in line
    assert hub.rows() == 40000
    done = hub.check_data(env=nowhere)
    assert done.returncode == 0


def test_refusals_say_what_to_do(hub):
    hub.add_model()
    stub = hub.stub
    wrong = hub.refusal(hub.run("models", "--model", "some-org/nothing"))
    assert "some-org/nothing: neither a folder here nor a public model" in wrong and "HF_TOKEN" in wrong
    assert "no revision 'v9'" in hub.refusal(hub.run("models", "--model", f"{MODEL}@v9"))
    stub.gated.add(f"models/{MODEL}")
    gated = hub.refusal(hub.run("models", "--model", MODEL))
    assert "is gated: accept its terms at " in gated and "HF_TOKEN" in gated
    assert "refuses the token" in hub.refusal(hub.run("models", "--model", MODEL, env={"HF_TOKEN": "hf_wrong"}))
    stub.forbidden.add(f"models/{MODEL}")
    assert "denies access" in hub.refusal(hub.run("models", "--model", MODEL, env={"HF_TOKEN": TOKEN}))
    assert "odd characters" in hub.refusal(hub.run("models", "--model", MODEL, env={"HF_TOKEN": "a b"}), 2)
    assert "HF_ENDPOINT" in hub.refusal(hub.run("models", "--model", MODEL, env={"HF_ENDPOINT": "ftp://x"}), 2)
    assert not list(hub.cache.rglob("*.json")) and not list(hub.cache.rglob("*.incomplete"))


def test_what_can_not_be_used_is_refused_before_it_is_fetched(hub):
    stub = hub.stub
    stub.repos["models/o/bins"] = {"config.json": b"{}", "pytorch_model.bin": b"x"}
    refused = hub.run("generate", "--model", "o/bins", "--prompt", "x")
    assert refused.returncode != 0
    stub.repos["datasets/o/subsets"] = {"main/train.jsonl": b"{}", "socratic/train.jsonl": b"{}"}
    assert "name one: main, socratic" in hub.refusal(hub.check_data("hf://datasets/o/subsets"), 3)
    assert "is a model" in hub.refusal(hub.check_data("hf://o/bins"), 2)
    assert "is a data set" in hub.refusal(hub.run("models", "--model", f"hf://datasets/{DATA}"), 2)
    assert stub.count("storage") == 0


def add_gguf(hub, repo, **files):
    """GGUF files of the demo's model by name, each of the type that is given."""
    stored = hub.stub.repos[f"models/{repo}"] = {"README.md": b"about"}
    for name, kind in files.items():
        path = hub.root / f"{name}.gguf"
        done = hub.run("export", "--to", "gguf", "--model", DEMO, "--type", kind, "--out", path, "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["model"] == str(DEMO)
        stored[path.name] = path.read_bytes()
    return stored


def test_a_repository_of_gguf_files(hub):
    def answer(model, **options):
        done = hub.run("generate", "--model", model, "--prompt", "Aloha", "--raw", "--max-tokens", 4, "--json", **options)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)["token_ids"]

    offline = {"HF_HUB_OFFLINE": "1"}
    add_gguf(hub, "o/one", only="q8_0")
    wanted = answer(hub.root / "only.gguf")
    assert answer("o/one") == wanted and answer("o/one", env=offline) == wanted
    assert not list(hub.folder("models", "o/one").rglob("README.md"))

    files = add_gguf(hub, "o/many", **{"m-Q8_0": "q8_0", "m-F16": "f16"})
    files["config.json"] = b"{}"  # of the model that they were made of
    line = hub.refusal(hub.run("generate", "--model", "o/many", "--prompt", "x"), 4)
    assert "several GGUF files: m-F16.gguf, m-Q8_0.gguf; name one as o/many:m-F16.gguf" in line
    assert "there are m-F16.gguf" in hub.refusal(hub.run("generate", "--model", "o/many:Q2_K", "--prompt", "x"), 4)
    assert hub.stub.count(containing="/resolve/") == 2  # both of o/one
    for name in ("o/many:Q8_0", "o/many:m-Q8_0.gguf", "hf://o/many:q8_0@main"):
        assert answer(name) == wanted
    assert answer("o/many:Q8_0", env=offline) == wanted
    assert "HF_HUB_OFFLINE is set" in hub.refusal(hub.run("bench", "load", "--model", "o/many:F16", env=offline))


def test_reports_name_the_gguf_that_was_given(hub):
    add_gguf(hub, "o/one", only="f32")
    for name in (str(hub.root / "only.gguf"), "o/one"):
        for verb in (["bench", "load"], ["convert", "--out", f"c{len(name)}"],
                     ["export", "--to", "gguf", "--out", f"e{len(name)}.gguf"]):  # fmt: skip
            done = hub.run(*verb, "--model", name, "--json")
            assert done.returncode == 0, done.stderr
            assert json.loads(done.stdout)["model"] == name


def test_a_file_name_that_leaves_the_snapshot_is_refused(hub):
    hub.stub.repos["datasets/o/evil"] = {"../../../evil.jsonl": b'{"text": "x"}\n'}
    assert "outside the snapshot" in hub.refusal(hub.check_data("hf://datasets/o/evil"))
    assert not list(hub.root.rglob("evil.jsonl"))


def test_a_full_disk_is_seen_before_and_while_writing(hub):
    hub.stub.announced["train.jsonl"] = 10**18
    line = hub.refusal(hub.check_data())
    assert "are missing and" in line and "HF_HUB_CACHE" in line and hub.stub.count("storage") == 0
    hub.stub.announced.clear()

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))

    line = hub.refusal(hub.check_data(preexec_fn=limit))
    assert f"{DATA}: train.jsonl: cannot write" in line and "make room" in line
    assert hub.blobs() == [f"{SUM}.incomplete"]
    assert hub.rows() == 40000


def test_the_proxy_of_the_environment_is_used(hub):
    environment = {"HF_ENDPOINT": "http://hub.invalid", "http_proxy": hub.stub.hub_url, "no_proxy": "127.0.0.1"}
    assert hub.rows(env=environment) == 40000
    assert {headers["Host"] for server, _, _, headers in hub.stub.requests if server == "hub"} == {"hub.invalid"}


def test_certificates_are_verified_and_encryption_is_kept(hub):
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make a certificate with")
    certificate, key = hub.root / "cert.pem", hub.root / "key.pem"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=stub", "-addext",
                    "subjectAltName=IP:127.0.0.1", "-out", certificate, "-keyout", key],
                   check=True, capture_output=True)  # fmt: skip
    hub.stub.encrypt(certificate, key)
    hub.stub.repos["datasets/o/small"] = {"train.csv": b"text\none\ntwo\n"}
    endpoint = {"HF_ENDPOINT": hub.stub.hub_url}
    line = hub.refusal(hub.check_data("hf://datasets/o/small", env=endpoint))
    assert "certificate" in line.lower() and hub.stub.requests == []
    trusted = endpoint | {"SSL_CERT_FILE": str(certificate)}
    assert hub.check_data("hf://datasets/o/small", env=trusted).returncode == 0
    assert "without encryption" in hub.refusal(hub.check_data(env=trusted))  # its storage


def test_an_interrupted_training_stops_fetching(hub):
    hub.add_model()
    hub.stub.pace = 0.05
    process = subprocess.Popen(hub.command("train", "--model", MODEL, "--data", f"hf://datasets/{DATA}", "--iters", 1),
                               env=hub.environment, cwd=hub.root, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                               text=True)  # fmt: skip
    part = hub.folder() / "blobs" / f"{SUM}.incomplete"
    wait_for(lambda: part.exists() and part.stat().st_size > 100_000)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 130 and "what was fetched stays" in said and not (hub.root / "runs").exists()


def test_a_file_or_folder_of_a_data_set(hub):
    rows = b'{"text": "a"}\n{"text": "b"}\n'
    hub.stub.repos["datasets/o/many"] = {"en/train.jsonl": rows, "en/test.jsonl": rows, "de/train.jsonl": rows * 2}
    shown = json.loads(hub.check_data("hf://datasets/o/many/en").stdout)["splits"]
    assert [split["split"] for split in shown] == ["train", "test"]
    shown = json.loads(hub.check_data(f"hf://datasets/o/many@{COMMIT}/de/train.jsonl").stdout)["splits"]
    assert shown[0]["rows"] == 4


def test_parquet_in_parts_gives_the_same_rows_as_locally(hub):
    parts = {f"data/train-0000{i}-of-00002.parquet": (PARQUET / name).read_bytes()
             for i, name in enumerate(["zstd.parquet", "snappy.parquet"])}  # fmt: skip
    hub.stub.repos["datasets/o/columns"] = parts | {"README.md": b"x", "extra/other.parquet": b"x"}
    local = hub.root / "local"
    for name, content in parts.items():
        (local / name).parent.mkdir(parents=True, exist_ok=True)
        (local / name).write_bytes(content)
    model = copy_fixture("llama32", hub.root)
    fingerprints = set()
    for number, data in enumerate(["hf://datasets/o/columns", "hf://datasets/o/columns/data/*.parquet", local]):
        done = hub.run("train", "--model", model, "--data", data, "--iters", 1, "--batch-size", 1, "--run-dir", f"run{number}")
        assert done.returncode == 0, done.stderr
        manifest = json.loads((hub.root / f"run{number}" / "run.json").read_text())
        assert manifest["dataset"]["splits"][0]["examples"] == 100
        fingerprints.add(manifest["dataset"]["fingerprint"])
    assert len(fingerprints) == 1
    assert hub.stub.count(containing="extra") == 0  # what is not needed is not asked for


def test_hf_dataset_means_what_mlx_lm_means(hub):
    rows = [json.dumps({"body": f"w{i}"}) + "\n" for i in range(3, 23)]
    hub.stub.repos["datasets/o/set"] = {"main/train.jsonl": "".join(rows).encode(), "main/test.jsonl": rows[0].encode()}
    model = copy_fixture("llama32", hub.root)
    config = {"model": str(model), "train": True, "iters": 1, "batch_size": 1, "hf_dataset": [
        {"path": "o/set", "config": {"name": "main"}, "text_feature": "body"},
        {"path": "o/set", "config": {"name": "main"}, "text_feature": "body", "train_split": "train[:5]+test",
         "valid_split": "test"}]}  # fmt: skip
    (hub.root / "run.yaml").write_text(json.dumps(config))
    done = hub.run("train", "--config", "run.yaml", "--run-dir", "run")
    assert done.returncode == 0, done.stderr
    splits = json.loads((hub.root / "run" / "run.json").read_text())["dataset"]["splits"]
    assert {split["split"]: split["examples"] for split in splits} == {"train": 16 + 5 + 1, "valid": 2 + 1}
