"""Strings that tokenizers differ on."""

import random

PARTS = [
    " ", "  ", "    ", "\n", "\n\n", "\r\n", "\t", "\u00a0", "\u3000", "\u200b", "\u2009", "\ufeff",
    "Hello", "world", "don't", "I'LL", "we're", "it'S", "O'Neill", "rock'n'roll", "'s", "'", '"', "’s",
    "0", "7", "42", "123", "1234", "3.14", "1,000,000", "2026-11-21", "٣٤", "½", "²", "Ⅷ", "०१२",
    "ʻōlelo", "Hawaiʻi", "kahakō", "ā", "ē", "ū", "ʻ", "Āina", "aloha kākou",
    "é", "e\u0301", "ñ", "n\u0303", "Å", "A\u030a", "ạ\u0308", "\u0301", "Z͑ͫ̓ͪ̂ͫ̽͏̴",
    "漢字", "かな", "カタカナ", "한국어", "中文，标点。", "ไทย", "हिन्दी", "العربية", "עברית", "Русский", "ελληνικά", "ქართული",
    "😀", "👍🏽", "👨‍👩‍👧‍👦", "🇺🇳", "❤️", "☺", "🏳️‍🌈", "𝔘𝔫𝔦", "𐍈",
    "def f(x):", "    return x + 1", "for(i=0;i<10;++i){", "</div>", "==", "!=", "->", "::", "#include <a.h>", "a_b", "aB",
    "camelCase", "SCREAMING", "x" * 40, "ab" * 20, "!" * 9, "-" * 17, "...", "…", "?!", "«»", "—", "\\n", "\\", "/*", "$",
    "https://example.org/a?b=c&d=%20", "a@b.c", "C:\\dir", "\x01", "\x1b[0m", "\x7f", "\x00", "\ufffd", "\ue000", "\U000f0000",
]  # fmt: skip


def odd_strings(count, specials):
    """The same ones each time: each part alone, then some in a row, with special tokens written out among them."""
    chance = random.Random(2026)
    strings = ["", *PARTS, *specials]
    while len(strings) < count:
        parts = [chance.choice(PARTS if chance.random() < 0.9 else specials) for _ in range(chance.randint(2, 9))]
        strings.append(chance.choice(["", "", " "]).join(parts))
    return strings[:count]
