"""Writes tests/golden/metrics/sacrebleu.json: texts with what sacrebleu makes of them.

Made with sacrebleu 2.6.0:

    python tests/golden/make_metric_fixtures.py

`tokens`: [{text, tokens}], mteval-v13a's tokens. `corpora`: [{name, answers, references, bleu, chrf, chrf++}].
"""

import json
import pathlib
import random

import sacrebleu
from sacrebleu.metrics import BLEU, CHRF
from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

HERE = pathlib.Path(__file__).resolve().parent / "metrics"

TEXTS = [
    "",
    " ",
    "Hello, world!",
    "It costs $1,000.50 (or so)... doesn't it?",
    "3-4 and a-b, 5- 6 -7 --- x",
    "a.b.c 1.2.3 .5 5. ,,,..,1,a",
    "&quot;Tom &amp; Jerry&quot; &lt;3 &gt; &amp;lt; & co",
    "well-\nknown words\non two lines <skipped>here</skipped>",
    "He aliʻi ka ʻāina; he kauwā ke kanaka.",
    "東京は、日本の首都です。 人口は1,400万人。",
    "emoji 🙂🙃, flags 🇩🇪.",
    "no\u00a0break\u3000space\u2009thin\u0085line\u001cunit",
    "[brackets] {braces} `ticks` ~tilde ^caret_under\\back|pipe",
    "'single' \"double\" “curly” ‘quotes’ «guillemets»",
    "http://example.org/a?b=c&d=e#f user@example.org 50% #tag *bold* 1/2 <a>",
    "tab\tand\rreturn\x0bvertical\x0cfeed",
]

WORDS = "the a cat dog house , . ! ? 3.5 1,000 ka hale nui ke aliʻi naïve 東京 -- it's (and) &".split()


def noisy(rng, words):
    words = [w for w in words if rng.random() > 0.15]
    return [rng.choice(WORDS) if rng.random() < 0.15 else w for w in words]


def corpora():
    same = TEXTS[2:]
    yield "identical", same, same
    yield "nothing in common", ["abc def", "ghi"], ["123 456", "789 0"]
    yield "empty answers", ["", ""], ["a reference", "another one"]
    yield "empty references", ["an answer", "x"], ["", ""]
    yield "one empty of two", ["", "the cat sat on the mat"], ["he noho", "the cat sat on a mat"]
    yield "short", ["ka hale", "ke aliʻi"], ["ka hale", "he aliʻi"]
    yield "single letters", ["a", "b"], ["a", "c"]
    yield "longer answer", ["the cat sat on the mat today and then left"], ["the cat sat on the mat"]
    yield "shorter answer", ["the cat sat on"], ["the cat sat on the mat, (really)!"]
    yield "order kept from trigrams", ["a b c x y", "p q r"], ["a b c d e", "p q s"]
    yield "punctuation", ["(hi)! what?? 'no'", "-- ..."], ["(hi) ! what ?", "-- …"]
    rng = random.Random(7)
    for n in range(6):
        refs = [[rng.choice(WORDS) for _ in range(rng.randint(1, 18))] for _ in range(12)]
        yield f"random {n}", [" ".join(noisy(rng, r)) for r in refs], [" ".join(r) for r in refs]


def main():
    assert sacrebleu.__version__ == "2.6.0", sacrebleu.__version__
    tokenizer = Tokenizer13a()
    found = {"sacrebleu": sacrebleu.__version__, "tokens": [], "corpora": []}
    for text in TEXTS:
        found["tokens"].append({"text": text, "tokens": tokenizer(text).split()})
    for name, answers, references in corpora():
        scores = {"bleu": BLEU(), "chrf": CHRF(), "chrf++": CHRF(word_order=2)}
        found["corpora"].append(
            {"name": name, "answers": answers, "references": references}
            | {metric: scorer.corpus_score(answers, [references]).score for metric, scorer in scores.items()}
        )
    HERE.mkdir(exist_ok=True)
    (HERE / "sacrebleu.json").write_text(json.dumps(found, ensure_ascii=False, indent=1) + "\n")


if __name__ == "__main__":
    main()
