"""`temper models` as a program: the registry's families, and what a model's folder is."""

import json
import pathlib
import subprocess
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from tiny_model import TEMPER  # noqa: E402

FAMILIES = pathlib.Path(__file__).resolve().parents[1] / "golden" / "families"
FOLDERS = sorted(folder.name for folder in FAMILIES.iterdir() if "mxfp4" not in folder.name)


def run(*arguments):
    return subprocess.run([TEMPER, "models", *map(str, arguments)], capture_output=True, text=True, timeout=60)


def listed_types():
    families = json.loads(run("--json").stdout)["families"]
    return {model_type for family in families for model_type in family["model_types"]}


def test_the_families_that_users_arrive_with_are_listed():
    assert listed_types() >= {
        "llama", "mistral", "qwen2", "qwen3", "qwen3_moe", "qwen3_5", "qwen3_5_moe", "gemma2", "gemma3",
        "gemma3_text", "phi3", "lfm2", "smollm3", "olmo2", "granite", "mixtral", "gpt_oss",
    }  # fmt: skip
    shown = run()
    assert shown.returncode == 0 and all(model_type in shown.stdout for model_type in listed_types())


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_folder_is_described_by_its_config(folder):
    config = json.loads((FAMILIES / folder / "config.json").read_text())
    found = json.loads(run("--model", FAMILIES / folder, "--json").stdout)
    assert found["model_type"] == config["model_type"]
    text = config.get("text_config", config)
    assert found["hidden_size"] == text["hidden_size"]
    assert sum(found["layers"].values()) == text["num_hidden_layers"]
    assert not any("router" in key or key.endswith(".gate") for key in found["lora_keys"])


def test_an_unknown_family_is_one_line_that_names_those_there_are(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "gpt_neox"}')
    result = run("--model", tmp_path)
    assert result.returncode != 0 and len(result.stderr.splitlines()) == 1
    assert "gpt_neox" in result.stderr and "gemma3" in result.stderr
