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


def write_prompts(folder, count=9):
    rows = [{"prompt": f"w{20 + i} w9", "id": f"q{i}"} for i in range(count)]
    rows[2] = {"messages": [{"role": "user", "content": "w22 w9"}], "id": "q2", "max_tokens": 2}
    rows[3]["system"] = "w8"
    path = folder / "prompts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_file_of_prompts_is_answered_in_order(model, tmp_path):
    prompts = write_prompts(tmp_path)
    flags = ["generate", "--model", model, "--prompts", prompts, "--max-tokens", 5, "--batch-size", 4]
    found = json.loads(run(*flags, "--output", tmp_path / "out.jsonl", "--json").stdout)
    answers = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [answer["id"] for answer in answers] == [f"q{i}" for i in range(9)]
    assert [answer["line"] for answer in answers] == list(range(1, 10))
    assert found["prompts"] == found["answers"] == 9
    assert found["tokens"] == sum(answer["tokens"] for answer in answers) == 8 * 5 + 2
    assert found["prompt_tokens"] == sum(answer["prompt_tokens"] for answer in answers)
    assert all(found[key] > 0 for key in ("seconds", "prompt_tokens_per_second", "tokens_per_second",
                                          "answers_per_second", "peak_memory_gb"))  # fmt: skip
    for i, answer in enumerate(answers):
        system = ["--system", "w8"] if i == 3 else []
        alone = run("generate", "--model", model, "--prompt", answer["prompt"], "--max-tokens", 2 if i == 2 else 5,
                    *system, "--json")  # fmt: skip
        expected = json.loads(alone.stdout)
        assert {key: answer[key] for key in ("text", "tokens", "finish_reason", "prompt_tokens")} == {
            key: expected[key] for key in ("text", "tokens", "finish_reason", "prompt_tokens")
        }
    # Without a file the same lines go to standard output, or into the summary.
    plain = run(*flags)
    assert [json.loads(line) for line in plain.stdout.splitlines()] == answers
    assert "answers in" in plain.stderr and "peak memory" in plain.stderr
    assert json.loads(run(*flags, "--json").stdout)["results"] == answers
    assert not list(tmp_path.glob("*.partial"))


def test_sampled_answers_do_not_depend_on_the_batch(model, tmp_path):
    prompts = write_prompts(tmp_path)
    flags = ["generate", "--model", model, "--prompts", prompts, "--max-tokens", 6, "--temp", 1, "--seed", 3]
    one = run(*flags, "--batch-size", 1).stdout
    assert one == run(*flags, "--batch-size", 5).stdout
    assert one != run(*flags, "--seed", 4).stdout


def test_a_killed_run_goes_on(model, tmp_path):
    prompts = write_prompts(tmp_path, 40)
    flags = ["generate", "--model", model, "--prompts", prompts, "--max-tokens", 60, "--batch-size", 4, "--temp", 1]
    out = tmp_path / "out.jsonl"
    partial = tmp_path / "out.jsonl.partial"
    process = start(*flags, "--output", out)
    while not partial.exists() or partial.read_text().count("\n") < 5:
        assert process.poll() is None, process.stderr.read()
    process.kill()
    process.communicate()
    assert not out.exists()
    left = partial.read_text().count("\n") - 1
    refused = run(*flags, "--output", out)
    assert refused.returncode == 2 and "--resume" in refused.stderr and refused.stderr.count("\n") == 1
    other = run(*flags, "--output", out, "--resume", "--seed", 1)
    assert other.returncode == 2 and "other settings" in other.stderr
    done = run(*flags, "--output", out, "--resume", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["answers"] == 40 - left
    assert not partial.exists()
    whole = tmp_path / "whole.jsonl"
    run(*flags, "--output", whole)
    assert out.read_text() == whole.read_text()


def test_ctrl_c_keeps_the_answers_that_are_finished(model, tmp_path):
    prompts = write_prompts(tmp_path, 40)
    out = tmp_path / "out.jsonl"
    process = start("generate", "--model", model, "--prompts", prompts, "--max-tokens", 60, "--batch-size", 4,
                    "--output", out)  # fmt: skip
    partial = tmp_path / "out.jsonl.partial"
    while not partial.exists() or partial.read_text().count("\n") < 5:
        assert process.poll() is None, process.stderr.read()
    process.send_signal(signal.SIGINT)
    _, report = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "--resume goes on" in report and partial.read_text().count("\n") >= 5 and not out.exists()


def test_a_prompt_cache_spares_the_reading(model, tmp_path):
    cache = tmp_path / "prompt.safetensors"
    long = " ".join(f"w{10 + i}" for i in range(40))
    flags = ["generate", "--model", model, "--max-tokens", 5, "--json"]
    first = run(*flags, "--prompt", long, "--prompt-cache", cache)
    assert json.loads(first.stdout)["reused_tokens"] == 0 and "kept in" in first.stderr
    before = cache.read_bytes()
    second = json.loads(run(*flags, "--prompt", long + " w9", "--prompt-cache", cache).stdout)
    alone = json.loads(run(*flags, "--prompt", long + " w9").stdout)
    assert second["reused_tokens"] >= 40 and alone["reused_tokens"] == 0
    assert second["token_ids"] == alone["token_ids"]
    other = run(*flags, "--prompt", "w9", "--prompt-cache", cache)
    assert other.returncode == 0 and "begins otherwise" in other.stderr
    assert cache.read_bytes() == before


@pytest.mark.parametrize(
    "arguments, code, words",
    [
        (["generate", "--prompt", ""], 2, "prompt: it is empty"),
        (["generate", "--prompt", "w9", "--top-p", "2"], 2, "--top-p must be at least 0 and at most 1"),
        (["generate", "--prompt", "w9", "--adapter", "nowhere"], 6, "nowhere"),
        (["generate"], 2, "--prompt is missing"),
        (["generate", "--prompt", "w9 " * 80], 2, "more than the model's context of 64"),
        (["generate", "--prompt", "w9", "--prompts", "x.jsonl"], 2, "--prompt and --prompts: give one"),
        (["generate", "--prompt", "w9", "--output", "x.jsonl"], 2, "--output goes with --prompts"),
        (["generate", "--prompts", "x.jsonl", "--resume"], 2, "--resume goes with --output"),
        (["generate", "--prompts", "x.jsonl", "--prompt-cache", "y"], 2, "--prompt-cache goes with --prompt"),
        (["generate", "--prompt", "w9", "--prompt-cache", "y"], 2, "ends in .safetensors"),
        (["generate", "--prompts", "nowhere.jsonl"], 5, "nowhere.jsonl"),
        (["generate", "--prompts", __file__], 3, "test_answers.py"),
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
