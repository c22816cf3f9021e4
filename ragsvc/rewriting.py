"""The two ways to a query that stands alone: by a chat model, or by joining what was said. Each is a `QueryRewriter`.

A provider that fails is an error here as everywhere: the same provider would have to write the answer, and a search
that silently became worse is worse than one that says it failed. A reply that can't be used is no failure of the
provider: the joined query takes its place, and the answer shows which query it was.
"""

import logging
import math
from collections.abc import Callable

from ragsvc import queries
from ragsvc.protocols import ChatModel
from ragsvc.types import Prompt, Question, Rewritten

_log = logging.getLogger(__name__)
REWRITE_TOKENS = 1_000
"""Most tokens of a rewriting. It takes about 30; a reasoning model's hidden tokens count as well."""
_MARGIN = 1.1
"""cl100k_base is not every model's vocabulary, as in `prompting`."""


class JoiningRewriter:
    """Joins the question to what it follows. Sends nothing, costs nothing."""

    async def rewrite(self, question: Question) -> Rewritten:
        """Return the question with the turns that it stands on."""
        return Rewritten(queries.joined(question.text, question.history))


class ChatRewriter:
    """Asks a chat model, once."""

    def __init__(self, chat: ChatModel, count: Callable[[str], int]) -> None:
        """`count` gives the tokens (cl100k_base) of a text."""
        self._chat, self._count = chat, count

    async def rewrite(self, question: Question) -> Rewritten:
        """Return the model's query, or the joined one where its reply is none. Raises ProviderError."""
        messages = queries.request(question.text, question.history)
        tokens = math.ceil(_MARGIN * sum(self._count(message.content) for message in messages))
        reply = await self._chat.complete(Prompt(question.text, (), messages, tokens), REWRITE_TOKENS)
        query = queries.read(reply, question.text, question.history)
        if query is None:
            _log.warning("%s did not rewrite a question: it is searched with the turns before it joined", reply.model)
            query = queries.joined(question.text, question.history)
        return Rewritten(query, reply)
