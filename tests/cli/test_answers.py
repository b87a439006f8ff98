"""`temper generate`, `chat` and `eval` as programs: streams, signals, standard input, exit codes."""

import json
import pathlib
import signal
import subprocess
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from tiny_model import TEMPER, copy_fixture  # noqa: E402

ENDLESS = ["--max-tokens", "1000000"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return copy_fixture("llama2", tmp_path_factory.mktemp("model"), stops=False)


def run(*arguments, stdin=""):
    return subprocess.run([TEMPER, *map(str, arguments)], input=stdin, capture_output=True, text=True, timeout=60)


def start(*arguments):
    pipe = subprocess.PIPE
    return subprocess.Popen([TEMPER, *map(str, arguments)], stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def test_generate_streams_to_stdout_and_reports_on_stderr(model):
    plain = run("generate", "--model", model, "--prompt", "w9 w10", "--max-tokens", 5)
    assert plain.returncode == 0
    assert "tokens/s" in plain.stderr and "peak memory" in plain.stderr
    found = json.loads(run("generate", "--model", model, "--prompt", "w9 w10", "--max-tokens", 5, "--json").stdout)
    assert plain.stdout == found["text"] + "\n"
    assert found["tokens"] == len(found["token_ids"]) == 5
    assert found["finish_reason"] == "length"
    assert found["prompt_tokens"] == 4  # with the template's two
    assert found["tokens_per_second"] > 0 and found["prompt_tokens_per_second"] > 0


def test_generate_reads_its_prompt_from_stdin_and_leaves_the_template_out(model):
    by_flag = run("generate", "--model", model, "--prompt", "w9 w10", "--raw", "--max-tokens", 5, "--json")
    by_pipe = run("generate", "--model", model, "--prompt", "-", "--ignore-chat-template", "--max-tokens", 5,
                  "--json", stdin="w9 w10\n")  # fmt: skip
    assert json.loads(by_flag.stdout)["prompt_tokens"] == 2
    assert json.loads(by_pipe.stdout)["token_ids"] == json.loads(by_flag.stdout)["token_ids"]
    with_system = run("generate", "--model", model, "--prompt", "w9", "--system", "w8", "--max-tokens", 1, "--json")
    assert json.loads(with_system.stdout)["prompt_tokens"] == 5


def test_generate_repeats_with_a_seed(model):
    def sampled(seed):
        done = run("generate", "--model", model, "--prompt", "w9", "--temp", 1, "--top-k", 50, "--top-p", 0.95,
                   "--min-p", 0.01, "--repetition-penalty", 1.1, "--seed", seed, "--max-tokens", 12, "--json")  # fmt: skip
        return json.loads(done.stdout)["token_ids"]

    assert sampled(1) == sampled(1) != sampled(2)


def test_an_answer_that_stops_early_ends_the_program_cleanly():
    """One step ahead of the answer's end, work is in flight at exit; without a wait one run in twelve crashed."""
    base = pathlib.Path(__file__).resolve().parents[2] / "examples" / "hawaiian" / "base"
    for _ in range(40):
        done = run("generate", "--model", base, "--prompt", "Translate to Hawaiian: I see.", "--max-tokens", 40)
        assert done.returncode == 0, done.stderr


def test_ctrl_c_ends_generate_with_what_it_has(model):
    process = start("generate", "--model", model, "--prompt", "w9", *ENDLESS)
    first = process.stdout.read(20)
    process.send_signal(signal.SIGINT)
    rest, report = process.communicate(timeout=60)
    assert process.returncode == 130
    assert len(first + rest) > 20 and "tokens/s" in report


def test_chat_answers_each_line_and_obeys_commands(model):
    lines = "w9 w10\n\n/nonsense\n/system w8\nw11\n/reset\nw12\n/quit\nw13\n"
    done = run("chat", "--model", model, "--max-tokens", 4, "--json", stdin=lines)
    assert done.returncode == 0
    turns = json.loads(done.stdout)["turns"]
    assert [turn["prompt"] for turn in turns] == ["w9 w10", "w11", "w12"]
    assert [turn["prompt_tokens"] for turn in turns] == [4, 5, 5]  # the system message outlives /reset
    assert "/reset" in done.stderr


def test_chat_reads_only_what_is_new(model):
    done = run("chat", "--model", model, "--max-tokens", 4, "--json", stdin="w9 w10\nw11")
    first, second = json.loads(done.stdout)["turns"]
    fresh = run("generate", "--model", model, "--raw", "--max-tokens", 4, "--json", "--prompt",
                f"w4 w9 w10 w5 {first['text']} w4 w11 w5")  # fmt: skip
    assert second["reused_tokens"] >= first["prompt_tokens"]
    # The template writes </s>, which this tokenizer reads as one word too.
    assert second["prompt_tokens"] == json.loads(fresh.stdout)["prompt_tokens"] + 1


def test_ctrl_c_ends_an_answer_and_not_the_chat(model):
    process = start("chat", "--model", model, *ENDLESS)
    process.stdin.write("w9 w10\n")
    process.stdin.flush()
    assert process.stdout.read(20)
    process.send_signal(signal.SIGINT)
    process.stdout.readline()
    process.stdin.write("w11\n")
    process.stdin.flush()
    assert process.stdout.read(20)
    process.send_signal(signal.SIGINT)
    process.communicate("/quit\n", timeout=60)
    assert process.returncode == 0


def test_eval_scores_answers(model, tmp_path):
    rows = [{"messages": [{"role": "user", "content": f"w{i}"}, {"role": "assistant", "content": f"w{i} w{i + 1}"}]}
            for i in range(20, 32)]  # fmt: skip
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = ["--model", model, "--data", tmp_path, "--cache-dir", tmp_path / "cache", "--max-tokens", 3]
    done = run("eval", *flags, "--generate", "--metrics", "exact,bleu,chrf,chrf++", "--limit", 5, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["split"] == "test" and found["tokens"] == 12 * 3 and found["perplexity"] > 1
    assert [answer["reference"] for answer in found["answers"]] == [f"w{i} w{i + 1}" for i in range(20, 25)]
    for answer in found["answers"]:
        alone = run("generate", "--model", model, "--prompt", answer["prompt"], "--max-tokens", 3, "--json")
        assert json.loads(alone.stdout)["text"] == answer["answer"]
    assert {"exact", "bleu", "chrf", "chrf++"} <= found.keys()
    people = run("eval", *flags, "--generate", "--limit", 5, "--samples", 2)
    assert people.stdout.count("reference:") == 2 and "perplexity" in people.stdout


@pytest.mark.parametrize(
    "arguments, code, words",
    [
        (["generate", "--prompt", ""], 2, "prompt: it is empty"),
        (["generate", "--prompt", "w9", "--top-p", "2"], 2, "--top-p must be at least 0 and at most 1"),
        (["generate", "--prompt", "w9", "--adapter", "nowhere"], 6, "nowhere"),
        (["generate"], 2, "--prompt is missing"),
        (["eval"], 2, "--data is missing"),
        (["eval", "--data", "nowhere"], 3, "nowhere"),
        (["eval", "--data", "x", "--metrics", "rouge"], 2, "exact, bleu, chrf, chrf++"),
    ],
)
def test_mistakes_get_one_line(model, arguments, code, words):
    done = run(*arguments, "--model", model)
    assert done.returncode == code, done.stderr
    assert done.stdout == "" and words in done.stderr
    assert done.stderr.count("\n") == 1
