"""The gate: windows, ledger, and failing closed."""

import asyncio
import itertools

import pytest
import regex
from hypothesis import example, given
from hypothesis import strategies as st

from ragsvc.errors import ProviderError, RateLimited, UpstreamMalformed, UpstreamTimeout
from ragsvc.moderation import LONGEST, OVERLAP, Gate, Judgement, Ledger, pieces, windows
from ragsvc.types import Blocked, Moderated, Turn, Verdict
from tests.ragsvc.parts import ScriptedModerator, texts

PASSED, FLAGGED = Verdict(False, ()), Verdict(True, ("violence",))
LONG = "".join(f"This is sentence number {n} of a long answer. " for n in range(120))


def _gate(moderator: ScriptedModerator, timeout_s: float = 60) -> Gate:
    return Gate(moderator, "window", timeout_s)


@given(texts() | st.builds(lambda text, times: text * times, texts(), st.integers(1, 40)))
def test_windows_cover_the_text(text: str) -> None:
    """New segments follow without a gap to the end, each seen with what stood before it, none too long."""
    spans = windows(text)
    ends = [0, *(end for _, end in spans)]
    assert ends == sorted(set(ends))
    assert ends[-1] == len(text)
    for (start, end), previous in zip(spans, ends, strict=False):
        assert end - start <= LONGEST
        assert max(0, previous - 2 * OVERLAP) <= start <= max(0, previous - OVERLAP)


@given(texts() | st.builds(lambda text, times: text * times, texts(), st.integers(1, 40)))
@example("好。\u0301" * 900)
@example("👩‍👩‍👧‍👦" * 700)
def test_no_segment_ends_inside_a_grapheme(text: str) -> None:
    """Families, flags and accents are released whole."""
    borders = {0, *(match.end() for match in regex.finditer(r"\X", text))}
    assert {end for _, end in (*windows(text), *pieces(text))} <= borders


@given(texts() | st.integers(1, 9000).map(lambda length: LONG[:length]))
def test_pieces_hold_the_whole_text(text: str) -> None:
    """A short text is one piece; a long one several that overlap."""
    spans = pieces(text)
    assert (len(spans) <= 1) == (len(text) <= LONGEST)
    assert all(end - start <= LONGEST for start, end in spans)
    assert all(after[0] < before[1] < after[1] for before, after in itertools.pairwise(spans))
    if text:
        assert (spans[0][0], spans[-1][1]) == (0, len(text))


def test_one_endless_grapheme_is_cut_all_the_same() -> None:
    """The limit wins over the grapheme: 5,000 accents on one letter are judged in pieces."""
    text = "a" + "\u0301" * 5000
    assert all(end - start <= LONGEST for start, end in (*windows(text), *pieces(text)))
    assert windows(text)[-1][1] == pieces(text)[-1][1] == len(text)


def test_segments_end_with_sentences() -> None:
    """The first segment is about 40 tokens, the others about 175, and each ends with a full stop."""
    spans = windows(LONG)
    assert all(LONG[:end].rstrip().endswith(".") for _, end in spans)
    lengths = [after - before for before, after in itertools.pairwise([0, *(end for _, end in spans)])]
    assert 100 <= lengths[0] <= 160
    assert all(500 <= length <= 700 for length in lengths[1:-1])


def test_chinese_has_shorter_segments() -> None:
    """A Chinese character is a token of its own, so a segment has fewer of them."""
    assert [end for _, end in windows("这是一个很长的回答的句子。" * 40)][:2] == [39, 39 + 169]


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30), st.booleans()), max_size=12), st.randoms())
def test_the_ledger_releases_the_contiguous_passed_prefix(marks: list[tuple[int, int, bool]], random: object) -> None:
    """In any order of verdicts: every released character was passed, none was flagged, and no gap is jumped."""
    text = "0123456789" * 3
    judged = [Judgement(min(a, b), max(a, b), FLAGGED if flag else PASSED) for a, b, flag in marks]
    random.shuffle(judged)  # type: ignore[attr-defined]
    ledger = Ledger(text)
    for judgement in judged:
        ledger.record(judgement)
    passed = {n for j in judged if not j.verdict.flagged for n in range(j.start, j.end)}
    assert set(range(ledger.covered)) <= passed
    assert all(ledger.covered <= j.start for j in judged if j.verdict.flagged)
    assert ledger.released() == text[: ledger.covered]
    if not any(j.verdict.flagged for j in judged) and ledger.covered < len(text):
        assert ledger.covered not in passed


def test_a_flag_withdraws_what_another_window_passed() -> None:
    """Text that a passed and a flagged window share does not leave."""
    ledger = Ledger("0123456789")
    ledger.record(Judgement(0, 6, PASSED))
    assert ledger.released() == "012345"
    ledger.record(Judgement(4, 10, FLAGGED))
    assert ledger.released() == "0123"


def test_the_ledger_takes_no_judgement_of_another_text() -> None:
    """A judgement outside the text is a mistake, not a pass."""
    with pytest.raises(ValueError, match="5 code points"):
        Ledger("12345").record(Judgement(0, 6, PASSED))


def test_an_answer_is_judged_in_one_request() -> None:
    """Windows and the whole go together; each text once; all of it leaves when all of it passed."""
    moderator = ScriptedModerator("never")
    released = asyncio.run(_gate(moderator).release(LONG))
    assert (released.text, released.blocked, released.covered) == (LONG, None, len(LONG))
    (request,) = moderator.requests
    assert released.checks == len(request) == len(set(request)) == len(windows(LONG)) + len(pieces(LONG))
    assert asyncio.run(_gate(moderator).release("Short.")).checks == 1


@pytest.mark.parametrize("at", [0, 100, 1900, 4000, len(LONG) - 1])
def test_a_flag_anywhere_blocks_the_whole_answer(at: int) -> None:
    """Nothing of a flagged answer leaves, wherever the harm stands; the categories are named once, in order."""
    moderator = ScriptedModerator("violence!", "hate!")
    released = asyncio.run(_gate(moderator).release(LONG[:at] + "violence! hate!" + LONG[at:]))
    assert released.text is None
    assert released.covered == 0
    assert released.blocked == Blocked("answer", ("hate!", "violence!"))


@given(st.integers(0, len(LONG)))
def test_harm_across_a_border_is_seen(at: int) -> None:
    """Words that stand within the overlap of each other are judged together somewhere, wherever the cut falls."""
    harm = "begin " + "x" * (OVERLAP - 12) + " end"
    text = LONG[:at] + harm + LONG[at:]
    assert any(harm in text[start:end] for start, end in windows(text))


def test_question_and_history_are_judged_together() -> None:
    """One request holds the question and every turn, in pieces; a flag in any of them blocks the question."""
    moderator = ScriptedModerator("bad")
    history = (Turn("user", "first " * 1000), Turn("assistant", "a bad word"))
    checked = asyncio.run(_gate(moderator).check_question("fine", history))
    assert checked.blocked == Blocked("question", ("bad",))
    (request,) = moderator.requests
    assert checked.checks == len(request) == 6
    assert max(map(len, request)) <= LONGEST
    assert asyncio.run(_gate(moderator).check_question("fine")).blocked is None


class _Miscounting:
    model = "miscounting"

    def __init__(self, verdicts: int) -> None:
        self.verdicts = verdicts

    async def check(self, texts: object) -> Moderated:
        return Moderated(self.model, (PASSED,) * self.verdicts)


@pytest.mark.parametrize("verdicts", [0, 2])
def test_too_few_or_too_many_verdicts_release_nothing(verdicts: int) -> None:
    """An answer of the moderator that does not fit its question is no verdict."""
    for call in (Gate(_Miscounting(verdicts), "window").release, Gate(_Miscounting(verdicts), "buffer").check_question):
        with pytest.raises(UpstreamMalformed, match="nothing was sent"):
            asyncio.run(call("Some text."))


def test_errors_and_timeouts_release_nothing() -> None:
    """The gate fails closed: the upstream's error is raised as it is, silence is a timeout."""
    with pytest.raises(RateLimited):
        asyncio.run(_gate(ScriptedModerator(failure=RateLimited("slow down"))).release("text"))
    with pytest.raises(UpstreamTimeout) as caught:
        asyncio.run(_gate(ScriptedModerator(seconds=30), timeout_s=0.01).check_question("text"))
    assert isinstance(caught.value, ProviderError)
    assert caught.value.status == 503


def test_moderation_off_is_said() -> None:
    """Without a moderator everything passes, nothing is covered, and no judge is named."""
    gate = Gate(None, "off")
    released = asyncio.run(gate.release("anything"))
    assert (released.text, released.checks, released.covered, released.model) == ("anything", 0, 0, None)
    assert asyncio.run(gate.check_question("anything")).model is None


def test_the_gate_cannot_be_open_by_mistake() -> None:
    """A missing moderator with moderation on, or one with moderation off, is refused when the gate is made."""
    with pytest.raises(ValueError, match="missing"):
        Gate(None, "window")
    with pytest.raises(ValueError, match="off"):
        Gate(ScriptedModerator(), "off")


def test_a_long_conversation_does_not_hold_up_the_loop() -> None:
    """While a megabyte of history is cut into texts to judge, other requests go on; all of it is judged."""

    async def work() -> tuple[float, int]:
        gate, worst = _gate(ScriptedModerator()), 0.0
        history = (Turn("user", "a" * 1_000_000),)
        checking = asyncio.create_task(gate.check_question("fine", history))
        loop = asyncio.get_running_loop()
        while not checking.done():
            before = loop.time()
            await asyncio.sleep(0.001)
            worst = max(worst, loop.time() - before)
        return worst, (await checking).checks

    worst, checks = asyncio.run(work())
    assert checks > 500
    assert worst < 0.2
