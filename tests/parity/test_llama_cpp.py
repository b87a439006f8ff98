"""GGUF files in llama.cpp itself (tests/llama): exported models continue prompts and tokenize there as here, and what
is read back from them is the model that went out.

Needs TEMPER_BINARY, the built program, and gguf (tests/requirements.txt). llama.cpp is built first: some minutes.
"""

import json
import math
import pathlib
import random
import shutil
import subprocess
import sys
import unicodedata

import gguf
import mlx.core as mx
import numpy as np
import pytest
from tokenizers import Tokenizer

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "llama"), str(ROOT / "tests" / "parity")]
from build import build  # noqa: E402
from odd_strings import odd_strings  # noqa: E402
from test_gguf import TEMPER, export, model_folder, stored, wide, write_adapter  # noqa: E402, F401

GOLDEN = ROOT / "tests" / "golden"
DEMO = ROOT / "examples" / "hawaiian" / "base"
# What to change in config.json: windows that llama.cpp passes over, a clamp it has at 7 only, gpt-oss' yarn, whose
# range it rounds.
NO_WINDOW = {"sliding_window": None}
MODELS = {
    "llama2": {}, "llama32": {}, "biases": {}, "linear": {}, "yarn": {}, "mistral": NO_WINDOW,
    "mixtral": {}, "mixtral_window": NO_WINDOW, "qwen2": {}, "qwen2_tied": {"use_sliding_window": False}, "qwen3": {},
    "qwen3_yarn": {}, "qwen3_5_text": {}, "qwen3_5_moe_text": {}, "gemma2": {}, "gemma3": {}, "gemma3_text": {}, "gemma3_text_new": {}, "phi3": {},
    "phi3_plain": NO_WINDOW, "phi3_su": NO_WINDOW, "olmo2": {}, "granite": {}, "lfm2": {},
    "gpt_oss": {"swiglu_limit": 7.0, "rope_scaling": None},
}  # fmt: skip
WHOLE_BLOCKS = ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1")
K_BLOCKS = ("q6_k", "q5_k_m", "q4_k_m")
PROMPT, ANSWER = 28, 32  # tokens; longer than the context that the fixtures' longrope was trained for


@pytest.fixture(scope="session")
def oracle(tmp_path_factory):
    program = build()

    def ask(requests):
        file = tmp_path_factory.mktemp("oracle") / "requests.json"
        file.write_text(json.dumps(requests, default=str))
        done = subprocess.run([program, file], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        answers = json.loads(done.stdout)
        for request, answer in zip(requests, answers, strict=True):
            assert "error" not in answer, (request["model"], answer["error"])
        return answers

    return ask


def run(*command):
    done = subprocess.run([TEMPER, *map(str, command)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def make_model(name, parent):
    if name == "demo":
        return shutil.copytree(DEMO, parent / name)
    folder = model_folder(name, parent)
    config = json.loads((folder / "config.json").read_text()) | MODELS[name]
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def texts_within(folder, count, tokens):
    """Texts of random letters whose tokens all have a row in the model's embedding."""
    config = json.loads((folder / "config.json").read_text())
    size = (config.get("text_config") or config).get("vocab_size", 96)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    letters = [c for c in "abcdefghijklmnopqrstuvwxyz0123456789,.;:-_" if max(tokenizer.encode(c).ids) < size]
    chance, texts = random.Random(11), []
    while len(texts) < count:
        text = "".join(chance.choice(letters) for _ in range(tokens))
        ids = tokenizer.encode(text).ids
        if max(ids) < size and len(set(ids)) > 4:
            texts.append(text)
    return texts


def temper_greedy(model, texts):
    return [run("generate", "--model", model, "--prompt", text, "--raw", "--max-tokens", ANSWER,
                "--dtype", "float32", "--json") for text in texts]  # fmt: skip


def check_answers(oracle, request, ours, theirs, stops):
    """Temper leaves out the token that ends its answer; llama.cpp was not asked to stop. It multiplies f16 weights with
    inputs rounded to f16, unless they are widened: where its own two best are that near, it may take the other one."""
    ties = []
    for prompt, answer, tokens in zip(request["prompts"], ours, theirs, strict=True):
        ids = answer["token_ids"]
        same = next((i for i, pair in enumerate(zip(ids, tokens)) if pair[0] != pair[1]), len(ids))
        wanted = [ids[same]] if same < len(ids) else list(stops)
        if same < ANSWER and tokens[same] not in wanted:
            ties.append((prompt + ids[:same], wanted, tokens[same]))
    if request["model"].stem == "f32" or "widened" in request:
        assert not ties
    if ties:
        (answer,) = oracle([{"model": request["model"], "prompts": [prompt for prompt, _, _ in ties]}])
        for logits, (_, wanted, other) in zip(answer["logits"], ties, strict=True):
            assert logits[-1][other] - max(logits[-1][token] for token in wanted) < 0.01


def stops_of(folder):
    found = set()
    for file in ("generation_config.json", "config.json"):
        if (folder / file).exists():
            ids = json.loads((folder / file).read_text()).get("eos_token_id") or []
            found |= set(ids if isinstance(ids, list) else [ids])
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return found | {i for i, token in tokenizer.get_added_tokens_decoder().items() if token.special}


@pytest.mark.parametrize("name", [*MODELS, "demo"])
def test_answers_and_logits_are_the_same_there(name, oracle, tmp_path):
    folder = make_model(name, tmp_path)
    texts = texts_within(folder, 5, PROMPT)
    requests = []
    for kind in ("f32", "f16"):
        export(folder, tmp_path / f"{kind}.gguf", "--type", kind)
        requests.append({"model": tmp_path / f"{kind}.gguf", "texts": texts})
    ids = oracle(requests[:1])[0]["ids"]
    for request in requests:
        request |= {"prompts": ids, "tokens": ANSWER}
    requests.append(requests[1] | {"widened": tmp_path / "widened.gguf"})
    answers = oracle(requests)
    assert {t.tensor_type.name for t in gguf.GGUFReader(tmp_path / "widened.gguf").tensors} == {"F32"}
    ours = {kind: temper_greedy(tmp_path / f"{kind}.gguf", texts) for kind in ("f32", "f16")}
    for request, answer in zip(requests, answers, strict=True):
        check_answers(oracle, request, ours[request["model"].stem], answer["continuations"], stops_of(folder))
    assert [o["token_ids"] for o in temper_greedy(folder, texts)] == [o["token_ids"] for o in ours["f32"]]


def golden(name):
    path = next(GOLDEN / part / name / "expected.safetensors" for part in ("llama", "families")
                if (GOLDEN / part / name / "expected.safetensors").exists())  # fmt: skip
    tensors = mx.load(str(path))
    return np.array(tensors["input_ids"]), np.array(tensors["logits"].astype(mx.float32))


# Those whose config.json is as transformers had it when it computed the logits.
@pytest.mark.parametrize("name", [name for name, changes in MODELS.items() if not changes])
def test_logits_are_those_of_transformers(name, oracle, tmp_path):
    ids, logits = golden(name)
    export(make_model(name, tmp_path), tmp_path / "m.gguf", "--type", "f32")
    (answer,) = oracle([{"model": tmp_path / "m.gguf", "prompts": ids.tolist()}])
    worst = np.abs(np.array(answer["logits"], dtype=np.float32) - logits).max()
    assert worst < 1e-3 * max(1.0, np.abs(logits).max()), worst


def loss_of(logits, ids):
    """Mean of -log p(token) over all but the first."""
    scores = np.array(logits, dtype=np.float64)[:-1]
    top = scores.max(-1, keepdims=True)
    log_sum = np.log(np.exp(scores - top).sum(-1)) + top[:, 0]
    return (log_sum - scores[np.arange(len(ids) - 1), ids[1:]]).sum(), len(ids) - 1


def compare_losses(folder, kinds, oracle, tmp_path, texts):
    data = tmp_path / "data"
    data.mkdir(exist_ok=True)
    (data / "test.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    rows = run("data", "preview", "--model", folder, "--data", data, "--split", "test", "--rows", len(texts),
               "--json")["rows"]  # fmt: skip
    prompts = [row["token_ids"] for row in rows]
    for kind in kinds:
        export(folder, tmp_path / f"{kind}.gguf", "--type", kind)
    answers = oracle([{"model": tmp_path / f"{kind}.gguf", "prompts": prompts} for kind in kinds])
    found = {}
    for kind, answer in zip(kinds, answers, strict=True):
        sums = [loss_of(logits, ids) for logits, ids in zip(answer["logits"], prompts, strict=True)]
        theirs = sum(s for s, _ in sums) / sum(n for _, n in sums)
        ours = run("eval", "--model", tmp_path / f"{kind}.gguf", "--data", data, "--split", "test", "--dtype", "float32",
                   "--json")  # fmt: skip
        found[kind] = (ours["loss"], theirs)
    return found


def demo_texts():
    lines = (ROOT / "examples" / "hawaiian" / "lexicon.tsv").read_text().splitlines()[1:41]
    return [line.replace("\t", ": ") for line in lines]


def test_quantized_files_lose_what_their_own_blocks_lose(oracle, tmp_path):
    """What llama.cpp adds to the blocks' error is that of its 8-bit activations."""
    losses = compare_losses(DEMO, WHOLE_BLOCKS, oracle, tmp_path, demo_texts())
    assert abs(losses["f32"][0] - losses["f32"][1]) < 1e-4
    for kind, (ours, theirs) in losses.items():
        assert abs(ours - theirs) < 0.01 * ours, (kind, ours, theirs)
    assert abs(losses["q4_0"][0] - losses["f32"][0]) > 0.01  # there is something to see


def test_k_quants_too(wide, oracle, tmp_path):  # noqa: F811
    texts = texts_within(wide, 8, 24)
    losses = compare_losses(wide, ("f32", *K_BLOCKS), oracle, tmp_path, texts)
    for kind, (ours, theirs) in losses.items():
        assert abs(ours - theirs) < (1e-4 if kind == "f32" else 0.02) * ours, (kind, ours, theirs)


@pytest.mark.parametrize("name", ["llama32", "qwen3", "qwen3_5_text"])
def test_an_adapter_of_its_own_is_the_merged_model(name, oracle, tmp_path):
    folder = make_model(name, tmp_path)
    write_adapter(tmp_path / "adapter", folder, scale=0.3)
    export(folder, tmp_path / "base.gguf", "--type", "f32")
    export(folder, tmp_path / "merged.gguf", "--type", "f32", "--adapter", tmp_path / "adapter")
    export(folder, tmp_path / "lora.gguf", "--type", "f32", "--adapter", tmp_path / "adapter", "--adapter-only")
    ids, _ = golden(name)
    requests = [{"model": tmp_path / "base.gguf", "prompts": ids.tolist()},
                {"model": tmp_path / "merged.gguf", "prompts": ids.tolist()},
                {"model": tmp_path / "base.gguf", "prompts": ids.tolist(), "lora": tmp_path / "lora.gguf"}]  # fmt: skip
    base, merged, lora = (np.array(answer["logits"]) for answer in oracle(requests))
    assert np.abs(merged - base).max() > 0.1
    assert np.abs(merged - lora).max() < 1e-3


# ---- tokenizers ----

PATTERNS = {
    "gpt-2": None,
    "llama-bpe": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",  # noqa: E501
    "qwen2": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",  # noqa: E501
}


def byte_level_folder(pre, parent):
    """The fixture's merges behind the expressions that the hub's models have."""
    folder = model_folder("llama2", parent)
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    if PATTERNS[pre]:
        tokenizer["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": PATTERNS[pre]}, "behavior": "Isolated", "invert": False},
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}]}  # fmt: skip
        tokenizer["model"]["ignore_merges"] = pre == "llama-bpe"
    if pre == "qwen2":
        tokenizer["normalizer"] = {"type": "NFC"}  # as its models have
    path.write_text(json.dumps(tokenizer))
    return widen(folder, Tokenizer.from_file(str(path)).get_vocab_size())


def widen(folder, size):
    """An embedding with a row for each token."""
    config = json.loads((folder / "config.json").read_text())
    config["vocab_size"] = size
    (folder / "config.json").write_text(json.dumps(config))
    weights = stored(folder)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        if name in weights:
            weights[name] = np.resize(weights[name], (size, weights[name].shape[1]))
    mx.save_safetensors(str(folder / "model.safetensors"), {n: mx.array(a) for n, a in weights.items()})
    return folder


def sentencepiece_folder(parent, kind):
    import sentencepiece

    folder = model_folder("llama2", parent, tokenizer=kind)
    path = folder / "tokenizer_config.json"  # a space before every piece between special tokens, as Llama 2's says
    path.write_text(json.dumps(json.loads(path.read_text()) | {"legacy": True}))
    size = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model")).GetPieceSize()
    return widen(folder, size)


def temper_ids(model, texts, parent):
    """Token ids of each text, BOS and EOS as rows of data have them; None: a row that is refused as empty."""
    parent.mkdir(exist_ok=True)
    file = parent / "train.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    rows = run("data", "preview", "--model", model, "--data", file, "--rows", len(texts), "--json")["rows"]
    assert len(rows) == len(texts)
    return [None if "problem" in row else row["token_ids"] for row in rows]


TOKENIZERS = [*PATTERNS, "spm_bpe", "demo"]


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_five_hundred_odd_strings_have_the_same_ids(kind, oracle, tmp_path):
    folder = make_model("demo", tmp_path) if kind == "demo" else (
        byte_level_folder(kind, tmp_path) if kind in PATTERNS else sentencepiece_folder(tmp_path, kind))  # fmt: skip
    texts = odd_strings(900, ["<|eot_id|>", "<|begin_of_text|>", "</s>", "<unk>"])
    # llama.cpp composes no characters, as Qwen's tokenizer does.
    texts = [text for text in texts if kind != "qwen2" or unicodedata.is_normalized("NFC", text)][:500]
    export(folder, tmp_path / "m.gguf")
    (answer,) = oracle([{"model": tmp_path / "m.gguf", "texts": texts}])
    ours = temper_ids(folder, texts, tmp_path / "folder")
    different = []
    for text, mine, theirs in zip(texts, ours, answer["ids"], strict=True):
        if len(theirs) > 1 and theirs[0] == theirs[1] == answer["ids"][0][0]:
            theirs = theirs[1:]  # a text that begins with BOS gets none before it here
        if mine is not None and mine[: len(theirs)] != theirs or mine is not None and len(mine) > len(theirs) + 1:
            different.append((text, mine, theirs))
    assert sum(mine is not None for mine in ours) > 480
    assert not different, (len(different), different[:3])
    assert temper_ids(tmp_path / "m.gguf", texts, tmp_path / "file") == ours

    # Without tokenizer.json in the file the tokenizer is made of llama.cpp's own lists.
    strip_tokenizer_json(tmp_path / "m.gguf", tmp_path / "plain.gguf")
    assert temper_ids(tmp_path / "plain.gguf", texts, tmp_path / "plain") == ours


def strip_tokenizer_json(source, target):
    """Written by gguf's own writer."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, reader.fields["general.architecture"].contents())
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name in ("general.architecture", "tokenizer.huggingface.json"):
            continue
        kind = field.types[0]
        writer.add_key_value(name, field.contents(), kind, field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, np.array(tensor.data), raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_file_by_ggufs_writer_is_the_same_model(tmp_path):
    for kind in ("f32", "q4_0"):
        export(DEMO, tmp_path / f"{kind}.gguf", "--type", kind)
        strip_tokenizer_json(tmp_path / f"{kind}.gguf", tmp_path / f"{kind}-2.gguf")
        first, second = (run("generate", "--model", tmp_path / f"{kind}{n}.gguf", "--prompt", "Aloha kakahiaka",
                             "--raw", "--json") for n in ("", "-2"))  # fmt: skip
        assert first["token_ids"] == second["token_ids"] and math.isfinite(first["tokens_per_second"])
