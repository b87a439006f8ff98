"""A fixture model's folder with a tokenizer and a chat template: what the tests of whole programs run on."""

import json
import os
import pathlib
import shutil

ROOT = pathlib.Path(__file__).resolve().parents[1]
FIXTURES = ROOT / "tests" / "golden" / "llama"
TEMPER = os.environ.get("TEMPER_BINARY", str(ROOT / "build" / "release" / "temper"))
EOS = 2
TEMPLATE = (
    "{% for m in messages %} w{{ {'system': 3, 'user': 4, 'assistant': 5}[m.role] }} {{ m.content }}"
    "{% if m.role == 'assistant' %} </s>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %} w5{% endif %}"
)


def word(token):
    return f"w{token}"


def write_tokenizer(folder, stops, size=128):
    """One word a token, split at spaces; no BOS. Without `stops` nothing ends an answer but its length."""
    vocab = {"<unk>": 0, "<s>": 1, "</s>": EOS} | {word(i): i for i in range(3, size)}
    special = dict(single_word=False, lstrip=False, rstrip=False, normalized=False, special=True)
    tokenizer = {
        "version": "1.0",
        "added_tokens": [{"id": EOS, "content": "</s>"} | special] if stops else [],
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "<unk>"},
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": TEMPLATE}
    if stops:
        config["eos_token"] = "</s>"
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def write_older_config(folder):
    """mlx-lm passes over rope_parameters, transformers 5's name for rope_scaling with rope_theta."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    if rope := config.pop("rope_parameters", None):
        config["rope_theta"] = rope.pop("rope_theta")
        config["rope_scaling"] = rope
        path.write_text(json.dumps(config))


def copy_fixture(name, parent, stops=True, fixtures=FIXTURES):
    folder = parent / name
    skipped = shutil.ignore_patterns("expected*", "peft", "short*", "padded*", "saved_*")
    shutil.copytree(fixtures / name, folder, ignore=skipped)
    write_tokenizer(folder, stops)
    write_older_config(folder)
    return folder
