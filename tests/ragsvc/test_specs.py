"""Which spec a new collection gets, and when settings disagree with an old one's."""

import pytest

from indexes.types import ChunkSpec, EmbeddingSpec, IndexSpec
from ragsvc.errors import ConfigurationError
from ragsvc.settings import Settings
from ragsvc.specs import DIMENSIONS, check_agrees, new_spec, reach


def _settings(**fields: object) -> Settings:
    return Settings.model_validate(fields)


@pytest.mark.parametrize(
    ("fields", "options", "expected"),
    [
        ({}, {}, ("all-MiniLM-L6-v2", 384, 512, 64)),
        ({"OPENAI_API_KEY": "k"}, {}, ("text-embedding-3-small", 1536, 512, 64)),
        ({"OPENAI_API_KEY": "k"}, {"model": "text-embedding-3-large"}, ("text-embedding-3-large", 3072, 512, 64)),
        ({"OPENAI_API_KEY": "k", "embedding_dimensions": 256}, {}, ("text-embedding-3-small", 256, 512, 64)),
        ({"chunk_tokens": 64}, {}, ("all-MiniLM-L6-v2", 384, 64, 8)),
        ({"chunk_tokens": 64, "chunk_overlap": 0}, {"tokens": 128}, ("all-MiniLM-L6-v2", 384, 128, 0)),
        ({"OPENAI_BASE_URL": "http://x/v1"}, {"model": "bge", "dimensions": 768}, ("bge", 768, 512, 64)),
    ],
)
def test_what_is_given_goes_before_what_is_set_and_the_defaults(fields, options, expected):
    """Options, then settings, then defaults make the spec; an overlap that is not set follows a small chunk."""
    spec = new_spec(_settings(**fields), **options)
    assert (spec.embedding.model, spec.embedding.dimensions, spec.chunks.tokens, spec.chunks.overlap) == expected


@pytest.mark.parametrize(
    ("fields", "options", "word"),
    [
        ({"OPENAI_API_KEY": "k"}, {"model": "unknown-model"}, "RAGSVC_EMBEDDING_DIMENSIONS"),
        ({"OPENAI_API_KEY": "k"}, {"dimensions": 1537}, "1537"),
        ({"OPENAI_API_KEY": "k"}, {"model": "text-embedding-ada-002", "dimensions": 256}, "ada-002"),
        ({}, {"dimensions": 128}, "all-MiniLM-L6-v2"),
        ({}, {"tokens": 100, "overlap": 51}, "overlap"),
        ({}, {"tokens": 8191}, "8191"),
    ],
)
def test_a_spec_that_makes_no_sense_is_refused(fields, options, word):
    """Unknown widths, widths a model has not, too much overlap and too large chunks are refused with the way out."""
    with pytest.raises(ConfigurationError, match=word):
        new_spec(_settings(**fields), **options)


def test_an_unknown_model_is_named_with_its_setting_and_the_known_ones():
    """The setting, its value, and what it may be; a model that was given otherwise is not called a setting."""
    with pytest.raises(ConfigurationError) as raised:
        new_spec(_settings(embedding_model="gpt"))
    for word in ("RAGSVC_EMBEDDING_MODEL is 'gpt'", *DIMENSIONS, "RAGSVC_EMBEDDING_DIMENSIONS"):
        assert word in str(raised.value)
    with pytest.raises(ConfigurationError) as raised:
        new_spec(_settings(), model="gpt")
    assert "RAGSVC_EMBEDDING_MODEL" not in str(raised.value)


def test_only_explicit_settings_are_compared():
    """Unset settings agree with any collection; a set one that differs is named with both values."""
    spec = IndexSpec(EmbeddingSpec("text-embedding-3-small", 1536), ChunkSpec(256, 32))
    check_agrees(_settings(), spec, "papers")
    check_agrees(_settings(embedding_model="text-embedding-3-small", chunk_tokens=256), spec, "papers")
    with pytest.raises(ConfigurationError) as raised:
        check_agrees(_settings(embedding_dimensions=512, chunk_overlap=16), spec, "papers")
    for word in ("512", "1536", "16", "32", "papers", "reembed"):
        assert word in str(raised.value)


def test_what_a_model_does_not_know_is_said():
    """The local model's reach is told in a sentence; of other models nothing is known."""
    assert "another script" in reach("all-MiniLM-L6-v2")
    assert reach("text-embedding-3-small") is None
