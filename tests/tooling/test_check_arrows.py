"""check_arrows.py must catch what it exists for."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "check_arrows.py"


def check(root: Path, file: str, *includes: str) -> subprocess.CompletedProcess:
    path = root / "src" / file
    path.parent.mkdir(parents=True)
    path.write_text("#pragma once\n" + "".join(f"#include {include}\n" for include in includes))
    return subprocess.run([sys.executable, SCRIPT, root], capture_output=True, text=True)


@pytest.mark.parametrize(
    ("file", "include"),
    [
        ("temper/base/log.h", '"temper/config/run_config.h"'),
        ("temper/text/tokenizer.h", '"temper/data/batch.h"'),
        ("temper/nn/lora.h", '"temper/models/decoder.h"'),
        ("temper/optim/adam.cpp", '"temper/train/trainer.h"'),
        ("temper/models/families/llama.cpp", '"temper/io/safetensors.h"'),
        ("temper/train/trainer.cpp", '"cli/commands.h"'),
        ("server/api.cpp", '"temper/train/trainer.h"'),
        ("server/api.cpp", '"temper/text/tokenizer.h"'),
        ("temper/data/loader.cpp", '"mlx/array.h"'),
        ("temper/data/loader.cpp", "<mlx/mlx.h>"),
    ],
)
def test_a_forbidden_include_is_named(tmp_path, file, include):
    result = check(tmp_path, file, "<vector>", include)
    assert result.returncode == 1
    assert f"src/{file}:3: " in result.stdout


def test_an_unknown_part_is_named(tmp_path):
    result = check(tmp_path, "temper/misc/helpers.h")
    assert result.returncode == 1
    assert "src/temper/misc/helpers.h" in result.stdout


@pytest.mark.parametrize(
    ("file", "include"),
    [
        ("temper/train/trainer.cpp", '"temper/base/log.h"'),
        ("temper/io/adapters.cpp", '"mlx/array.h"'),
        ("cli/train.cpp", '"temper/config/run_config.h"'),
        ("server/api.cpp", '"http/router.h"'),
    ],
)
def test_an_allowed_include_passes(tmp_path, file, include):
    result = check(tmp_path, file, include)
    assert (result.returncode, result.stdout) == (0, "")
