"""Which IndexSpec a new collection gets, and whether the settings agree with the one a collection has (pure)."""

from indexes.types import ChunkSpec, EmbeddingSpec, IndexSpec
from ingest import template
from ragsvc.errors import ConfigurationError
from ragsvc.settings import LOCAL_DIMENSIONS, LOCAL_MODEL, OPENAI_DIMENSIONS, Settings, check_chunking

DEFAULT_MODEL = "text-embedding-3-small"
DIMENSIONS = OPENAI_DIMENSIONS | {LOCAL_MODEL: LOCAL_DIMENSIONS}
"""Width of each known model's own vectors."""


def new_spec(
    settings: Settings,
    *,
    model: str | None = None,
    dimensions: int | None = None,
    tokens: int | None = None,
    overlap: int | None = None,
) -> IndexSpec:
    """Return the spec of a new collection: what is given here, else what is set, else the defaults.

    Raises ConfigurationError for a model of unknown width without dimensions, and for values that make no sense.
    """
    default = LOCAL_MODEL if settings.provider_of("embedding") == "local" else DEFAULT_MODEL
    named = "the embedding model is" if model else "RAGSVC_EMBEDDING_MODEL is"
    model = model or settings.embedding_model or default
    dimensions = dimensions or settings.embedding_dimensions or DIMENSIONS.get(model)
    if dimensions is None:
        raise ConfigurationError(
            f"{named} {model!r}, which is none of the known ones ({', '.join(DIMENSIONS)}): take one of those, or for "
            "a server that has it set RAGSVC_EMBEDDING_DIMENSIONS to the width of its vectors"
        )
    if dimensions > DIMENSIONS.get(model, dimensions) or (dimensions != DIMENSIONS.get(model) and not _shortens(model)):
        raise ConfigurationError(
            f"{model} has no vectors of {dimensions} dimensions; its own are {DIMENSIONS[model]} wide: "
            "change or unset RAGSVC_EMBEDDING_DIMENSIONS"
        )
    plain = ChunkSpec()
    tokens = tokens or settings.chunk_tokens or plain.tokens
    overlap = overlap if overlap is not None else settings.chunk_overlap
    overlap = min(plain.overlap, tokens // 8) if overlap is None else overlap
    embedding = EmbeddingSpec(model, dimensions)
    try:
        check_chunking(tokens, overlap)
    except ValueError as error:
        raise ConfigurationError(f"{error}: change RAGSVC_CHUNK_TOKENS or RAGSVC_CHUNK_OVERLAP") from None
    if tokens + template.HEADER_TOKENS > embedding.input_limit:
        raise ConfigurationError(
            f"chunks of {tokens} tokens do not fit the model's {embedding.input_limit} with their headings: "
            f"set RAGSVC_CHUNK_TOKENS to {embedding.input_limit - template.HEADER_TOKENS} or less"
        )
    return IndexSpec(embedding, ChunkSpec(tokens, overlap))


def _shortens(model: str) -> bool:
    return model.startswith("text-embedding-3-") or model not in DIMENSIONS


def reach(model: str) -> str | None:
    """Say what a model's vectors can't be trusted for, if that is known: they then have no vote in a hybrid search."""
    if model != LOCAL_MODEL:
        return None
    return f"{model} knows English and Latin letters: queries in another script are ranked by words alone"


def check_agrees(settings: Settings, spec: IndexSpec, name: str) -> None:
    """Raise ConfigurationError when a setting that was made explicitly differs from the collection's spec."""
    wanted = {
        "RAGSVC_EMBEDDING_MODEL": (settings.embedding_model, spec.embedding.model),
        "RAGSVC_EMBEDDING_DIMENSIONS": (settings.embedding_dimensions, spec.embedding.dimensions),
        "RAGSVC_CHUNK_TOKENS": (settings.chunk_tokens, spec.chunks.tokens),
        "RAGSVC_CHUNK_OVERLAP": (settings.chunk_overlap, spec.chunks.overlap),
    }
    differing = [
        f"{setting} is {value}, the collection has {own}"
        for setting, (value, own) in wanted.items()
        if value is not None and value != own
    ]
    if differing:
        raise ConfigurationError(
            f"collection {name!r} is made otherwise: {'; '.join(differing)}. Unset the setting to go on with the "
            "collection's own, or make another collection; changing one in place (reembed) comes with a later release"
        )
