#!/usr/bin/env python3
"""Trains the demonstration's tokenizer on its monolingual text and writes the base model's folder but for weights.

    make_tokenizer.py TEXTS_DIR BASE_DIR        needs tokenizers 0.23.3 (PyPI)

Byte-level BPE; the chat template is Llama 3's idea with one token a role.
"""

import json
import pathlib
import sys

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

SPECIALS = ["<|pad|>", "<|begin|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
PAD, BEGIN, END = 0, 1, 2
VOCABULARY = 2048
MAX_LENGTH = 512
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% if message['role'] not in ['system', 'user', 'assistant'] %}"
    "{{ raise_exception('This model knows the roles system, user and assistant, not ' + message['role'] + '.') }}"
    "{% endif %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] | trim + eos_token }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def train(texts):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            min_frequency=2,
            special_tokens=[AddedToken(s, special=True, normalized=False) for s in SPECIALS],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|begin|> $A", pair="<|begin|> $A <|begin|>:1 $B:1", special_tokens=[("<|begin|>", BEGIN)]
    )
    return tokenizer


def write_json(path, value):
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def main():
    texts_dir, base = map(pathlib.Path, sys.argv[1:])
    base.mkdir(parents=True, exist_ok=True)
    lines = (texts_dir / "train.jsonl").read_text(encoding="utf-8").splitlines()
    tokenizer = train([json.loads(line)["text"] for line in lines] + ["Translate to Hawaiian:"] * 1000)
    tokenizer.save(str(base / "tokenizer.json"))
    specials = {"bos_token": SPECIALS[BEGIN], "eos_token": SPECIALS[END], "pad_token": SPECIALS[PAD]}
    write_json(base / "special_tokens_map.json", specials)
    write_json(
        base / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            **specials,
            "add_bos_token": True,
            "clean_up_tokenization_spaces": False,
            "model_max_length": MAX_LENGTH,
            "chat_template": CHAT_TEMPLATE,
        },
    )
    ids = {"bos_token_id": BEGIN, "eos_token_id": END, "pad_token_id": PAD}
    write_json(base / "generation_config.json", {**ids, "do_sample": False, "max_new_tokens": 64})
    write_json(
        base / "config.json",
        {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": VOCABULARY,
            "hidden_size": 320,
            "intermediate_size": 960,
            "num_hidden_layers": 3,
            "num_attention_heads": 10,
            "num_key_value_heads": 5,
            "head_dim": 32,
            "hidden_act": "silu",
            "max_position_embeddings": MAX_LENGTH,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "rope_scaling": None,
            "attention_bias": False,
            "mlp_bias": False,
            "tie_word_embeddings": True,
            "initializer_range": 0.02,
            "torch_dtype": "bfloat16",
            **ids,
        },
    )
    print(f"{base}: {tokenizer.get_vocab_size()} tokens")


if __name__ == "__main__":
    main()
