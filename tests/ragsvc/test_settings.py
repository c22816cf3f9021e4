"""Settings: read from the environment and .env, refused when unknown or wrong, never shown with secrets."""

import pytest

from ragsvc.errors import ConfigurationError
from ragsvc.settings import check_chunking, load_settings


@pytest.fixture(autouse=True)
def clean(monkeypatch, tmp_path):
    """No settings from outside."""
    import os

    for name in list(os.environ):
        if name.startswith(("RAGSVC_", "OPENAI_")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("environment", "providers"),
    [
        ({}, ("local", "local", "local")),
        ({"OPENAI_API_KEY": "k"}, ("openai", "openai", "openai")),
        ({"OPENAI_BASE_URL": "http://127.0.0.1:1/v1"}, ("openai", "openai", "openai")),
        ({"OPENAI_API_KEY": "k", "RAGSVC_PROVIDER": "local"}, ("local", "local", "local")),
        ({"RAGSVC_CHAT_BASE_URL": "http://127.0.0.1:1/v1"}, ("local", "openai", "local")),
        ({"OPENAI_API_KEY": "k", "RAGSVC_MODERATION_PROVIDER": "local"}, ("openai", "openai", "local")),
        ({"OPENAI_API_KEY": ""}, ("local", "local", "local")),
    ],
)
def test_each_role_has_its_provider(monkeypatch, environment, providers):
    """A role's own setting goes before the common one, which goes before what keys and servers imply."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    settings = load_settings()
    assert tuple(settings.provider_of(role) for role in ("embedding", "chat", "moderation")) == providers


def test_the_environment_goes_before_the_file(monkeypatch, tmp_path):
    """.env is read, and a variable of the environment overrides it."""
    (tmp_path / ".env").write_text("RAGSVC_CHAT_MODEL=from-file\nRAGSVC_EMBED_BATCH=7\n", encoding="utf-8")
    monkeypatch.setenv("RAGSVC_CHAT_MODEL", "from-environment")
    settings = load_settings()
    assert (settings.chat_model, settings.embed_batch) == ("from-environment", 7)


def test_what_is_set_to_nothing_is_not_set(monkeypatch):
    """A blank key or URL is none; a password or query in a URL is not shown."""
    monkeypatch.setenv("OPENAI_API_KEY", "  ")
    monkeypatch.setenv("RAGSVC_CHAT_BASE_URL", "http://user:hidden@host/v1?api-key=hidden")
    settings = load_settings()
    assert settings.provider_of("embedding") == "local"
    assert settings.shown()["RAGSVC_CHAT_BASE_URL"] == "http://***@host/v1?***"


def test_an_env_file_that_is_not_text_is_refused(tmp_path):
    """A .env that is not UTF-8 is an error of one line."""
    (tmp_path / ".env").write_bytes(b"RAGSVC_CHAT_MODEL=\xff\xfe")
    with pytest.raises(ConfigurationError, match="UTF-8"):
        load_settings()


@pytest.mark.parametrize("name", ["RAGSVC_CHUNK_TOKEN", "RAGSVC_OPENAI_API_KEY"])
def test_names_that_look_right_are_refused_too(monkeypatch, name):
    """A name is known only as it is documented."""
    monkeypatch.setenv(name, "7")
    with pytest.raises(ConfigurationError, match=name):
        load_settings()


@pytest.mark.parametrize("where", ["environment", "file"])
def test_an_unknown_name_is_refused_by_name(monkeypatch, tmp_path, where):
    """A misspelt RAGSVC_ name is an error that names it, wherever it is set."""
    if where == "file":
        (tmp_path / ".env").write_text("RAGSVC_CHUNK_TOKEN=7\n", encoding="utf-8")
    else:
        monkeypatch.setenv("RAGSVC_CHUNK_TOKEN", "7")
    with pytest.raises(ConfigurationError, match="RAGSVC_CHUNK_TOKEN"):
        load_settings()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RAGSVC_EMBED_BATCH", "0"),
        ("RAGSVC_EMBED_BATCH", "2049"),
        ("RAGSVC_CHUNK_TOKENS", "15"),
        ("RAGSVC_CHUNK_TOKENS", "9000"),
        ("RAGSVC_MODERATION", "maybe"),
        ("RAGSVC_PROVIDER", "azure"),
        ("RAGSVC_DELTA_ROWS", "many"),
    ],
)
def test_a_wrong_value_is_one_line(monkeypatch, name, value):
    """A value out of range or of another type is a ConfigurationError of one line."""
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError) as raised:
        load_settings()
    assert "\n" not in str(raised.value)
    assert name.removeprefix("RAGSVC_").lower() in str(raised.value).lower()


def test_too_much_overlap_is_refused(monkeypatch):
    """An overlap of more than half a chunk is refused, when both are set and by the check itself."""
    monkeypatch.setenv("RAGSVC_CHUNK_TOKENS", "64")
    monkeypatch.setenv("RAGSVC_CHUNK_OVERLAP", "33")
    with pytest.raises(ConfigurationError, match="overlap"):
        load_settings()
    check_chunking(64, 32)


def test_secrets_are_masked_and_stripped(monkeypatch):
    """A key's trailing newline is dropped; no shown form of the settings holds a key."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-canary\n")
    monkeypatch.setenv("RAGSVC_CHAT_API_KEY", "sk-other-canary")
    settings = load_settings()
    assert settings.api_key_of("embedding").get_secret_value() == "sk-canary"
    assert settings.api_key_of("chat").get_secret_value() == "sk-other-canary"
    assert "canary" not in repr(settings) + str(settings.shown()) + str(settings)
    assert settings.shown()["OPENAI_API_KEY"].startswith("*")


def test_every_setting_is_documented():
    """docs/settings.md names every setting, and no setting that is not there."""
    import re
    from pathlib import Path

    page = (Path(__file__).resolve().parents[2] / "docs" / "settings.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"\b(?:RAGSVC|OPENAI)_[A-Z_]+\b", "\n".join(re.findall(r"^\| (`.*?) \|", page, re.M))))
    assert documented == set(load_settings().shown())
