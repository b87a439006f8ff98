"""Adapters between PEFT, Temper and mlx-lm, and fused folders in transformers, live: the same logits everywhere.

Needs TEMPER_BINARY, mlx-lm (tests/requirements.txt), and TEMPER_ORACLE_PYTHON: an interpreter with what
tests/oracle-requirements.txt names (scripts/setup.sh oracle makes one in .venv-oracle).
"""

import json
import os
import pathlib
import subprocess
import sys

import mlx.core as mx
import pytest
from mlx_lm.tuner.utils import load_adapters

TESTS = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(TESTS / "parity")]
from conftest import quick_mlx  # noqa: E402, F401
from test_families import load_mlx_lm, temper, to_float32  # noqa: E402
from test_fuse import write_adapter  # noqa: E402
from tiny_model import ROOT, copy_fixture  # noqa: E402

ORACLE = os.environ.get("TEMPER_ORACLE_PYTHON", str(ROOT / ".venv-oracle" / "bin" / "python"))
TOKENS = [[5, 17, 80, 33, 6, 9, 41, 60, 22, 7, 88, 12], [90, 4, 4, 31, 55, 8, 19, 77, 63, 2, 11, 40]]
ATTENTION = ["q_proj", "v_proj"]
LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
RANK = {"r": 3, "lora_alpha": 6}
EXPERTS = {"w1", "w2", "w3", "gate_proj", "up_proj", "down_proj"}

# name: (model, LoraConfig's settings). `whole`: something is trained whole, which goes to mlx-lm as whole weights
CASES = {
    "lora": ("llama/llama2", {**RANK, "target_modules": LINEARS}),
    "dora": ("llama/llama2", {**RANK, "target_modules": LINEARS, "use_dora": True}),
    "rslora": ("llama/llama2", {**RANK, "target_modules": LINEARS, "use_rslora": True}),
    "all linear": ("llama/llama2", {**RANK, "target_modules": "all-linear"}),
    "regex": ("llama/llama2", {**RANK, "target_modules": r".*\.1\.self_attn\.(q|o)_proj"}),
    "patterns": (
        "llama/llama2",
        {**RANK, "target_modules": ["q_proj", "v_proj", "down_proj"], "rank_pattern": {"down_proj": 5},
         "alpha_pattern": {r"layers\.1\.self_attn\..*": 10}},
    ),
    "patterns dora": (
        "llama/llama2",
        {**RANK, "target_modules": ["q_proj", "down_proj"], "rank_pattern": {"^model.layers.0.mlp.down_proj": 5},
         "use_dora": True},
    ),
    "patterns rslora": (
        "llama/llama2",
        {**RANK, "target_modules": ["q_proj", "down_proj"], "rank_pattern": {"down_proj": 5}, "use_rslora": True},
    ),
    "one layer": ("llama/llama32", {**RANK, "target_modules": LINEARS, "layers_to_transform": [1]}),
    "embedding and head": ("llama/llama2", {**RANK, "target_modules": ["q_proj", "embed_tokens", "lm_head"]}),
    "saved modules": ("llama/llama2", {**RANK, "target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]}),
    "saved norms dora": (
        "llama/llama2",
        {**RANK, "target_modules": ["q_proj"], "modules_to_save": ["input_layernorm", "norm"], "use_dora": True},
    ),
    "biases": ("llama/biases", {**RANK, "target_modules": ["q_proj", "down_proj"], "bias": "all"}),
    "tied embedding": (
        "llama/llama32", {**RANK, "target_modules": ["q_proj", "embed_tokens"], "ensure_weight_tying": True}
    ),
    "tied saved": (
        "llama/llama32",
        {**RANK, "target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
    ),
    "qwen2 tied": ("families/qwen2_tied", {**RANK, "target_modules": LINEARS}),
    "qwen3": ("families/qwen3", {**RANK, "target_modules": LINEARS, "use_dora": True}),
    "gemma2": ("families/gemma2", {**RANK, "target_modules": LINEARS}),
    "gemma3 text": ("families/gemma3_text", {**RANK, "target_modules": LINEARS}),
    "gemma3": ("families/gemma3", {**RANK, "target_modules": r".*language_model.*\.(q|gate)_proj"}),
    "phi3": ("families/phi3", {**RANK, "target_modules": ["qkv_proj", "gate_up_proj"]}),
    "olmo2": ("families/olmo2", {**RANK, "target_modules": LINEARS}),
    "lfm2": ("families/lfm2", {**RANK, "target_modules": ["q_proj", "in_proj", "w1"]}),
    "smollm3": ("families/smollm3", {**RANK, "target_modules": LINEARS}),
    "granite": ("families/granite", {**RANK, "target_modules": LINEARS}),
    "qwen3_5": ("families/qwen3_5_text", {**RANK, "target_modules": ["in_proj_qkv", "out_proj", "q_proj", "down_proj"]}),
    "qwen3_moe": ("families/qwen3_moe", {**RANK, "target_modules": ATTENTION}),
    "mixtral": ("families/mixtral", {**RANK, "target_modules": ATTENTION}),
    "gpt_oss": ("families/gpt_oss", {**RANK, "target_modules": ATTENTION}),
}  # fmt: skip
# mlx-lm rounds sqrt(hidden_size) to bf16, knows no windows, or reads no such config
NOT_MLX_LM = {"gemma2", "gemma3 text", "gemma3", "qwen2 tied", "qwen3_5", "gpt_oss", "phi3"}

# Adapters in mlx-lm's format on what PEFT makes none for: experts one by one, DoRA on an embedding.
# name: (model, layers, whether by DoRA, whether PEFT can express it)
OURS = {
    "mixtral experts": ("families/mixtral", ["self_attn.q_proj", "block_sparse_moe.switch_mlp.gate_proj",
                                             "block_sparse_moe.switch_mlp.down_proj"], False, True),
    "qwen3_moe experts": ("families/qwen3_moe", ["self_attn.v_proj", "mlp.switch_mlp.gate_proj",
                                                 "mlp.switch_mlp.up_proj", "mlp.switch_mlp.down_proj"], False, True),
    "tied embedding": ("llama/llama32", ["self_attn.q_proj", "model.embed_tokens"], False, True),
    "tied embedding dora": ("llama/llama32", ["self_attn.q_proj", "model.embed_tokens"], True, False),
}  # fmt: skip

pytestmark = [
    pytest.mark.usefixtures("quick_mlx"),
    pytest.mark.skipif(
        not pathlib.Path(ORACLE).exists(),
        reason=f"{ORACLE} is not there: scripts/setup.sh oracle makes it, of several GB",
    ),
]


def base_model(model, folder):
    name = pathlib.Path(model)
    made = copy_fixture(name.name, folder, fixtures=ROOT / "tests" / "golden" / name.parent)
    (made / "older_config.json").write_text((made / "config.json").read_text())
    saved = ROOT / "tests" / "golden" / name / "saved_config.json"
    (made / "config.json").write_text((saved if saved.exists() else saved.parent / "config.json").read_text())
    weights = mx.load(str(made / "model.safetensors"))
    weights = {k: to_float32(v) for k, v in weights.items()}
    mx.save_safetensors(str(made / "model.safetensors"), weights, {"format": "pt"})
    return made


def ask(folder, jobs):
    """What the oracle answers to each job, by its key."""
    listed = []
    for key, job in jobs.items():
        listed.append({**{k: v if k == "config" else str(v) for k, v in job.items()},
                       "logits": str(folder / f"{key}.logits.safetensors")})  # fmt: skip
    path = folder / f"{next(iter(jobs)).split('-')[-1]}.jobs.json"
    path.write_text(json.dumps(listed))
    done = subprocess.run([ORACLE, TESTS / "peft_oracle.py", path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return {key: mx.load(job["logits"])["logits"] for key, job in zip(jobs, listed)}


def mlx_lm_logits(base, adapter):
    """With the config that mlx-lm reads in the place of transformers'."""
    theirs = (base / "config.json").read_text()
    (base / "config.json").write_text((base / "older_config.json").read_text())
    model = load_mlx_lm(base)
    load_adapters(model, str(adapter))
    model.eval()
    (base / "config.json").write_text(theirs)
    return model(mx.array(TOKENS)).astype(mx.float32)


class Bench:
    """Every case made by PEFT, sent through Temper and asked again: the oracle starts twice in all."""

    def __init__(self, folder):
        self.folder = folder
        self.failures = {}
        self.places = {}
        for case in CASES:
            place = folder / case.replace(" ", "_")
            place.mkdir()
            self.places[case] = place
        self.bases = {case: base_model(CASES[case][0], place) for case, place in self.places.items()}
        self.expected = ask(folder, {
            f"{case}-made": {"base": self.bases[case], "adapter": self.places[case] / "peft", "config": CASES[case][1]}
            for case in CASES
        })  # fmt: skip
        self.base_logits = ask(folder, {f"{case}-base": {"base": self.bases[case]} for case in CASES})
        jobs = {}
        for case in CASES:
            jobs |= self.convert(case)
        self.answers = ask(folder, jobs)

    def convert(self, case):
        place, base = self.places[case], self.bases[case]
        jobs = {}

        def step(name, *arguments):
            try:
                temper(*arguments)
                return True
            except AssertionError as error:
                self.failures[case, name] = str(error)
                return False

        if step("back", "adapter", "--adapter", place / "peft", "--model", base, "--to", "peft", "--out", place / "back"):
            jobs[f"{case}-back"] = {"base": base, "adapter": place / "back"}
        step("mlx", "adapter", "--adapter", place / "peft", "--model", base, "--to", "mlx-lm", "--out", place / "mlx")
        if step("fuse", "fuse", "--adapter", place / "peft", "--model", base, "--out", place / "fused", "--dtype",
                "float32", "--text", "w5 w9 w77 w3 w25 w14"):  # fmt: skip
            jobs[f"{case}-fused"] = {"base": place / "fused"}
        mlx = place / "mlx" / "adapter_config.json"
        if mlx.exists() and json.loads(mlx.read_text())["fine_tune_type"] != "full" and step(
            "again", "adapter", "--adapter", place / "mlx", "--model", base, "--to", "peft", "--out", place / "again"
        ):
            jobs[f"{case}-again"] = {"base": base, "adapter": place / "again"}
        return jobs

    def check(self, case, name, found):
        assert (case, name) not in self.failures, self.failures[case, name]
        expected = self.expected[f"{case}-made"]
        assert mx.max(mx.abs(expected - self.base_logits[f"{case}-base"])).item() > 1e-2
        assert mx.max(mx.abs(expected - found())).item() < 1e-4


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return Bench(tmp_path_factory.mktemp("oracle"))


@pytest.mark.parametrize("case", CASES)
def test_what_temper_writes_peft_loads(bench, case):
    bench.check(case, "back", lambda: bench.answers[f"{case}-back"])


@pytest.mark.parametrize("case", CASES)
def test_what_temper_makes_for_mlx_lm_goes_back_to_peft(bench, case):
    bench.check(case, "mlx", lambda: bench.answers.get(f"{case}-again", bench.expected[f"{case}-made"]))
    assert (case, "again") not in bench.failures, bench.failures[case, "again"]


@pytest.mark.parametrize("case", CASES)
def test_a_fused_folder_answers_in_transformers_as_peft_does(bench, case):
    bench.check(case, "fuse", lambda: bench.answers[f"{case}-fused"])


@pytest.mark.parametrize("case", [case for case in CASES if case not in NOT_MLX_LM])
def test_mlx_lm_loads_what_temper_makes_of_it(bench, case):
    def logits():
        return mlx_lm_logits(bench.bases[case], bench.places[case] / "mlx")

    bench.check(case, "mlx", logits)


@pytest.mark.parametrize("case", OURS)
def test_adapters_of_experts_and_tied_embeddings_are_the_same_everywhere(tmp_path, case):
    model, keys, dora, in_peft = OURS[case]
    base = base_model(model, tmp_path)
    theirs = (base / "config.json").read_text()
    (base / "config.json").write_text((base / "older_config.json").read_text())
    made = write_adapter(tmp_path / "made", load_mlx_lm(base), keys, dora)
    (base / "config.json").write_text(theirs)
    expected = mlx_lm_logits(base, made)
    temper("fuse", "--adapter", made, "--model", base, "--out", tmp_path / "fused", "--dtype", "float32", "--text", "w5 w9")
    jobs = {"x-fused": {"base": tmp_path / "fused"}, "x-base": {"base": base}}
    if in_peft:
        temper("adapter", "--adapter", made, "--model", base, "--to", "peft", "--out", tmp_path / "peft")
        jobs["x-peft"] = {"base": base, "adapter": tmp_path / "peft"}
    answers = ask(tmp_path, jobs)
    assert mx.max(mx.abs(expected - answers.pop("x-base"))).item() > 1e-2
    for name, found in answers.items():
        assert mx.max(mx.abs(expected - found)).item() < 1e-4, name
