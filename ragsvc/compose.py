"""The only place where concrete classes meet."""

from functools import cache

from indexes.types import EmbeddingSpec
from ingest import tokens
from ingest.protocols import Embedder
from ragsvc import pricing
from ragsvc.answering import Answering
from ragsvc.errors import EmbeddingUnavailable
from ragsvc.governor import GovernedChat, GovernedEmbedder, GovernedModerator, Governor
from ragsvc.library import Library
from ragsvc.moderation import Gate
from ragsvc.protocols import ChatModel, Moderator
from ragsvc.retrieval import Retrieval
from ragsvc.service import Service
from ragsvc.service_store import ServiceStore
from ragsvc.settings import LOCAL_MODEL, Settings
from ragsvc.specs import new_spec
