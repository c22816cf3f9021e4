"""The local chat: quotes where there is evidence, silence where there is none."""

import asyncio
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragsvc.citing import cite
from ragsvc.providers.local_chat import LocalChat
from ragsvc.types import NOT_IN_DOCUMENTS, Passage, Prompt
from tests.ragsvc.parts import MARKERS, hit, passages, texts

CORS = (
    "# CORS\n\nCORS refers to a frontend in a browser that talks to a backend on another origin. "
    "You can enable it with the `CORSMiddleware`.\n\n```python\napp.add_middleware(CORSMiddleware)  # enable\n```\n"
)
FILES = "Uploaded files are declared with `UploadFile`. They are kept in memory up to 1 MB."
QUOTABLE = tuple(marker for marker in MARKERS if "†" not in marker)
CHINA = "北京是中华人民共和国的首都。上海是中国最大的城市，人口有两千多万。"


def _ask(question: str, *found: str, dense: float | None = None, weights: dict[str, float] | None = None) -> str:
    return _reply(Prompt(question, passages(*found, dense=dense), (), 0, weights or {}))


def _reply(prompt: Prompt) -> str:
    return asyncio.run(LocalChat().complete(prompt, 6000)).text


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("How do I enable CORS?", "You can enable it with the `CORSMiddleware`. [1]"),
        ("How are uploaded files declared?", "Uploaded files are declared with `UploadFile`. [2]"),
        ("上海的人口有多少？", "上海是中国最大的城市，人口有两千多万。 [3]"),
        ("中华人民共和国的首都是哪里？", "北京是中华人民共和国的首都。 [3]"),
    ],
)
@pytest.mark.parametrize("dense", [None, 0.6])
def test_the_best_sentence_is_quoted(question: str, expected: str, dense: float | None) -> None:
    """By words alone and with a cosine, in English and Chinese; prose goes before the heading and the code."""
    assert expected in _ask(question, CORS, FILES, CHINA, dense=dense)


@pytest.mark.parametrize(
    "question",
    ["How do I bake sourdough bread?", "What is the capital of France?", "谁发明了蒸汽机？", "How do I do it?", "?"],
)
@pytest.mark.parametrize("dense", [None, 0.1, 0.6])
def test_other_subjects_are_met_with_silence(question: str, dense: float | None) -> None:
    """Also where a cosine claims to be close, and where a question has no word that says anything."""
    assert _ask(question, CORS, FILES, CHINA, dense=dense) == NOT_IN_DOCUMENTS


def test_words_without_meaning_are_no_evidence() -> None:
    """A sentence that holds the words, in a passage that is about something else, does not answer."""
    question = "How do I file my tax return?"
    trap = "Return the file from the function."
    assert _ask(question, trap, dense=0.2) == NOT_IN_DOCUMENTS
    assert _ask(question, trap) != NOT_IN_DOCUMENTS, "words alone are fooled: this is why the cosine is asked"


def test_a_passage_found_by_words_alone_is_at_most_as_close_as_the_farthest() -> None:
    """Where other passages have a cosine, one without is not taken for trusted."""
    trap = hit("Return the file from the function.", rank=1)
    far = hit("Nothing of the kind.", rank=2, dense=0.15)
    prompt = Prompt("How do I file my tax return?", (Passage(1, trap), Passage(2, far)), (), 0)
    assert _reply(prompt) == NOT_IN_DOCUMENTS


def test_cosines_of_an_english_model_do_not_silence_chinese() -> None:
    """A question in another script is decided by its words."""
    assert "[1]" in _ask("中华人民共和国的首都是哪里？", CHINA, dense=0.05)


def test_the_question_itself_is_no_answer() -> None:
    """A manual that shows the question as an example is not quoted for it; the sentence that answers is."""
    manual = 'Try `ragsvc ask "How are uploaded files declared?"` in a terminal window.'
    assert _ask("How are uploaded files declared?", manual, FILES, dense=0.6).startswith("Uploaded files are declared")


def test_rare_words_decide() -> None:
    """The same sentences are evidence or not by what the collection says of the words' rarity."""
    question = "Which port does the frobnicator service take?"
    text = "The service takes the port that the operator chooses."
    common = {"port": 0.1, "service": 0.1, "take": 0.1, "frobnicator": 6.0}
    assert _ask(question, text, weights=common) == NOT_IN_DOCUMENTS
    assert "[1]" in _ask(question, text, weights={"port": 6.0, "service": 6.0, "take": 6.0, "frobnicator": 0.1})


def test_a_heading_leads_to_the_text_below_it() -> None:
    """What the headings say counts for the sentences under them, which are quoted instead of the headings."""
    text = (
        "# Server\n\n## Installation on Windows\n\nRun the downloaded file and follow its steps.\n\n"
        "## Colours\n\nThe logo is a red one."
    )
    assert (
        _ask("How does the installation on Windows work?", text) == "Run the downloaded file and follow its steps. [1]"
    )
    below = hit("Run the downloaded file and follow its steps.", heading_path=("Server", "Installation on Windows"))
    reply = _reply(Prompt("How does the installation on Windows work?", (Passage(1, below),), (), 0))
    assert reply == "Run the downloaded file and follow its steps. [1]"


def test_several_sentences_come_in_document_order() -> None:
    """What one sentence leaves open another one adds: at most three, in the order of passages and text."""
    question = "What are the port, the variable and the licence of the server?"
    found = (
        "The port is 8000 for the server. Something else entirely is here. The licence is MIT.",
        "The variable is PORT_NUMBER.",
    )
    assert (
        _ask(question, *found)
        == "The port is 8000 for the server. [1] The licence is MIT. [1] The variable is PORT_NUMBER. [2]"
    )


def test_markers_of_the_document_are_not_ours() -> None:
    """A paper's reference `[2]` in a quoted sentence is left out: it would cite our second passage."""
    text = "Sparse attention was introduced for long documents by Beltagy [2], see also [14]."
    reply = _ask("Who introduced sparse attention for long documents?", text, CORS)
    assert reply == "Sparse attention was introduced for long documents by Beltagy, see also. [1]"


@given(
    st.lists(texts(*QUOTABLE, "The server listens on a port. "), min_size=1, max_size=4), st.none() | st.floats(0, 1)
)
def test_a_reply_is_made_of_the_passages(found: list[str], dense: float | None) -> None:
    """Each quote stands word for word in the passage of its marker and is cited from it; or there is silence."""
    prompt = Prompt("On which port does the server listen?", passages(*found, dense=dense), (), 0)
    reply = _reply(prompt)
    if reply == NOT_IN_DOCUMENTS:
        return
    text, citations = cite(reply, prompt.passages)
    assert text == reply
    assert 1 <= len(citations) <= 3
    for quote in re.split(r" \[\d\](?:\s+|$)", reply):
        assert any(_letters(quote) in _letters(text) for text in found)


def _letters(text: str) -> str:
    return re.sub(r"[\W\d_]", "", text)


def test_what_it_says_of_itself() -> None:
    """Its names, and that it used no tokens of anybody."""
    chat = LocalChat()
    reply = asyncio.run(chat.complete(Prompt("?", (), (), 0), 100))
    assert (chat.provider, chat.model, reply.model, reply.finish_reason) == (
        "local",
        "extractive",
        "extractive",
        "stop",
    )
    assert (reply.text, reply.prompt_tokens, reply.completion_tokens) == (NOT_IN_DOCUMENTS, 0, 0)
