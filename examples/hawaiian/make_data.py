#!/usr/bin/env python3
"""Makes the demonstration's data: the same files on every machine, with Python's standard library alone.

    make_data.py --pairs DIR         train.jsonl, valid.jsonl, test.jsonl: English and Hawaiian as chats
    make_data.py --monolingual DIR   train.jsonl, valid.jsonl: short texts, each in one language, for the base model

Held-out sentences share words with training, never a whole sentence, in either language.
"""

import argparse
import collections
import json
import pathlib
import random

import patterns

PROMPT = "Translate to Hawaiian: "
NUM_TRAIN, NUM_VALID, NUM_TEST = 5000, 150, 200
NUM_TEXTS = 30000  # of each language


def key(text):
    """A sentence without case and punctuation."""
    return " ".join(text.lower().translate(str.maketrans("", "", ".,?!")).split())


def make_pairs():
    """(train, valid, test), lists of (English, Hawaiian). No sentence of either language appears twice."""
    maker = patterns.Maker(patterns.load_lexicon(), random.Random(20))
    pairs, seen = [], set()
    while len(pairs) < NUM_TRAIN + NUM_VALID + NUM_TEST:
        pair = maker.pair()
        sides = {("english", key(pair[0])), ("hawaiian", key(pair[1]))}
        if not sides & seen:
            seen |= sides
            pairs.append(pair)
    counts = collections.Counter(word for pair in pairs for side in pair for word in key(side).split())
    held_out, train = [], []
    for pair in pairs:
        familiar = all(counts[word] >= 8 for side in pair for word in key(side).split())
        (held_out if familiar and len(held_out) < NUM_VALID + NUM_TEST else train).append(pair)
    return train, held_out[:NUM_VALID], held_out[NUM_VALID:]


def check_pairs(train, valid, test):
    assert (len(train), len(valid), len(test)) == (NUM_TRAIN, NUM_VALID, NUM_TEST)
    for side in (0, 1):
        sentences = [[key(pair[side]) for pair in split] for split in (train, valid, test)]
        everything = sum(sentences, [])
        assert len(set(everything)) == len(everything), "a sentence appears twice"
        known = {word for text in sentences[0] for word in text.split()}
        unknown = {word for text in sentences[1] + sentences[2] for word in text.split()} - known
        assert not unknown, f"held out, but never in training: {unknown}"


def make_texts(language, held_out, seed):
    """Short texts in one language (0 English, 1 Hawaiian): one to four sentences, some asked and then answered,
    without any held-out sentence."""
    rng = random.Random(seed)
    maker = patterns.Maker(patterns.load_lexicon(), rng)
    texts = []
    while len(texts) < NUM_TEXTS:
        text = [s for _ in range(rng.choice([1, 1, 2, 3])) for s in one_or_related(maker, rng, language)]
        text = [s for s in text if key(s) not in held_out]
        if text:
            texts.append(" ".join(text))
    return texts


def one_or_related(maker, rng, language):
    """A sentence, or two to three that share subject and verb, as in a question and its answer."""
    family = rng.choices(maker.families, maker.weights)[0]
    if family != maker.clause or rng.random() < 0.4:
        return [family()[language]]
    return [pair[language] for pair in related_clauses(maker, rng)]


def related_clauses(maker, rng):
    verb = rng.choice(maker.words["verb"])
    subject = maker.subject("person")
    tail = maker.tail(verb, subject)
    tenses = ["present", "past", "future"] + ([] if "state" in verb.tags else ["progressive"])
    first, second = rng.choice(tenses), rng.choice(tenses)
    for tense, mood in rng.choice(
        [
            [(first, "question"), (first, "plain")],
            [(first, "question"), (first, "negative"), (second, "plain")],
            [(first, "plain"), (second, "negative")],
            [(first, "negative"), (second, "question"), (second, "plain")],
        ]
    ):
        end = "?" if mood == "question" else "."
        yield (
            patterns.sentence(patterns.clause_english(verb, subject, tense, mood) + tail[0], end),
            patterns.sentence(patterns.clause_hawaiian(verb.hawaiian, subject, tense, mood) + tail[1], end),
        )


def write_rows(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8")
    print(f"{path}: {len(rows)} rows")


def chat(pair):
    turns = [("user", PROMPT + pair[0]), ("assistant", pair[1])]
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=pathlib.Path, metavar="DIR")
    parser.add_argument("--monolingual", type=pathlib.Path, metavar="DIR")
    arguments = parser.parse_args()
    splits = make_pairs()
    check_pairs(*splits)
    if arguments.pairs:
        for name, pairs in zip(("train", "valid", "test"), splits):
            write_rows(arguments.pairs / f"{name}.jsonl", [chat(p) for p in pairs])
    if arguments.monolingual:
        rows = []
        for language in (0, 1):
            held_out = {key(pair[language]) for pair in splits[1] + splits[2]}
            # Two seeds: nothing pairs the two languages' texts.
            texts = make_texts(language, held_out, seed=101 + language)
            rows += [{"text": text} for text in texts]
        random.Random(7).shuffle(rows)
        write_rows(arguments.monolingual / "train.jsonl", rows[500:])
        write_rows(arguments.monolingual / "valid.jsonl", rows[:500])


if __name__ == "__main__":
    main()
