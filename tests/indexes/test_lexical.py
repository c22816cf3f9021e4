"""Words and expressions, always against a real full-text table of SQLite."""

import csv
import json
import math
import sqlite3
import string
import sys
import unicodedata
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexes.lexical import (
    COLUMN_WEIGHTS,
    MAX_HEADING,
    MAX_IDENTIFIERS,
    MAX_TERMS,
    MAX_WORD,
    TOKENIZE,
    body,
    exact,
    expression,
    headed,
    vocabulary_term,
    words,
)
from tests.conftest import shared_data


class Table:
    """A full-text table as a store makes it, contentless, with its vocabulary."""

    def __init__(self, texts=()) -> None:
        self.connection = sqlite3.connect(":memory:")
        self.connection.execute(
            f"CREATE VIRTUAL TABLE words USING fts5(body, exact, content='', tokenize=\"{TOKENIZE}\")"
        )
        self.connection.execute("CREATE VIRTUAL TABLE vocabulary USING fts5vocab(words, row)")
        for number, text in enumerate(texts, start=1):
            self.add(number, text)

    def add(self, number: int, text: str) -> None:
        self.connection.execute(
            "INSERT INTO words(rowid, body, exact) VALUES (?, ?, ?)", (number, body(text), exact(text))
        )

    def find(self, query: str, limit: int = -1) -> list[int]:
        """Return the numbers of the texts found, best first."""
        match = expression(query)
        if match is None:
            return []
        rows = self.connection.execute(
            "SELECT rowid FROM words WHERE words MATCH ? ORDER BY bm25(words, ?, ?), rowid LIMIT ?",
            (match, *COLUMN_WEIGHTS, limit),
        )
        return [number for (number,) in rows]

    def frequencies(self) -> dict[str, int]:
        return dict(self.connection.execute("SELECT term, doc FROM vocabulary").fetchall())


@pytest.fixture(scope="module")
def scratch() -> Table:
    """A table for queries that only must not fail."""
    return Table(["one text", "文本", "NEAR AND OR NOT body exact"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("Hello, World! It's 5pm", ["hello", "world", "it", "s", "5pm"]),
        ("foo_bar E-1234 a@b.example", ["foo", "bar", "e", "1234", "a", "b", "example"]),
        ("资料库", ["资料", "料库"]),
        ("库", ["库"]),
        ("用Python写 3行", ["用", "python", "写", "3", "行"]),
        ("データベース", ["デー", "ータ", "タベ", "ベー", "ース"]),
        ("ﾃﾞｰﾀ", ["デー", "ータ"]),
        ("ひらがな", ["ひら", "らが", "がな"]),
        ("한국어를", ["한국", "국어", "어를"]),
        ("한글", ["한글"]),
        ("ไทย", ["ไท", "ทย"]),
        ("हिन्दी", ["हिन्दी"]),
        ("Ａｂｃ１２３", ["abc123"]),
        ("ﬁne naïve café CAFE\u0301 Ångström", ["fine", "naive", "cafe", "cafe", "angstrom"]),
        ("STRASSE Straße ΣΊΣΥΦΟΣ Москва Ёлка", ["strasse", "strasse", "σισυφοσ", "москва", "елка"]),
        ("⼈⼝", ["人口"]),
        ("“quoted” — dash…", ["quoted", "dash"]),
        ("a\0b \ud800 c", ["a", "b", "c"]),
        ("👩‍👩‍👧 🎉", []),
        ("x" * 100, ["x" * MAX_WORD]),
    ],
)
def test_what_is_a_word(text, expected):
    """Words are folded, scripts without spaces give pairs, everything else parts words."""
    assert words(text) == expected


def test_headings_are_words_of_their_slices():
    """Title and headings stand before the slice, each once, cut where they are endless; words do not grow together."""
    assert headed("Pumps", ("Pumps", "Winter"), "Drain it.") == "Pumps\nWinter\nDrain it."
    assert words(headed("", (), "one")) == ["one"]
    assert words(headed("资", ("料",), "库")) == ["资", "料", "库"]
    assert len(headed("x" * 10_000, ("y" * 10_000,), "")) == 2 * MAX_HEADING + 2


def test_a_whole_text_is_kept_after_nul():
    """A NUL in a text hides nothing of what follows it."""
    assert Table(["before\0after"]).find("after") == [1]


@pytest.mark.parametrize("character", ["资", "料", "库", "水"])
def test_one_chinese_character_is_found(character):
    """A query of one character finds it at the beginning, inside and at the end of a run, and alone."""
    texts = [f"{character}产", f"有{character}产", f"有{character}", character, "无关", f"A{character}，B"]
    assert sorted(Table(texts).find(character)) == [1, 2, 3, 4, 6]


def test_two_chinese_characters_are_found():
    """A word of two characters is found inside a longer run, and not where its characters stand apart."""
    assert Table(["中华人民共和国", "人类与民族", "人 民"]).find("人民") == [1]


def test_stems_are_found_and_the_own_form_is_found_first():
    """A query finds the other forms of its words; of two texts the one with the same form comes first."""
    table = Table(["it connected once", "it connects once", "it connecting once", "other"])
    assert sorted(table.find("connection")) == [1, 2, 3]
    for number, word in enumerate(["connected", "connects", "connecting"], start=1):
        assert table.find(word)[0] == number


@pytest.mark.parametrize(
    ("identifier", "others"),
    [
        ("foo_bar", "bar is not foo"),
        ("3.11.7", "7 of 11 in 3 cases"),
        ("E-1234", "1234 e"),
        ("ops@example.org", "org of the example for ops"),
        ("std::sort_heap", "sort a heap in std"),
        ("10.0.0.1", "1 0 0 10"),
    ],
)
def test_identifiers_are_found_whole_first(identifier, others):
    """A text with the identifier itself comes before one with its parts in another order."""
    filler = ["nothing here"] * 6
    assert Table([others, f"see {identifier} there", *filler]).find(identifier)[0] == 2


def test_stop_words_count_only_when_there_is_nothing_else():
    """`what is the` adds nothing to a query, but alone it is looked for."""
    table = Table(["the what is", "moderation"])
    assert table.find("what is the moderation") == [2]
    assert table.find("What is the") == [1]


@pytest.mark.parametrize("query", ["", " ", "\0", "!?*^\"':-()", "🎉", "\u200b", "\ud800"])
def test_a_query_without_words_has_no_expression(query):
    """What holds no word is searched by nothing."""
    assert expression(query) is None


def test_operators_are_text():
    """AND, OR, NOT, NEAR, quotes, stars, column names and brackets of a user are words or nothing."""
    table = Table(["alpha", "beta", "alpha beta", "near and or not body exact"])
    assert sorted(table.find("alpha NOT beta")) == [1, 2, 3]
    assert sorted(table.find("alpha AND beta")) == [1, 2, 3]
    assert sorted(table.find("NEAR(alpha beta, 0)")) == [1, 2, 3, 4]
    assert table.find("body: x") == [4]
    assert table.find('"alpha') == table.find("alpha*") == table.find("^alpha") == [1, 3]
    assert table.find("alph*") == []
    assert table.find('zzz" OR "beta') == table.find("zzz beta")


def test_the_number_of_terms_is_bounded(scratch):
    """A long query is cut to its first words and identifiers, and answered."""
    query = " ".join(f"term{number} id_{number}.{number}" for number in range(3_000))
    match = expression(query)
    assert match.count(" OR ") <= 2 * MAX_TERMS + MAX_IDENTIFIERS
    assert '"term0"' in match
    assert '"term2999"' not in match
    assert scratch.find(query) == []
    assert scratch.find("文" * 4_000 + "." * 4_000 + "a." * 2_000) == []


@given(query=st.text(max_size=40) | st.text(alphabet="\"*^:()-+{}[],NEARORNOT ab中\0'", max_size=40))
@settings(max_examples=400)
def test_no_query_makes_sqlite_fail(scratch, query):
    """Whatever a user writes is answered, not refused."""
    scratch.find(query)


def test_naughty_strings_are_found_by_themselves(scratch):
    """Each of the naughty strings is safe as a query, and finds itself where it has a word at all."""
    strings = json.loads((shared_data("naughty_strings") / "blns.json").read_text(encoding="utf-8"))
    table = Table(strings)
    for number, one in enumerate(strings, start=1):
        scratch.find(one)
        assert (number in table.find(one)) == bool(words(one))


WORD_TEXT = st.text(max_size=60) | st.text(alphabet="abc éÅß_.-中文字한国สวัस्ते\u0301ﬁ１'\n", max_size=60)


@given(before=WORD_TEXT, after=WORD_TEXT)
@settings(max_examples=300)
def test_a_text_is_found_by_each_of_its_words(before, after):
    """Every word of a text, as `words` gives it, finds the text."""
    text = f"{before} {after}"
    table = Table([text])
    for word in words(text):
        assert table.find(word) == [1], word


@given(text=WORD_TEXT)
def test_words_are_stable(text):
    """The words of the words are the words, but for pairs of a longer run, which are apart then."""
    once = words(text)
    assert words(" ".join(once)) == once


@given(text=st.text(alphabet=string.printable, max_size=60), mark=st.sampled_from("“…—é中\u00a0"))
def test_ascii_is_read_alike_with_and_without_other_characters(text, mark):
    """The short way for pure ASCII gives the words that the long way gives."""
    assert words(f"{text} {mark}") == words(text) + words(mark)


def test_every_letter_of_unicode_is_kept_as_it_is():
    """SQLite keeps each letter, digit and mark as `words` folds it, those younger than its own tables included."""
    characters = [chr(code) for code in range(128, sys.maxunicode + 1)]
    letters = [one for one in characters if unicodedata.category(one)[0] in "LN"]
    found = sorted({word for word in words(" ".join(letters)) if not word.isascii()})
    assert len(found) > 100_000
    table = Table()
    table.connection.execute("CREATE VIRTUAL TABLE places USING fts5vocab(words, instance)")
    table.connection.executemany("INSERT INTO words(rowid, body) VALUES (?, ?)", enumerate(found))
    kept = dict(table.connection.execute("SELECT doc, term FROM places").fetchall())
    assert kept == dict(enumerate(found))


ENGLISH = words(
    """
    a ability abilities agreed bled caresses ponies ties cats feed plastered motoring sing conflated troubled sized
    hopping tanned falling hissing fizzed failing filing happy sky relational conditional rational valenci hesitanci
    digitizer conformabli radicalli differentli vileli analogousli vietnamization predication operator feudalism
    decisiveness hopefulness callousness formaliti sensitiviti sensibiliti triplicate formative formalize
    electriciti electrical hopeful goodness revival allowance inference airliner gyroscopic adjustable defensible
    irritant replacement adjustment dependent adoption homologou communism activate angulariti homologous effective
    bowdlerize probate rate cease controll roll ox thing is us was this alumni taxi
    """
)


def test_each_word_is_counted_under_its_term():
    """`vocabulary_term` names the term under which the vocabulary counts the texts that hold a word."""
    texts = [f"{word} {word} 资料" for word in ENGLISH] + ["alumni taxi 资料"]
    table = Table(texts)
    counted = table.frequencies()
    expected = Counter(word for text in texts for word in set(words(text)))
    for word, count in expected.items():
        term = vocabulary_term(word)
        exactly = term != word or word == "资料"
        assert counted[term] == count if exactly else counted[term] >= count, word


@given(
    ending=st.sampled_from(
        ["ational", "izer", "alli", "fulness", "iviti", "", "ci", "ies", "eed", "ing", "ement", "ou", "ll", "y"]
    ),
    stem=st.text(alphabet=string.ascii_lowercase, min_size=1, max_size=9),
)
@settings(max_examples=300)
def test_whatever_stemming_changes_is_kept_in_its_own_form(ending, stem):
    """A word that has no term of its own form in `exact` is one that Porter's algorithm leaves alone."""
    word = stem + ending
    assert vocabulary_term(word) in Table([word]).frequencies()


def test_the_words_of_real_texts_are_counted_under_their_terms():
    """Every word of real English prose is counted in the vocabulary under the term that is named for it."""
    folder = shared_data("chunkeval_spans")
    texts = [json.loads(line)["text"] for line in (folder / "corpus.jsonl").read_text(encoding="utf-8").splitlines()]
    counted = Table(texts).frequencies()
    for text in texts:
        assert all(vocabulary_term(word) in counted for word in words(text))


def quality(name: str) -> float:
    """Return the nDCG@10 of the lexical leg alone (Jaervelin and Kekaelaeinen 2002), one document per text."""
    folder = shared_data(name)

    def read(file: str) -> list[dict]:
        return [json.loads(line) for line in (folder / file).read_text(encoding="utf-8").splitlines()]

    judged: dict[str, dict[str, int]] = {}
    with (folder / "qrels.tsv").open(encoding="utf-8") as file:
        for line in csv.DictReader(file, delimiter="\t"):
            if int(line["score"]) > 0:
                judged.setdefault(line["query_id"], {})[line["doc_id"]] = int(line["score"])
    corpus = read("corpus.jsonl")
    table = Table(f"{one['title']}\n{one['text']}" for one in corpus)
    gains = []
    for query in read("queries.jsonl"):
        relevant = judged.get(query["id"])
        if relevant:
            found = [relevant.get(corpus[number - 1]["id"], 0) for number in table.find(query["text"], 10)]
            best = sorted(relevant.values(), reverse=True)[:10]
            gains.append(discounted(found) / discounted(best))
    return sum(gains) / len(gains)


def discounted(grades: list[int]) -> float:
    return sum((2**grade - 1) / math.log2(place + 2) for place, grade in enumerate(grades))


def test_chinese_questions_find_their_texts():
    """On real Chinese questions the words alone reach an nDCG@10 of 0.97."""
    assert quality("cmrc2018_trial") >= 0.97


@pytest.mark.soak
def test_english_claims_find_their_texts():
    """On real English claims the words alone reach an nDCG@10 of 0.69."""
    assert quality("scifact_train") >= 0.69
