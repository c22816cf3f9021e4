"""Which questions need what was said before them."""

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragsvc.followups import is_incomplete, needs_history, telling
from tests.conftest import shared_data
from tests.ragsvc.followup_cases import ELSEWHERE, FASTAPI, OWN, turns

# fmt: off
INCOMPLETE = (
    "How do I undo that?", "And how do I undo that?", "Why?", "Why not?", "What about Windows?", "On Windows?",
    "With Docker?", "And in production?", "Which is faster?", "Which one should I use?", "Which of them is safer?",
    "What is the difference?", "Is there a better way?", "Tell me more", "Can you give an example?",
    "What is its default?", "How do I change its default?", "How does it work?", "What does that mean?",
    "Is that safe?", "Does it also work with PDFs?", "Can I use them together?", "What are their types?",
    "How do I disable this?", "Does the same apply to images?", "What should I use instead?", "Is it fast?",
    "How long does it take?", "But what if it fails?", "Who wrote it?", "How much does that cost?",
    "Are these required?", "docker?", "Could you explain the second one?", "How do I stop and restart it?",
    "ok, and how do I test it?", "What's the maximum?", "what else can I configure there?", "How do I create one?",
    "Do I have to install it first?", "Show me an example", "How are they renewed?", "Is it possible to turn it off?",
    "How can I add headers to it?", "Can I make that optional?", "ＨＯＷ ＤＯ Ｉ ＵＮＤＯ ＩＴ？",
    "它是什么？", "怎么撤销？", "为什么？", "这个怎么配置？", "那删除呢？", "如何安装它？", "上述方法安全吗？",
    "有什么限制？", "还有别的方法吗？", "默认值是多少？", "那如果文件被改名了呢？",
    "それはどうやって取り消しますか？", "では、削除は？", "그것은 어떻게 취소하나요?", "그럼 삭제는?",
    "Und wie mache ich das rückgängig?", "Was kostet das?", "Wie ändere ich diese Einstellung?",
    "Et comment l'annuler ?", "Comment fonctionne cela ?", "¿Y cómo lo deshago?", "¿Cómo cambio eso?",
    "А как это отменить?", "Как её изменить?",
)
COMPLETE = (
    "How do I index a folder?", "What happens to a file that is gone?", "Which files can be indexed?",
    "Is it possible to index PDF files?", "How long does it take to index a folder?", "What is middleware?",
    "How does FastAPI generate its OpenAPI schema?", "If a file is renamed, is it embedded again?",
    "When I rename a file, what happens to it?", "How do I install FastAPI and run it?", "chunk size",
    "rename a file", "OPENAI_API_KEY", "What does this project do?", "Are there limits on uploads?",
    "Which moderation modes are there?", "Is there a way to disable the docs?",
    "How do I make sure that a file is read?", "How do I declare a query parameter that is optional?",
    "What is the default port of the server?", "Is FastAPI faster than Flask?",
    "How can I use the same dependency in several routes?", "Explain dependency injection",
    "How do I use one database for all tests?", "Does a dependency with yield run before its route?",
    "What is the maximum size of a file?", "What does exit code 3 mean?", "Who created FastAPI?",
    "How do I configure OAuth2 so that tokens expire?", "How do I upload a file and save it to disk?",
    "What if a file is empty?", "When should I use async def instead of def?",
    "如何索引文件夹？", "什么是集合？", "应该如何安装FastAPI？", "其他格式的文件可以索引吗？", "中国的首都在哪里？",
    "因此产生的费用是多少美元？", "集合是什么？", "フォルダをインデックスするにはどうすればいいですか？",
    "FastAPIとは何ですか？",
    "폴더를 색인하려면 어떻게 해야 하나요?", "Wie indexiere ich einen Ordner?", "Gibt es eine Grenze für Dateien?",
    "Comment indexer un dossier ?", "¿Cómo indexo una carpeta?", "Как проиндексировать папку?",
)
# fmt: on


@pytest.mark.parametrize("question", INCOMPLETE)
def test_a_question_that_points_back_needs_history(question: str) -> None:
    """Pronouns, demonstratives, connectives and ellipsis are seen, in several languages."""
    assert needs_history(question, turns("How do I roll back a generation?", "With `rollback` [1]."))


@pytest.mark.parametrize("question", COMPLETE)
def test_a_question_that_names_its_subject_does_not(question: str) -> None:
    """A pronoun whose noun stands in the question, an expletive, a relative clause, a term: nothing is missing."""
    assert not is_incomplete(question)


def test_without_a_turn_of_the_users_nothing_can_be_meant() -> None:
    """No history, a blank one, or only the assistant's: never."""
    for history in ((), turns(" \n"), turns("", "Hello! What can I do for you?")):
        assert not needs_history("How do I undo that?", history)


def test_the_follow_ups_of_the_table_are_seen() -> None:
    """All questions of the table need their history, and none of those that open a conversation."""
    assert [case.question for case in OWN + FASTAPI if not is_incomplete(case.question)] == []
    assert [case.said[0] for case in OWN + FASTAPI if is_incomplete(case.said[0])] == []
    assert [question for *_, question in ELSEWHERE if not is_incomplete(question)] == []


@pytest.mark.parametrize(
    ("name", "most"), [("scifact_train", 0.002), ("chunkeval_spans", 0.02), ("cmrc2018_trial", 0.04)]
)
def test_real_questions_that_stand_alone_are_left_alone(name: str, most: float) -> None:
    """Of real questions, asked without a conversation, hardly any is taken for a follow-up."""
    lines = (shared_data(name) / "queries.jsonl").read_text(encoding="utf-8").splitlines()
    asked = [json.loads(line)["text"] for line in lines]
    assert sum(map(is_incomplete, asked)) <= most * len(asked)


@given(
    st.text(max_size=300), st.lists(st.sampled_from(["it ", "that ", "the ", "is ", "，这", "?", "one "]), max_size=80)
)
def test_any_text_is_decided(text: str, more: list[str]) -> None:
    """Whatever is typed: a decision, the same for the same characters in another form, and no error."""
    question = text + "".join(more)
    assert is_incomplete(question) == is_incomplete(unicodedata.normalize("NFC", question) + " ")
    telling(question)


@pytest.mark.parametrize(
    "text", ["it " * 1300, "the " * 1000, "is it " * 660, "a" * 4000, "那" * 4000, "和" * 3999 + "呢"]
)
def test_the_longest_question_is_decided_in_linear_time(text: str) -> None:
    """4,000 characters that the patterns nearly match take milliseconds; the suite's limit would catch a blow-up."""
    for _ in range(20):
        is_incomplete(text)
