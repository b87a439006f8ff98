"""Makes tests/golden/text/: small tokenizers and chat templates with what Hugging Face's and Google's own
libraries say about them.

    python tests/golden/make_text_fixtures.py

Needs transformers, tokenizers and sentencepiece. The committed files were made with 5.23, 0.23.3 and 0.2.3.
WordPiece training breaks ties at random, so that its files differ from run to run; the others do not.
"""

import io
import json
import pathlib
import shutil

import sentencepiece
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast
from transformers.utils.chat_template_utils import render_jinja_template

from text_templates import CHATS, EXPRESSIONS, TEMPLATES, VALUES

OUT = pathlib.Path(__file__).parent / "text"

CORPUS = [
    "The quick brown fox jumps over the lazy dog and the cat sleeps in the warm sun.",
    "She sells sea shells by the sea shore; the shells she sells are surely sea shells.",
    "Aloha kākou. ʻO wau ʻo Keola, a noho wau ma Hawaiʻi. Pehea ʻoe i kēia lā?",
    "Ua hele mai nei au e ʻike i ka nani o ke kai a me nā mauna kiʻekiʻe.",
    "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich.",
    "Numbers such as 1, 22, 333 and 4444 appear; so do lists: (a) one, (b) two, [c] three.",
    "def add(a, b):\n    return a + b\n\nprint(add(1, 2))\n",
    "What is the capital of France? The capital of France is Paris. Thank you, you are welcome!",
] * 4

TEXTS = [
    "",
    " ",
    "Hello world",
    " leading and trailing ",
    "two  spaces\tand a tab\n\nand lines",
    "Aloha kākou, ʻo wau ʻo Keola. Pehea ʻoe?",
    "naïve café — “quotes” … 1,234.5 €",
    "日本語のテキスト、中文文本。한국어",
    "emoji 😀👩‍👩‍👧‍👦🇯🇵 end",
    "def f(x):\n    return x ** 2\n",
    "<s>not a start</s>",
    "ﬁne ﬂow Ⅳ",
]

SPECIALS_LLAMA3 = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]


def write_json(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def to_bytes(text, offsets):
    """Offsets in characters as offsets in UTF-8 bytes."""
    starts = [0]
    for letter in text:
        starts.append(starts[-1] + len(letter.encode()))
    return [[starts[begin], starts[end]] for begin, end in offsets]


def byte_level(folder, template):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=480,
        special_tokens=SPECIALS_LLAMA3,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    bos = SPECIALS_LLAMA3[0]
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=True),
            processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, tokenizer.token_to_id(bos))]),
        ]
    )
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": bos,
        "eos_token": "<|end_of_text|>",
        "chat_template": template,
        "added_tokens_decoder": {
            str(tokenizer.get_vocab_size()): {"content": "<|python_tag|>", "special": True, "normalized": False}
        },
    }
    write_json(folder / "tokenizer_config.json", config)
    end, turn = tokenizer.token_to_id("<|end_of_text|>"), tokenizer.token_to_id("<|eot_id|>")
    write_json(folder / "generation_config.json", {"bos_token_id": 0, "eos_token_id": [end, turn]})


def wordpiece(folder):
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer.train_from_iterator(
        CORPUS, trainers.WordPieceTrainer(vocab_size=220, special_tokens=specials, show_progress=False)
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[(t, tokenizer.token_to_id(t)) for t in ("[CLS]", "[SEP]")]
    )
    tokenizer.enable_truncation(8)  # a training leftover that loading must switch off
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    tokens = {"cls_token": "[CLS]", "sep_token": {"content": "[SEP]"}, "pad_token": "[PAD]", "unk_token": "[UNK]"}
    write_json(folder / "special_tokens_map.json", tokens)


def sentencepiece_model(folder, config, **options):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS), model_writer=model, hard_vocab_limit=False, minloglevel=2, **options
    )
    folder.mkdir(parents=True)
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    write_json(folder / "tokenizer_config.json", config)


def hugging_face_cases(folder):
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_truncation()
    config = folder / "tokenizer_config.json"
    if config.exists():
        for token in json.loads(config.read_text()).get("added_tokens_decoder", {}).values():
            tokenizer.add_tokens([AddedToken(token["content"], special=True, normalized=False)])
    cases = []
    for text in TEXTS:
        for special in (False, True):
            encoding = tokenizer.encode(text, add_special_tokens=special)
            cases.append(
                {
                    "text": text,
                    "add_special_tokens": special,
                    "ids": encoding.ids,
                    "offsets": to_bytes(text, encoding.offsets),
                    "decoded": tokenizer.decode(encoding.ids, skip_special_tokens=True),
                    "decoded_all": tokenizer.decode(encoding.ids, skip_special_tokens=False),
                }
            )
    return cases


def sentencepiece_cases(folder):
    """Text where Hugging Face's rules about special tokens and leading space agree with SentencePiece's."""
    processor = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    cases = []
    for text in TEXTS:
        if text.strip() == text and text and not text.startswith("<s>"):
            ids = processor.encode(text)
            cases.append({"text": text, "ids": ids, "decoded": processor.decode(ids)})
    return cases


def render(template, chat, specials, spans=False):
    texts, indices = render_jinja_template(
        conversations=[[{k: v for k, v in m.items() if v is not None} for m in chat["messages"]]],
        tools=chat.get("tools"),
        chat_template=template,
        return_assistant_tokens_mask=spans,
        add_generation_prompt=chat.get("add_generation_prompt", False),
        **{**specials, **chat.get("variables", {})},
    )
    return texts[0], indices[0] if spans else None


def template_cases():
    out = []
    for name, entry in TEMPLATES.items():
        cases = []
        marked = "{% generation %}" in entry["source"]
        for chat_name in entry["chats"]:
            chat = CHATS[chat_name]
            case = {"chat": chat_name, **chat}
            text, spans = render(entry["source"], chat, entry["specials"], spans=marked)
            case["text"] = text
            if marked:
                case["spans"] = to_bytes(text, spans)
            cases.append(case)
        out.append({"name": name, "source": entry["source"], "specials": entry["specials"], "cases": cases})
    return out


def expression_cases():
    chat = {"messages": [{"role": "user", "content": "hi"}], "variables": VALUES}
    cases = [{"source": source, "text": render(source, chat, {})[0]} for source in EXPRESSIONS]
    return {**chat, "cases": cases}


def mask_cases(folder):
    tokenizer = PreTrainedTokenizerFast.from_pretrained(str(folder))
    entry = TEMPLATES["generation"]
    cases = []
    for name in entry["chats"]:
        chat = CHATS[name]
        out = tokenizer.apply_chat_template(
            chat["messages"],
            tools=chat.get("tools"),
            chat_template=entry["source"],
            return_dict=True,
            return_assistant_tokens_mask=True,
            **entry["specials"],
        )
        cases.append({**chat, "ids": out["input_ids"], "mask": out["assistant_masks"]})
    return {"source": entry["source"], "specials": entry["specials"], "cases": cases}


def main():
    shutil.rmtree(OUT, ignore_errors=True)
    byte_level(OUT / "bytelevel", TEMPLATES["llama3"]["source"])
    wordpiece(OUT / "wordpiece")
    named = [
        {"name": "default", "template": TEMPLATES["llama2"]["source"]},
        {"name": "tool_use", "template": TEMPLATES["mistral"]["source"]},
    ]
    llama_like = dict(byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False)
    sentencepiece_model(
        OUT / "spm_bpe",
        {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "chat_template": named},
        model_type="bpe",
        vocab_size=420,
        split_digits=True,
        allow_whitespace_only_pieces=True,
        user_defined_symbols=["<|turn|>"],
        **llama_like,
    )
    sentencepiece_model(OUT / "spm_unigram", {"add_bos_token": False}, model_type="unigram", vocab_size=200)
    sentencepiece_model(
        OUT / "spm_unigram_bytes", {}, model_type="unigram", vocab_size=440, **llama_like
    )
    write_json(
        OUT / "encodings.json",
        {
            "hugging_face": {name: hugging_face_cases(OUT / name) for name in ("bytelevel", "wordpiece")},
            "sentencepiece": {
                name: sentencepiece_cases(OUT / name) for name in ("spm_bpe", "spm_unigram", "spm_unigram_bytes")
            },
        },
    )
    write_json(OUT / "templates.json", template_cases())
    write_json(OUT / "expressions.json", expression_cases())
    write_json(OUT / "masks.json", mask_cases(OUT / "bytelevel"))


if __name__ == "__main__":
    main()
