"""`temper upload` against a stub of the hub, which huggingface_hub's own upload shows to be a faithful one."""

import hashlib
import json
import os
import pathlib
import subprocess
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from hub_stub import COMMIT, READER, TOKEN, Stub  # noqa: E402
from tiny_model import TEMPER, copy_fixture  # noqa: E402

REPO = "me/my-adapter"
WEIGHTS = bytes(range(256)) * 12_000  # 3 MB


class Box:
    def __init__(self, stub, root):
        self.stub = stub
        self.root = root
        kept = {name: value for name, value in os.environ.items()
                if not name.startswith(("HF_", "TEMPER_")) and not name.lower().endswith("_proxy")}  # fmt: skip
        self.environment = kept | {"HF_HOME": str(root / "home"), "HF_ENDPOINT": stub.hub_url, "HF_TOKEN": TOKEN,
                                   "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1",
                                   "HF_HUB_DISABLE_TELEMETRY": "1"}  # fmt: skip
        self.run_folder = root / "run"
        self.make_run()

    def make_run(self):
        (self.run_folder / "checkpoints" / "best").mkdir(parents=True)
        (self.run_folder / "adapters.safetensors").write_bytes(WEIGHTS)
        (self.run_folder / "0000100_adapters.safetensors").write_bytes(b"x" * 1000)
        (self.run_folder / "checkpoints" / "best" / "adapters.safetensors").write_bytes(b"x")
        (self.run_folder / "events.jsonl").write_text("{}\n")
        (self.run_folder / "adapter_config.json").write_text(json.dumps({"fine_tune_type": "lora"}))
        self.write_manifest("some-org/base")

    def write_manifest(self, model):
        config = {"model": model, "iters": 100, "learning_rate": 1e-4, "fine_tune_type": "lora", "data": "/secret/place",
                  "lora_parameters": {"rank": 8}}  # fmt: skip
        splits = [{"split": "train", "path": "/secret/place/train.jsonl", "examples": 1234}]
        (self.run_folder / "run.json").write_text(json.dumps({
            "temper_version": "0.1.0", "config": config, "dataset": {"fingerprint": "x", "splits": splits},
            "result": {"best_val_loss": 1.25}}))  # fmt: skip

    def run(self, *flags, path=None, to=REPO, **env):
        environment = {name: value for name, value in (self.environment | env).items() if value is not None}
        return subprocess.run([TEMPER, "upload", "--path", str(path or self.run_folder), "--to", to, *flags],
                              capture_output=True, text=True, timeout=60, cwd=self.root, env=environment)  # fmt: skip

    def upload(self, *flags, **options):
        done = self.run("--json", *flags, **options)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def refusal(self, code=5, **options):
        done = self.run(**options)
        assert done.returncode == code, done.stderr
        errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1 and done.stdout == ""
        return errors[0]

    def files(self):
        return self.stub.repos[f"models/{REPO}"]


@pytest.fixture
def hub(tmp_path):
    stub = Stub()
    yield Box(stub, tmp_path)
    stub.close()


def test_a_run_becomes_a_repository_with_a_page(hub):
    told = hub.upload("--private", "--message", "First try")
    assert told["commit"] == COMMIT and told["url"] == f"{hub.stub.hub_url}/{REPO}"
    assert told["large_files_sent"] == 1 and told["bytes_sent"] == len(WEIGHTS)
    files = hub.files()
    assert sorted(files) == ["README.md", "adapter_config.json", "adapters.safetensors"] == sorted(told["files"])
    assert files["adapters.safetensors"] == WEIGHTS
    assert hub.stub.created == {f"models/{REPO}": True}
    assert hub.stub.commits == [(f"models/{REPO}", "main", "First try")]
    page = files["README.md"].decode()
    assert page.startswith("---\nbase_model: some-org/base\nlicense: unknown\ntags:\n- temper\n- lora\n---\n")
    for part in ("| rank | 8 |", "| iters | 100 |", "| learning_rate | 0.0001 |", "| best validation loss | 1.25 |",
                 "| train examples | 1234 |"):  # fmt: skip
        assert part in page
    assert "secret" not in page and not (hub.run_folder / "README.md").exists()


def test_a_base_on_this_machine_is_not_named_and_a_page_that_is_there_is_kept(hub):
    hub.write_manifest(str(hub.root / "my-model"))
    hub.upload()
    assert "my-model" not in hub.files()["README.md"].decode() and b"base_model" not in hub.files()["README.md"]
    (hub.run_folder / "README.md").write_text("mine")
    hub.upload()
    assert hub.files()["README.md"] == b"mine"


def test_what_is_there_is_not_sent_again(hub):
    hub.upload()
    told = hub.upload()
    assert (told["large_files_sent"], told["large_files_there"], told["bytes_sent"]) == (0, 1, 0)
    assert hub.stub.count("storage", "PUT") == 1 and len(hub.stub.commits) == 2


def test_a_model_s_folder_and_one_file(hub):
    model = copy_fixture("llama32", hub.root)
    (model / "notes.txt").write_text("mine alone")
    (model / "run.log").write_text("mine alone")
    told = hub.upload(path=model)
    assert {"config.json", "tokenizer.json", "README.md"} < set(told["files"])
    assert not {"notes.txt", "run.log"} & set(told["files"])
    (hub.root / "alone").mkdir()
    (hub.root / "alone" / "m.gguf").write_bytes(b"GGUF")
    assert hub.upload(path=hub.root / "alone" / "m.gguf", to="me/one")["files"] == ["m.gguf", "README.md"]


def test_an_upload_in_parts_and_dropped_connections(hub):
    hub.stub.chunk = 1 << 20
    hub.stub.drop_uploads = [None, 500_000, 900_000]
    told = hub.upload()
    assert told["bytes_sent"] == len(WEIGHTS) and hub.files()["adapters.safetensors"] == WEIGHTS
    assert hub.stub.count("storage", "PUT") == 5  # three parts, one of them three times


def test_a_dropped_upload_is_sent_again(hub):
    hub.stub.drop_uploads = [1_000_000]
    hub.stub.busy = 1
    hub.upload()
    assert hub.files()["adapters.safetensors"] == WEIGHTS and hub.stub.count("storage", "PUT") == 2


def test_a_branch_is_made(hub):
    assert hub.upload("--revision", "try/two")["revision"] == "try/two"
    assert hub.stub.commits[0][1] == "try/two" or hub.stub.commits[0][1] == "try%2Ftwo"


def test_each_refusal_is_one_line_that_says_what_to_do(hub):
    assert "set HF_TOKEN to one from" in hub.refusal(HF_TOKEN=None)
    assert "refuses the token" in hub.refusal(HF_TOKEN="hf_wrong")
    assert "the token may not write there" in hub.refusal(HF_TOKEN=READER)
    assert "You don't have the rights to create a model under others" in hub.refusal(to="others/thing")
    assert "HF_HUB_OFFLINE is set" in hub.refusal(HF_HUB_OFFLINE="1")
    for name in ("name", "a/b/c", "hf://datasets/a/b", "me/--x", ""):
        assert "write org/name" in hub.refusal(2, to=name)
    assert "no such file or folder" in hub.refusal(2, path=hub.root / "nowhere")
    assert "nothing to upload" in hub.refusal(4, path=hub.root / "home" if (hub.root / "home").exists() else hub.root)
    assert hub.stub.commits == []
    hub.stub.close()
    assert "uploading failed" in hub.refusal()


def test_huggingface_hub_uploads_to_the_stub_and_fetches_what_temper_uploaded(hub):
    hub.stub.chunk = 1 << 20
    code = (f"from huggingface_hub import HfApi, snapshot_download\napi = HfApi()\n"
            f"api.create_repo({REPO!r}, exist_ok=True)\n"
            f"api.upload_folder(repo_id={REPO!r}, folder_path={str(hub.run_folder)!r}, commit_message='theirs')\n"
            f"print(snapshot_download({REPO!r}))")  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env=hub.environment)
    assert done.returncode == 0, done.stderr
    assert hub.files()["adapters.safetensors"] == WEIGHTS and hub.stub.commits[0][2] == "theirs"
    assert hashlib.sha256(WEIGHTS).hexdigest() in hub.stub.objects
    # The same bytes by Temper: the hub has them.
    told = hub.upload()
    assert (told["large_files_sent"], told["large_files_there"]) == (0, 1)
    done = subprocess.run([sys.executable, "-c", f"from huggingface_hub import snapshot_download; print(snapshot_download({REPO!r}))"],
                          capture_output=True, text=True, timeout=60, env=hub.environment)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (pathlib.Path(done.stdout.strip()) / "adapters.safetensors").read_bytes() == WEIGHTS
