"""A folder of its own for each case: a tiny model with random weights, a small data set, and the program.

Dims of the model: hidden 32, one block, the demonstration's tokenizer of 2,048 tokens.
"""

import json
import math
import os
import random
import shutil
import signal
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

TOKENIZER = Path(__file__).resolve().parents[2] / "examples" / "hawaiian" / "base"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "generation_config.json")
VOCABULARY = 2048
HIDDEN = 32
TIMEOUT = 120  # seconds: far beyond what a run here takes

Tensors = dict[str, tuple[list[int], bytes]]  # fp32, by name: shape and bytes


def write_safetensors(path: Path, tensors: Tensors) -> None:
    header, offset = {}, 0
    for name, (shape, data) in tensors.items():
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [offset, offset + len(data)]}
        offset += len(data)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(data for _, data in tensors.values()))


def check_safetensors(path: Path) -> None:
    """Raises ValueError unless the file is whole: a header, and as many bytes as it speaks of."""
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0] if len(data) >= 8 else math.inf
    if length > len(data):
        raise ValueError(f"{path} is cut short")
    header = json.loads(data[8:8 + length])
    ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    if 8 + length + max(ends, default=0) != len(data):
        raise ValueError(f"{path} holds {len(data)} bytes, its header speaks of {8 + length + max(ends)}")


def tensor(*shape: int, value: float | None = None) -> tuple[list[int], bytes]:
    count = math.prod(shape)
    random.seed(count)
    numbers = [random.gauss(0, 0.05) for _ in range(count)] if value is None else [value] * count
    return list(shape), struct.pack(f"<{count}f", *numbers)


def tiny_tensors(vocabulary: int = VOCABULARY, hidden: int = HIDDEN) -> Tensors:
    block, half = "model.layers.0.", hidden // 2
    linear = {"self_attn.q_proj": (hidden, hidden), "self_attn.k_proj": (half, hidden),
              "self_attn.v_proj": (half, hidden), "self_attn.o_proj": (hidden, hidden),
              "mlp.gate_proj": (64, hidden), "mlp.up_proj": (64, hidden), "mlp.down_proj": (hidden, 64)}
    tensors = {"model.embed_tokens.weight": tensor(vocabulary, hidden)}
    tensors |= {f"{block}{name}.weight": tensor(*shape) for name, shape in linear.items()}
    norms = ("model.norm", f"{block}input_layernorm", f"{block}post_attention_layernorm")
    return tensors | {f"{name}.weight": tensor(hidden, value=1.0) for name in norms}


def tiny_config(vocabulary: int = VOCABULARY, hidden: int = HIDDEN) -> dict:
    return {"model_type": "llama", "vocab_size": vocabulary, "hidden_size": hidden, "intermediate_size": 64,
            "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": hidden // 2,
            "hidden_act": "silu", "max_position_embeddings": 512, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
            "tie_word_embeddings": True, "torch_dtype": "float32", "bos_token_id": 1, "eos_token_id": 2}


def chat(question: str, answer: str) -> dict:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


CHATS = [chat(f"What is {i}?", f"It is {i}.") for i in range(24)]


class Box:
    """One case's folder, which is also where its program runs."""

    def __init__(self, root: Path, binary: str) -> None:
        self.root = root
        self.binary = binary
        self.model = root / "m"
        self.data = root / "d"
        self.write_model(self.model)
        self.data.mkdir()
        self.write_rows("train.jsonl", CHATS)
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("TEMPER_")}
        # Compiling the kernels of a step takes longer than all that a case does.
        self.environment |= {"XDG_CACHE_HOME": str(root / "cache"), "TMPDIR": str(root / "tmp"),
                             "MLX_DISABLE_COMPILE": "1", "OPENBLAS_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1",
                             "HF_HOME": str(root / "hf")}
        (root / "tmp").mkdir()

    def write_model(self, folder: Path, vocabulary: int = VOCABULARY, hidden: int = HIDDEN) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for name in TOKENIZER_FILES:
            shutil.copy(TOKENIZER / name, folder / name)
        self.write_config(folder, tiny_config(vocabulary, hidden))
        write_safetensors(folder / "model.safetensors", tiny_tensors(vocabulary, hidden))

    def write_config(self, folder: Path, config: dict) -> None:
        (folder / "config.json").write_text(json.dumps(config))

    def change_config(self, file: str = "config.json", **changes: object) -> None:
        """Sets keys of one of the model's JSON files; None removes one."""
        path = self.model / file
        config = json.loads(path.read_text()) | changes
        path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))

    def change_tensors(self, change: Callable[[Tensors], object]) -> None:
        tensors = tiny_tensors()
        change(tensors)
        write_safetensors(self.model / "model.safetensors", tensors)

    def write_rows(self, name: str, rows: list) -> None:
        (self.data / name).write_text("".join(json.dumps(row) + "\n" for row in rows))

    def write_data(self, name: str, content: str | bytes) -> None:
        """The file alone: other files of the data set go."""
        for old in self.data.iterdir():
            old.unlink()
        (self.data / name).write_bytes(content if isinstance(content, bytes) else content.encode())

    def train(self, *flags: str, steps: int = 2) -> list[str]:
        return ["train", "--model", "m", "--data", "d", "--run-dir", "run", "--iters", str(steps), "--batch-size", "2",
                "--max-seq-length", "64", *flags]

    def start(self, arguments: list[str], **options: object) -> subprocess.Popen:
        return subprocess.Popen([self.binary, *arguments], cwd=self.root, env=self.environment, text=True,
                                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)

    def run(self, arguments: list[str], **options: object) -> subprocess.CompletedProcess:
        process = self.start(arguments, **options)
        try:
            out, err = process.communicate(timeout=TIMEOUT)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGABRT)  # where it hangs shows in a core dump, if the system keeps them
            out, err = process.communicate()
            err += f"\n(ended after {TIMEOUT} s)"
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def files(self) -> set[str]:
        """Everything in the box but the token cache, whose whole files outlive a refused run."""
        found = set()
        for path in self.root.rglob("*"):
            name = str(path.relative_to(self.root))
            if not name.startswith("cache") or ".tmp" in name:
                found.add(name)
        return found

    def check_run_folder(self, run: str = "run") -> None:
        """Raises ValueError unless every file of the run folder is whole."""
        for path in (self.root / run).rglob("*"):
            if ".tmp" in path.name:
                raise ValueError(f"{path} is left over")
            if path.suffix == ".safetensors":
                check_safetensors(path)
            elif path.suffix == ".json":
                json.loads(path.read_text())
            elif path.suffix == ".jsonl":
                for line in path.read_text().splitlines():
                    json.loads(line)
