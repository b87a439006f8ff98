"""English and Hawaiian sentences of the same meaning, from lexicon.tsv and a few dozen patterns.

Every pattern makes both sides from one choice of words, so a pair is right whenever the pattern is. The Hawaiian
follows the common patterns of introductory courses (verb, subject, object; ua, ke ... nei, e ... ana; he, ʻo, aia;
a- and o-possessives) and has not been checked by speakers.
"""

import dataclasses
import pathlib

PRONOUNS = {  # English subject: object, English possessive, Hawaiian subject, object, possessive ending
    "I": ("me", "my", "au", "iaʻu", "ʻu"),
    "you": ("you", "your", "ʻoe", "iā ʻoe", "u"),
    "he": ("him", "his", "ʻo ia", "iā ia", "na"),
    "she": ("her", "her", "ʻo ia", "iā ia", "na"),
    "we": ("us", "our", "mākou", "iā mākou", " mākou"),
    "they": ("them", "their", "lākou", "iā lākou", " lākou"),
    "you all": ("you all", "", "ʻoukou", "iā ʻoukou", ""),
    "we all": ("us all", "", "kākou", "iā kākou", ""),
    "the two of them": ("the two of them", "", "lāua", "iā lāua", ""),
}
OBJECT_PRONOUNS = {  # who is not the subject too
    "I": ("you", "he", "they"),
    "you": ("I", "he", "we", "they"),
    "we": ("you", "he", "they"),
    "you all": ("I", "he", "we", "they"),
    "we all": ("he", "they"),
}
HAVE = {"I": "have", "you": "have", "he": "has", "she": "has", "we": "have", "they": "have"}


@dataclasses.dataclass(frozen=True)
class Word:
    kind: str
    hawaiian: str
    english: str
    forms: str
    tags: frozenset

    def tag(self, prefix):
        return next((t[len(prefix) :] for t in self.tags if t.startswith(prefix)), None)


@dataclasses.dataclass(frozen=True)
class Phrase:
    """A noun phrase: how it reads in both languages, and what agreement needs to know."""

    english: str
    hawaiian: str
    kind: str  # noun, name, pronoun
    plural: bool = False
    tags: frozenset = frozenset()

    @property
    def object(self):
        return PRONOUNS[self.english][0] if self.kind == "pronoun" else self.english

    @property
    def subject_hawaiian(self):
        return f"ʻo {self.hawaiian}" if self.kind == "name" else self.hawaiian

    def after_i(self):
        """The phrase as an object: i ka iʻa, iā Keola, iaʻu."""
        if self.kind == "pronoun":
            return PRONOUNS[self.english][3]
        return f"iā {self.hawaiian}" if self.kind == "name" else f"i {self.hawaiian}"

    def be(self):
        if self.english == "I":
            return "am"
        return "are" if self.plural else "is"


def load_lexicon(path=pathlib.Path(__file__).parent / "lexicon.tsv"):
    words = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            kind, hawaiian, english, forms, tags = (line.split("\t") + ["", ""])[:5]
            words.setdefault(kind, []).append(Word(kind, hawaiian, english, forms, frozenset(tags.split())))
    for kind, group in words.items():
        assert len({w.english for w in group}) == len(group), f"{kind}: an English word twice"
    return words


def article(word):
    """ke before k, e, a and o, and for the words marked so; the okina is a consonant."""
    return "ke" if "ke" in word.tags or word.hawaiian[0].lower() in "keaoāēō" else "ka"


def sentence(text, end="."):
    # An okina has no capital: the letter after it is raised.
    first = 1 if text[0] == "ʻ" else 0
    return text[:first] + text[first].upper() + text[first + 1 :] + end


def indefinite(english):
    return f"an {english}" if english[0] in "aeiou" and not english.startswith("uk") else f"a {english}"


class Maker:
    """Sentence pairs, drawn with the generator given."""

    def __init__(self, words, rng):
        self.words, self.rng = words, rng
        self.nouns = words["noun"]
        families = [
            (40, self.clause),
            (12, self.stative),
            (7, self.equational),
            (5, self.identity),
            (9, self.locative),
            (7, self.possession),
            (4, self.count_owned),
            (3, self.count_there),
            (7, self.imperative),
            (9, self.modal),
            (5, self.agent),
            (5, self.giving),
            (1, self.greeting),
        ]
        self.weights, self.families = zip(*families)

    def pair(self):
        return self.rng.choices(self.families, self.weights)[0]()

    # Noun phrases

    def chance(self, p):
        return self.rng.random() < p

    def any_of(self, *tags, among=None):
        return self.rng.choice([w for w in among or self.nouns if w.hawaiian in tags or w.tags & set(tags)])

    def quality(self, noun):
        fitting = [w for w in self.words["stative"] if w.tags & (noun.tags | {noun.hawaiian})]
        return self.rng.choice(fitting) if fitting else None

    def pronoun(self, choices=tuple(PRONOUNS)):
        english = self.rng.choice(choices)
        plural = english not in ("he", "she")
        return Phrase(english, PRONOUNS[english][2], "pronoun", plural, frozenset({"person"}))

    def name(self):
        word = self.rng.choice(self.words["name"])
        return Phrase(word.english, word.hawaiian, "name", False, frozenset({"person"}))

    def noun_phrase(self, noun, plain=False):
        countable = noun.forms not in ("-", noun.english)
        plural = countable and self.chance(0.25)
        english = noun.forms if plural else noun.english
        hawaiian = (noun.tag("plural=") or noun.hawaiian) if plural else noun.hawaiian
        kind = "the" if plain else self.rng.choices(["the", "this", "owned"], [75, 10, 15])[0]
        quality = self.quality(noun) if kind == "the" and self.chance(0.0 if plain else 0.2) else None
        if quality:
            english, hawaiian = f"{quality.english} {english}", f"{hawaiian} {quality.hawaiian}"
        mau = "mau " if plural else ""
        owned_class = "a" if "a" in noun.tags else "o" if "o" in noun.tags else None
        if kind == "this" and countable:
            near = self.chance(0.5)
            words = (("these" if plural else "this"), "kēia") if near else (("those" if plural else "that"), "kēlā")
            english, hawaiian = f"{words[0]} {english}", f"{words[1]} {mau}{hawaiian}"
        elif kind == "owned" and owned_class:
            english, hawaiian = self.owned(english, hawaiian, mau, owned_class, article(noun))
        else:
            english, hawaiian = f"the {english}", f"{'nā' if plural else article(noun)} {hawaiian}"
        return Phrase(english, hawaiian, "noun", plural, noun.tags | {noun.hawaiian})

    def owned(self, english, hawaiian, mau, owned_class, the):
        if self.chance(0.6):
            who = self.rng.choice([p for p in PRONOUNS if PRONOUNS[p][1]])
            _, my, _, _, ending = PRONOUNS[who]
            return f"{my} {english}", f"{possessive(owned_class, ending)} {mau}{hawaiian}"
        who = self.name() if self.chance(0.6) else self.noun_phrase(self.any_of("person"), plain=True)
        the = "nā" if mau else the
        mark = "'" if who.english.endswith("s") else "'s"
        return f"{who.english}{mark} {english}", f"{the} {hawaiian} {owned_class} {who.hawaiian}"

    def subject(self, *tags):
        roll = self.rng.random()
        if "person" in tags and roll < 0.25:
            return self.pronoun()
        if "person" in tags and roll < 0.45:
            return self.name()
        return self.noun_phrase(self.any_of(*tags))

    def object(self, verb, subject):
        tags = verb.tags - {"do", "go", "state", "none"}
        if "person" in tags and self.chance(0.15):
            return self.pronoun(OBJECT_PRONOUNS.get(subject.english, ("I", "you", "he", "we", "they")))
        if "person" in tags and self.chance(0.2):
            return self.name()
        return self.noun_phrase(self.any_of(*tags))

    def place(self, to=False):
        if self.chance(0.35):
            town = self.rng.choice(self.words["town"])
            at = "on" if "on" in town.tags else "in"
            place = Phrase(town.english, town.hawaiian, "name")
        else:
            noun = self.any_of("place")
            at = next((p for p in ("in", "on") if p in noun.tags), "at")
            place = self.noun_phrase(noun, plain=True)
        if to:
            return f" to {place.english}", f" i {place.hawaiian}"
        return f" {at} {place.english}", f" ma {place.hawaiian}"

    def tail(self, verb, subject):
        """What follows the subject: an object, a place, or nothing. (English, Hawaiian)."""
        if "go" in verb.tags and ("none" not in verb.tags or self.chance(0.5)):
            return self.place(to=True)
        if "none" in verb.tags:
            return self.place() if self.chance(0.5) else ("", "")
        thing = self.object(verb, subject)
        place = self.place() if "do" in verb.tags and self.chance(0.08) else ("", "")
        return f" {thing.object}{place[0]}", f" {thing.after_i()}{place[1]}"

    def time(self, tense):
        if not self.chance(0.15):
            return "", ""
        word = self.any_of(tense, among=self.words["time"])
        return f" {word.english}", f" {word.hawaiian}"

    # Sentences: each returns (English, Hawaiian)

    def clause(self):
        verb = self.rng.choice(self.words["verb"])
        subject = self.subject("person")
        tense = self.rng.choice(["present", "past", "future"] + ([] if "state" in verb.tags else ["progressive"]))
        mood = self.rng.choices(["plain", "negative", "question"], [70, 18, 12])[0]
        tail, when = self.tail(verb, subject), self.time(tense)
        rest = tail[0] + when[0], tail[1] + when[1]
        end = "?" if mood == "question" else "."
        english = clause_english(verb, subject, tense, mood) + rest[0]
        hawaiian = clause_hawaiian(verb.hawaiian, subject, tense, mood) + rest[1]
        return sentence(english, end), sentence(hawaiian, end)

    def stative(self):
        noun = self.any_of("person", "animal", "food", "drink", "thing", "vehicle", "building", "wear", "song", "plant")
        quality = self.quality(noun)
        roll = self.rng.random()
        if "person" in noun.tags and roll < 0.5 and "person" in quality.tags:
            who = self.pronoun() if roll < 0.25 else self.name()
        else:
            who = self.noun_phrase(noun)
            if quality.english in who.english:
                return self.stative()
        mood = self.rng.choices(["plain", "very", "negative", "question"], [50, 20, 15, 15])[0]
        a, subject = quality.hawaiian, who.subject_hawaiian
        if mood == "question":
            be = who.be().capitalize()
            return f"{be} {who.english} {quality.english}?", sentence(f"{a} anei {subject}", "?")
        if mood == "negative":
            pronoun_first = f"ʻaʻole {subject} {a}" if who.kind == "pronoun" else f"ʻaʻole {a} {subject}"
            return sentence(f"{who.english} {who.be()} not {quality.english}"), sentence(pronoun_first)
        very, loa = ("very ", " loa") if mood == "very" else ("", "")
        return sentence(f"{who.english} {who.be()} {very}{quality.english}"), sentence(f"{a}{loa} {subject}")

    def equational(self):
        role = self.any_of("role")
        who = self.subject("person")
        if role.hawaiian in who.tags or who.english.startswith("the two"):
            return self.equational()
        quality = self.quality(role) if self.chance(0.3) else None
        plural = who.plural and who.english not in ("I", "you")
        english = role.forms if plural else role.english
        hawaiian = role.hawaiian + (f" {quality.hawaiian}" if quality else "")
        english = f"{quality.english} {english}" if quality else english
        predicate = english if plural else indefinite(english)
        he = "he mau" if plural else "he"
        mood = self.rng.choices(["plain", "negative", "question"], [65, 20, 15])[0]
        subject = who.subject_hawaiian
        if mood == "question":
            return sentence(f"{who.be()} {who.english} {predicate}", "?"), sentence(f"{he} {hawaiian} anei {subject}", "?")
        no, aole = (" not", "ʻaʻole ") if mood == "negative" else ("", "")
        return sentence(f"{who.english} {who.be()}{no} {predicate}"), sentence(f"{aole}{he} {hawaiian} {subject}")

    def identity(self):
        role = self.any_of("role")
        who = self.noun_phrase(role)
        while who.plural:
            who = self.noun_phrase(role)
        if self.chance(0.25):
            return f"Who is {who.english}?", f"ʻO wai {who.hawaiian}?"
        name = self.name()
        if name.english in who.english:
            return self.identity()
        if self.chance(0.2):
            return f"Is {name.english} {who.english}?", f"ʻO {name.hawaiian} anei {who.hawaiian}?"
        return f"{name.english} is {who.english}.", f"ʻO {name.hawaiian} {who.hawaiian}."

    def locative(self):
        roll = self.rng.random()
        if roll < 0.4:
            thing = self.subject("person", "animal")
        else:
            thing = self.noun_phrase(self.any_of("thing", "animal", "wear"))
        be, subject = thing.be(), thing.subject_hawaiian
        if self.chance(0.2):
            return f"Where {be} {thing.english}?", f"Aia i hea {subject}?"
        relation, preposition, tag = self.rng.choice(
            [
                ("on", "ma luna o", "surface"),
                ("under", "ma lalo o", "surface"),
                ("inside", "ma loko o", "container"),
                ("inside", "ma loko o", "landmark"),
                ("outside", "ma waho o", "building"),
                ("in front of", "ma mua o", "landmark"),
                ("behind", "ma hope o", "landmark"),
                ("next to", "ma ka ʻaoʻao o", "landmark"),
                ("at", "ma", "place"),
                ("at", "ma", "place"),
            ]
        )
        if tag == "place":
            english, hawaiian = self.place()
            where = english.strip(), hawaiian.strip()
        else:
            mark = self.noun_phrase(self.any_of(tag), plain=True)
            if mark.english.split()[-1] in thing.english:
                return self.locative()
            where = f"{relation} {mark.english}", f"{preposition} {mark.hawaiian}"
        if self.chance(0.12):
            return sentence(f"{be} {thing.english} {where[0]}", "?"), f"Aia anei {subject} {where[1]}?"
        return sentence(f"{thing.english} {be} {where[0]}"), f"Aia {subject} {where[1]}."

    def owner(self):
        if self.chance(0.4):
            return self.pronoun(tuple(HAVE))
        return self.name() if self.chance(0.5) else self.noun_phrase(self.any_of("person"), plain=True)

    def possession(self):
        who = self.owner()
        noun = self.any_of("a", "o")
        quality = self.quality(noun) if self.chance(0.25) else None
        thing = (f"{quality.english} " if quality else "") + noun.english
        hawaiian = noun.hawaiian + (f" {quality.hawaiian}" if quality else "")
        owned_class = "a" if "a" in noun.tags else "o"
        if who.kind == "pronoun":
            owner = possessive(owned_class, PRONOUNS[who.english][4])
        else:
            owner = f"k{owned_class.translate({97: 'ā', 111: 'o'})} {who.hawaiian}"
        if self.chance(0.15):
            do = "Do" if who.plural else "Does"
            return f"{do} {who.english} have {indefinite(thing)}?", f"He {hawaiian} anei {owner}?"
        have = HAVE.get(who.english, "have" if who.plural else "has")
        return sentence(f"{who.english} {have} {indefinite(thing)}"), f"He {hawaiian} {owner}."

    def count_owned(self):
        who = self.owner()
        while who.kind == "pronoun":
            who = self.owner()
        noun = self.any_of("a", "o")
        if noun.forms == "-":
            return self.count_owned()
        owner = f"{'a' if 'a' in noun.tags else 'o'} {who.hawaiian}"
        hawaiian = noun.tag("plural=") or noun.hawaiian
        if self.chance(0.25):
            do = "do" if who.plural else "does"
            return f"How many {noun.forms} {do} {who.english} have?", f"ʻEhia {hawaiian} {owner}?"
        number = self.rng.choice(self.words["number"])
        have = "have" if who.plural else "has"
        english = f"{who.english} {have} {number.english} {noun.forms}"
        return sentence(english), sentence(f"{number.hawaiian} {hawaiian} {owner}")

    def count_there(self):
        noun = self.any_of("person", "animal", "thing", "vehicle")
        number = self.rng.choice(self.words["number"])
        place = self.place()
        hawaiian = noun.tag("plural=") or noun.hawaiian
        if self.chance(0.2):
            return f"How many {noun.forms} are there{place[0]}?", f"ʻEhia {hawaiian}{place[1]}?"
        english = f"There are {number.english} {noun.forms}{place[0]}."
        return english, sentence(f"{number.hawaiian} {hawaiian}{place[1]}")

    def doing(self):
        """A verb that may be told or wanted, with what follows it."""
        verb = self.any_of("do", among=self.words["verb"])
        nobody = Phrase("", "", "noun")
        return verb, self.tail(verb, nobody)

    def imperative(self):
        verb, (english, hawaiian) = self.doing()
        start, e, we = self.rng.choices(
            [("", "e", ""), ("please ", "e ʻoluʻolu, e", ""), ("do not ", "mai", ""), ("let us all ", "e", " kākou")],
            [40, 15, 25, 20],
        )[0]
        end = "." if start in ("please ", "let us all ") else "!"
        return sentence(f"{start}{verb.english}{english}", end), sentence(f"{e} {verb.hawaiian}{we}{hawaiian}", end)

    def modal(self):
        verb, (english, hawaiian) = self.doing()
        who = self.subject("person")
        third = who.english != "I" and not who.plural
        kind = self.rng.choice(["want", "can", "must"])
        if kind == "want":
            want = "wants" if third else "want"
            return (
                sentence(f"{who.english} {want} to {verb.english}{english}"),
                f"Makemake {who.subject_hawaiian} e {verb.hawaiian}{hawaiian}.",
            )
        if kind == "can":
            return (
                sentence(f"{who.english} can {verb.english}{english}"),
                f"Hiki {who.after_i()} ke {verb.hawaiian}{hawaiian}.",
            )
        return (
            sentence(f"{who.english} must {verb.english}{english}"),
            f"Pono {who.subject_hawaiian} e {verb.hawaiian}{hawaiian}.",
        )

    def agent(self):
        verb = self.any_of("do", among=[v for v in self.words["verb"] if not v.tags & {"none", "go"}])
        past = self.chance(0.6)
        who = Phrase("who", "wai", "name") if self.chance(0.5) else self.owner()
        if who.kind == "pronoun":
            return self.agent()
        english, hawaiian = self.tail(verb, who)
        shape = verb_forms(verb)["past"] if past else f"will {verb.english}"
        mark = "i" if past else "e"
        if who.english == "who":
            return f"Who {shape}{english}?", f"Na wai {mark} {verb.hawaiian}{hawaiian}?"
        be = "was" if past else "is"
        return f"It {be} {who.english} who {shape}{english}.", f"Na {who.hawaiian} {mark} {verb.hawaiian}{hawaiian}."

    def giving(self):
        who, whom = self.subject("person"), self.subject("person")
        if who.english == whom.english or {who.kind, whom.kind} == {"pronoun"}:
            return self.giving()
        thing = self.noun_phrase(self.any_of("thing", "food", "drink"))
        tense, (past, e) = self.rng.choice([("past", ("gave", "ua hāʻawi")), ("future", ("will give", "e hāʻawi ana"))])
        when = self.time(tense)
        return (
            sentence(f"{who.english} {past} {thing.english} to {whom.object}{when[0]}"),
            sentence(f"{e} {who.subject_hawaiian} {thing.after_i()} {whom.after_i()}{when[1]}"),
        )

    def greeting(self):
        word, name = self.rng.choice(self.words["greeting"]), self.name()
        return f"{word.english}, {name.english}.", f"{word.hawaiian}, e {name.hawaiian}."


def possessive(owned_class, ending):
    """kaʻu, koʻu, kāu, kou, kāna, kona, kā mākou, ko mākou."""
    if ending == "ʻu":
        return f"k{owned_class}ʻu"
    return ("kā" if owned_class == "a" else "ko") + ending


def verb_forms(verb):
    third, past, progressive = (f.replace("_", " ") for f in verb.forms.split())
    return {"third": third, "past": past, "progressive": progressive, "base": verb.english}


def clause_english(verb, subject, tense, mood):
    forms, who = verb_forms(verb), subject.english
    third = not subject.plural and who != "I"
    helper = {
        "present": "does" if third else "do",
        "past": "did",
        "future": "will",
        "progressive": subject.be(),
    }[tense]
    shape = forms["progressive"] if tense == "progressive" else forms["base"]
    if mood == "question":
        return f"{helper} {who} {shape}"
    if mood == "negative":
        return f"{who} {helper} not {shape}"
    if tense == "present":
        return f"{who} {forms['third'] if third else forms['base']}"
    return f"{who} {forms['past']}" if tense == "past" else f"{who} {helper} {shape}"


def clause_hawaiian(verb, subject, tense, mood):
    who = subject.subject_hawaiian
    if mood == "negative":  # pronouns move up to the negation
        shape = {"present": verb, "past": f"i {verb}", "future": f"e {verb} ana", "progressive": f"e {verb} nei"}[tense]
        return f"ʻaʻole {who} {shape}" if subject.kind == "pronoun" else f"ʻaʻole {shape} {who}"
    shape = {"present": verb, "past": f"ua {verb}", "future": f"e {verb} ana", "progressive": f"ke {verb} nei"}[tense]
    return f"{shape} anei {who}" if mood == "question" else f"{shape} {who}"
