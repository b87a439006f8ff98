"""The demonstration's data: what is committed is what the script makes, and its splits are apart."""

import json
import pathlib
import subprocess
import sys
import unicodedata

EXAMPLE = pathlib.Path(__file__).resolve().parents[2] / "examples" / "hawaiian"
SPLITS = ("train", "valid", "test")


def pairs(split):
    for line in (EXAMPLE / f"{split}.jsonl").read_text(encoding="utf-8").splitlines():
        user, assistant = json.loads(line)["messages"]
        yield user["content"], assistant["content"]


def test_the_committed_pairs_are_the_scripts(tmp_path):
    subprocess.run(
        [sys.executable, "-B", EXAMPLE / "make_data.py", "--pairs", tmp_path], check=True, env={"PYTHONHASHSEED": "3"}
    )
    for split in SPLITS:
        assert (tmp_path / f"{split}.jsonl").read_bytes() == (EXAMPLE / f"{split}.jsonl").read_bytes()


def test_no_sentence_is_in_two_splits():
    for side in (0, 1):
        seen = [pair[side].lower().rstrip(".!?") for split in SPLITS for pair in pairs(split)]
        assert len(set(seen)) == len(seen) == 5350


def test_hawaiian_is_spelled_with_its_own_letters():
    letters = set("aeiouāēīōūhklmnpwʻ")
    for split in SPLITS:
        for _, hawaiian in pairs(split):
            assert unicodedata.normalize("NFC", hawaiian) == hawaiian
            used = set(hawaiian.lower()) - set(" .,!?")
            assert used <= letters, (hawaiian, used - letters)
