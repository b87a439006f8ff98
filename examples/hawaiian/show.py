#!/usr/bin/env python3
"""Prints what the demonstration found: loss curve, scores before and after, ten answers side by side.

    show.py RUN_FOLDER BEFORE.json AFTER.json     the latter two from `temper eval --generate --json`
"""

import json
import pathlib
import sys

PROMPT = "Translate to Hawaiian: "
BAR = 40


def curve(events):
    validated = {e["step"]: e["loss"] for e in events if e["type"] == "eval" and e["split"] == "valid"}
    points = [(e["step"], e["loss"]) for e in events if e["type"] == "step"]
    highest = max([loss for _, loss in points] + list(validated.values()))
    print("Loss, training and (on the right) validation")
    for step, loss in sorted(points + [(s, None) for s in validated if s not in dict(points)]):
        bar = "" if loss is None else "█" * max(1, round(BAR * loss / highest))
        number = "" if loss is None else f"{loss:.3f}"
        valid = f"{validated[step]:.3f}" if step in validated else ""
        print(f"  {step:5d} {number:>7} {bar:{BAR}} {valid}".rstrip())


def scores(before, after):
    print(f"\n{len(before['answers'])} held-out sentences  before   after")
    for name, label, digits in (("exact", "exact match, %", 1), ("chrf", "chrF", 1), ("loss", "loss", 3)):
        print(f"  {label:20} {before[name]:7.{digits}f} {after[name]:7.{digits}f}")


def side_by_side(before, after):
    print("\nTen of them")
    for old, new in list(zip(before["answers"], after["answers"]))[:10]:
        mark = "=" if new["answer"].strip() == new["reference"].strip() else "≠"
        print(f"  English   {old['prompt'].removeprefix(PROMPT)}")
        print(f"  before    {' '.join(old['answer'].split())[:90]}")
        print(f"  after   {mark} {new['answer'].strip()}")
        if mark == "≠":
            print(f"  expected  {new['reference']}")
        print()


def main():
    run, before, after = (pathlib.Path(a) for a in sys.argv[1:])
    lines = (run / "events.jsonl").read_text(encoding="utf-8").splitlines()
    before, after = (json.loads(p.read_text(encoding="utf-8")) for p in (before, after))
    curve([json.loads(line) for line in lines])
    scores(before, after)
    side_by_side(before, after)
    print("The sentences are synthetic: made by a script from a lexicon, not checked by speakers of Hawaiian.")
    print(f"The run is in {run}: adapters, checkpoints, events.jsonl, run.json.")


if __name__ == "__main__":
    main()
