"""The only place where concrete classes meet. Each part is made when it is first needed: a search needs no chat."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

from threadpoolctl import ThreadpoolController

from indexes.errors import InvalidQuery, NotFound, StoreError
from indexes.types import EmbeddingSpec
from ingest import tokens
from ingest.protocols import Embedded, Embedder, RequestLimits
from ragsvc import pricing
from ragsvc.answering import Answering
from ragsvc.errors import ConfigurationError, EmbeddingUnavailable, UnknownCollection
from ragsvc.governor import LANES, GovernedChat, GovernedEmbedder, GovernedModerator, Governor, Purpose
from ragsvc.job_runner import JobRunner
from ragsvc.job_store import JobStore
from ragsvc.library import Library
from ragsvc.moderation import Gate
from ragsvc.protocols import ChatModel, Moderator, QueryRewriter
from ragsvc.providers.local_chat import LocalChat
from ragsvc.providers.local_embedding import LocalEmbedder
from ragsvc.providers.local_model import MiniLM, load_model
from ragsvc.providers.local_moderation import BlocklistModerator
from ragsvc.restoring import Backups
from ragsvc.retrieval import Retrieval
from ragsvc.rewriting import ChatRewriter, JoiningRewriter
from ragsvc.service import Service
from ragsvc.service_store import ServiceStore
from ragsvc.settings import LOCAL_MODEL, Settings
from ragsvc.specs import new_spec, reach
from ragsvc.types import Readiness, Role
from ragsvc.uploads import Uploads

if TYPE_CHECKING:
    from ragsvc.providers.openai import OpenAIProvider


ROOM_BYTES = 16 << 20
"""Less free than that, and the next write may find no room: a transaction of a few large documents takes some MB."""


class DeferredEmbedder:
    """An Embedder that is made when it is first used: a folder in which nothing changed needs none."""

    def __init__(self, spec: EmbeddingSpec, make: Callable[[], Embedder]) -> None:
        """`make` returns the embedder of `spec`; it may raise ConfigurationError, and then whatever was asked does."""
        self.spec = spec
        self._make = make

    @cached_property
    def _inner(self) -> Embedder:
        return self._make()

    @property
    def limits(self) -> RequestLimits:
        """What one call may carry."""
        return self._inner.limits

    async def embed_documents(self, texts: Sequence[str]) -> Embedded:
        """Embed up to `limits.inputs` texts in one request."""
        return await self._inner.embed_documents(texts)

    async def embed_query(self, text: str) -> Embedded:
        """Embed one query; shape (1, dimensions)."""
        return await self._inner.embed_query(text)


class House:
    """The service as the settings want it. `aclose` it in the event loop it was used in."""

    def __init__(self, settings: Settings) -> None:
        """Opens `service.db`; nothing upstream is asked."""
        _one_thread_a_product()
        self.settings = settings
        self._store = ServiceStore.open(settings.data_dir)
        self.library = Library(
            settings.data_dir,
            self._store,
            lambda: new_spec(settings),
            delta_rows=settings.delta_rows,
            index_kind=settings.index_kind,
            word_rows=settings.word_index_rows,
        )
        lanes = {**LANES, "ingest": replace(LANES["ingest"], concurrency=settings.embed_concurrency)}
        self._governor = Governor(lanes)
        self._embedders: dict[tuple[EmbeddingSpec, Purpose], Embedder] = {}

    @cached_property
    def service(self) -> Service:
        """What the entrances need."""
        runner = JobRunner(self.uploads.jobs, self.uploads)
        return Service(self.settings, self.library, self.retriever, self.answering, self.ready, self.uploads, runner)

    @cached_property
    def uploads(self) -> Uploads:
        """Documents that are handed in, and removed."""
        return Uploads(self.settings, self.library, JobStore(self._store), self.embedder_for)

    @cached_property
    def backups(self) -> Backups:
        """Backups of collections, and their restoring."""
        return Backups(self.settings.data_dir, self._store, self.library, delta_rows=self.settings.delta_rows)

    @cached_property
    def retriever(self) -> Retrieval:
        """Query to hits."""
        return Retrieval(self.library, self.embedder_for)

    @cached_property
    def answering(self) -> Answering:
        """Question to answer."""
        gate, chat = Gate(self._moderator(), self.settings.moderation), self._chat()
        rewriter: QueryRewriter = JoiningRewriter()
        if self.settings.provider_of("chat") == "openai":
            rewriter = ChatRewriter(chat, tokens.count)
        return Answering(self.retriever, gate, chat, self._stored, _price, tokens.count, rewriter=rewriter)

    def embedder_for(self, spec: EmbeddingSpec, purpose: Purpose = "ask") -> Embedder:
        """Return the embedder of a spec, which a collection may have been made with long ago.

        Raises EmbeddingUnavailable when the settings leave no way to embed by it.
        """
        key = (spec, purpose)
        if key not in self._embedders:
            try:
                self._embedders[key] = self._embedder(spec, purpose)
            except EmbeddingUnavailable:
                raise
            except ConfigurationError as error:
                raise EmbeddingUnavailable(str(error)) from None
        return self._embedders[key]

    def ready(self) -> Readiness:
        """Open every collection and load what answering needs, then say by what means it is done."""
        tokens.encoding()
        pricing.load()
        self.answering  # noqa: B018 - made now, so that wrong settings are found now
        degraded, generations = [], {}
        for name in self.library.names():
            try:
                collection = self.library.open(name)
                collection.load()
                generation, spec = collection.generation, collection.spec.embedding
            except (UnknownCollection, StoreError):
                if name in self.library.names():
                    raise
                continue  # removed meanwhile
            generations[name] = generation
            try:
                self.embedder_for(spec)
            except ConfigurationError as error:
                degraded.append(f"collection {name} is searched by words alone: {error}")
            if (limits := reach(spec.model)) is not None:
                degraded.append(f"collection {name}: {limits}")
        model = self.library.open("default").spec.embedding.model
        embedding = "local" if model == LOCAL_MODEL else "openai"
        if self.settings.moderation == "off":
            degraded.append("moderation is off")
        if self._store.read_only:
            degraded.append("the data directory can't be written: nothing is indexed, and usage is not recorded")
        elif (free := shutil.disk_usage(self.settings.data_dir).free) < ROOM_BYTES:
            degraded.append(
                f"the disk is full ({free:,} bytes free): reads go on, writes are refused until there is room"
            )
        degraded += [f"job {job.id} waits: {job.error_code}" for job in self.uploads.jobs.waiting()]
        return Readiness(
            ready=True,
            provider={role: self.settings.provider_of(role) for role in _ROLES} | {"embedding": embedding},
            collections=generations,
            moderation=self.settings.moderation,
            degraded=tuple(degraded),
        )

    async def aclose(self) -> None:
        """Close connections and files, also where an interrupt cuts the first short: what was spent is written last."""
        try:
            if "_openai" in vars(self):
                await self._openai.aclose()
        finally:
            if "retriever" in vars(self):
                self.retriever.close()
            self.library.close()
            self._store.close()

    def _embedder(self, spec: EmbeddingSpec, purpose: Purpose) -> Embedder:
        chosen = self.settings.embedding_provider if self.settings.embedding_provider != "auto" else None
        chosen = chosen or (self.settings.provider if self.settings.provider != "auto" else None)
        if (chosen or ("local" if spec.model == LOCAL_MODEL else "openai")) == "local":
            return LocalEmbedder(spec, self._local_model)
        if spec.model == LOCAL_MODEL:
            raise EmbeddingUnavailable(
                f"the collection is embedded by {LOCAL_MODEL} and the provider is set to openai: unset "
                "RAGSVC_PROVIDER (or RAGSVC_EMBEDDING_PROVIDER), or make another collection (ragsvc collections create)"
            )
        if not self.settings.has_openai("embedding"):
            raise EmbeddingUnavailable(
                f"the collection is embedded by {spec.model}, which needs OPENAI_API_KEY (or OPENAI_BASE_URL): set it; "
                "without it only lexical search works"
            )
        server = self._server("embedding")

        def made() -> Embedder:
            return self._openai.embedder(spec, *server, tokens.count)

        embedder = DeferredEmbedder(spec, made) if purpose == "ingest" else made()
        return GovernedEmbedder(embedder, self._governor, purpose)

    def _stored(self, document_id: str, version: int, start: int, end: int) -> str | None:
        """Return the text that is stored there; None for a version that is gone, "" for a range outside it."""
        try:
            return self.library.of_document(document_id).text(document_id, start, end, version).text
        except NotFound:
            return None
        except InvalidQuery:
            return ""

    @cached_property
    def _openai(self) -> "OpenAIProvider":
        from ragsvc.providers.openai import OpenAIProvider  # the SDK takes half a second to import

        return OpenAIProvider()

    @cached_property
    def _local_model(self) -> MiniLM:
        return load_model(self.settings.local_model_dir)

    def _chat(self) -> ChatModel:
        if self.settings.provider_of("chat") == "local":
            return LocalChat()
        model, dialect = self.settings.chat_model, self.settings.chat_dialect
        chat = self._openai.chat(model, *self._server("chat"), dialect, tokens.count)
        return GovernedChat(chat, self._governor)

    def _moderator(self) -> Moderator | None:
        if self.settings.moderation == "off":
            return None
        if self.settings.provider_of("moderation") == "local":
            return BlocklistModerator(self.settings.local_blocklist)
        moderator = self._openai.moderator(self.settings.moderation_model, *self._server("moderation"))
        return GovernedModerator(moderator, self._governor)

    def _server(self, role: Role) -> tuple[str | None, str | None]:
        if not self.settings.has_openai(role):
            raise ConfigurationError(
                f"the {role} provider is set to openai, and there is neither OPENAI_API_KEY nor OPENAI_BASE_URL: set "
                f"one of them, or RAGSVC_{role.upper()}_PROVIDER=local"
            )
        key = self.settings.api_key_of(role)
        return self.settings.base_url_of(role), None if key is None else key.get_secret_value()


def _one_thread_a_product() -> None:
    # Our products are small and several run at once. OpenBLAS's own threads gain little on them and, on a busy machine,
    # wait for each other: a query then took 98 ms instead of 8.
    ThreadpoolController().select(prefix="libscipy_openblas").limit(limits=1)


_ROLES: tuple[Role, ...] = ("embedding", "chat", "moderation")


def _price(model: str, input_tokens: int, output_tokens: int) -> float | None:
    free = model in (LOCAL_MODEL, LocalChat().model)
    return pricing.cost_usd(
        model, input_tokens=input_tokens, output_tokens=output_tokens, provider="local" if free else "openai"
    )
