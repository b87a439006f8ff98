"""GGUF files that are no models, and what a sound one is good for."""

import json
from collections.abc import Callable

from box import Box
from fault import MODEL, OK, check, fault

ANSWER = ["generate", "--model", "m.gguf", "--prompt", "What is 3?", "--max-tokens", "4"]


def run(box: Box, *arguments: str) -> dict:
    result = box.run([*arguments, "--json"])
    assert result.returncode == OK, result.stderr
    return json.loads(result.stdout)


def export(box: Box, kind: str = "f32", model: str = "m", out: str = "m.gguf") -> None:
    run(box, "export", "--to", "gguf", "--model", model, "--out", out, "--type", kind)


def change(box: Box, change_bytes: Callable[[bytes], bytes]) -> None:
    export(box)
    path = box.root / "m.gguf"
    path.write_bytes(change_bytes(path.read_bytes()))


def put(data: bytes, at: int, number: int, size: int = 8) -> bytes:
    return data[:at] + number.to_bytes(size, "little") + data[at + size:]


@fault(MODEL, r"m\.gguf: .*", leaves=r"m\.gguf")
def a_gguf_cut_in_its_header(box: Box) -> list[str]:
    change(box, lambda data: data[:200])
    return ANSWER


@fault(MODEL, r"m\.gguf: .*", leaves=r"m\.gguf")
def a_gguf_cut_in_its_tensors(box: Box) -> list[str]:
    change(box, lambda data: data[:-1000])
    return ANSWER


@fault(MODEL, r"m\.gguf: .*", leaves=r"m\.gguf")
def a_gguf_with_another_magic(box: Box) -> list[str]:
    change(box, lambda data: b"PK\x03\x04" + data[4:])
    return ANSWER


@fault(MODEL, r"m\.gguf: .*version.*", leaves=r"m\.gguf")
def a_gguf_of_the_future(box: Box) -> list[str]:
    change(box, lambda data: put(data, 4, 77, 4))
    return ANSWER


@fault(MODEL, r"m\.gguf: .*", leaves=r"m\.gguf")
def a_gguf_of_uncountable_tensors(box: Box) -> list[str]:
    change(box, lambda data: put(data, 8, 2**63))
    return ANSWER


@fault(MODEL, r"m\.gguf: .*", leaves=r"m\.gguf")
def a_gguf_of_uncountable_keys(box: Box) -> list[str]:
    change(box, lambda data: put(data, 16, 2**63 - 1))
    return ANSWER


@fault(MODEL, r"m\.gguf: models of architecture alpha are not supported; supported are .*", leaves=r"m\.gguf")
def a_gguf_of_another_architecture(box: Box) -> list[str]:
    change(box, lambda data: data.replace(b"general.architecture\x08\0\0\0\x05\0\0\0\0\0\0\0llama",
                                          b"general.architecture\x08\0\0\0\x05\0\0\0\0\0\0\0alpha"))  # fmt: skip
    return ANSWER


@fault(MODEL, r"m\.gguf: tensor blk\.0\.ffn_up\.weight is missing", leaves=r"m\.gguf")
def a_gguf_without_a_tensor(box: Box) -> list[str]:
    change(box, lambda data: data.replace(b"blk.0.ffn_up.weight", b"blk.0.ffn_ap.weight"))
    return ANSWER


@fault(MODEL, r"two: holds several GGUF files; name one of them", leaves=r"two(/.*)?")
def a_folder_of_several_ggufs(box: Box) -> list[str]:
    (box.root / "two").mkdir()
    for name in ("a", "b"):
        (box.root / "two" / f"{name}.gguf").write_bytes(b"GGUF")
    return ["generate", "--model", "two", "--prompt", "x"]


@check
def a_gguf_is_taken_wherever_a_model_is(box: Box) -> None:
    answers = {}
    for kind in ("f32", "q8_0", "q4_0"):
        export(box, kind, out=f"{kind}.gguf")
        answers[kind] = run(box, "generate", "--model", f"{kind}.gguf", *ANSWER[3:])["token_ids"]
    assert answers["f32"] == run(box, "generate", "--model", "m", *ANSWER[3:])["token_ids"]
    (box.root / "folder").mkdir()
    (box.root / "q4_0.gguf").rename(box.root / "folder" / "q4_0.gguf")
    assert run(box, "generate", "--model", "folder", *ANSWER[3:])["token_ids"] == answers["q4_0"]

    run(box, "models", "--model", "q8_0.gguf")
    loss = run(box, "eval", "--model", "q8_0.gguf", "--data", "d/train.jsonl")["loss"]
    run(box, "train", "--model", "q8_0.gguf", "--data", "d", "--run-dir", "run", "--iters", "2", "--batch-size", "2",
        "--max-seq-length", "64")  # fmt: skip
    run(box, "eval", "--model", "q8_0.gguf", "--adapter", "run", "--data", "d/train.jsonl")
    run(box, "fuse", "--model", "q8_0.gguf", "--adapter", "run", "--out", "fused", "--force")
    run(box, "convert", "--model", "q8_0.gguf", "--out", "packed")
    assert json.loads((box.root / "packed" / "config.json").read_text())["quantization"]["bits"] == 8
    again = run(box, "eval", "--model", "packed", "--data", "d/train.jsonl")["loss"]
    assert abs(again - loss) < 1e-5 * loss
    assert not list((box.root / "tmp").iterdir()), "something is left in TMPDIR"
