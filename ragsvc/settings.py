"""The only reader of the environment. Settings are frozen once loaded; a name that is not known is refused."""

import os
import re
from pathlib import Path
from typing import Literal, Self

import platformdirs
from dotenv import dotenv_values
from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from ragsvc.errors import ConfigurationError
from ragsvc.types import Role

ProviderName = Literal["auto", "openai", "local"]
LOCAL_MODEL = "all-MiniLM-L6-v2"
LOCAL_DIMENSIONS = 384
OPENAI_URL = "https://api.openai.com/v1"
OPENAI_DIMENSIONS = {"text-embedding-3-small": 1536, "text-embedding-3-large": 3072, "text-embedding-ada-002": 1536}
"""Width of the vectors of OpenAI's models, where no shorter ones are asked for (OpenAI's embeddings guide)."""
_PREFIX = "RAGSVC_"
_NOT_SETTINGS = frozenset({"RAGSVC_ENV_FILE"})


class Settings(BaseSettings):
    """Everything that can be set, by environment variable or `.env`; see docs/settings.md."""

    model_config = SettingsConfigDict(env_prefix=_PREFIX, frozen=True, extra="ignore", env_ignore_empty=True)

    openai_api_key: SecretStr | None = Field(None, validation_alias="OPENAI_API_KEY")
    openai_base_url: str | None = Field(None, validation_alias="OPENAI_BASE_URL")
    provider: ProviderName = "auto"
    embedding_provider: ProviderName = "auto"
    chat_provider: ProviderName = "auto"
    moderation_provider: ProviderName = "auto"
    embedding_base_url: str | None = None
    chat_base_url: str | None = None
    moderation_base_url: str | None = None
    embedding_api_key: SecretStr | None = None
    chat_api_key: SecretStr | None = None
    moderation_api_key: SecretStr | None = None
    chat_dialect: Literal["openai", "compatible"] | None = None
    embedding_model: str | None = None
    embedding_dimensions: int | None = Field(None, ge=1, le=8192)
    chat_model: str = "gpt-6-luna"
    moderation: Literal["window", "buffer", "off"] = "window"
    moderation_model: str = "omni-moderation-latest"
    data_dir: Path = Field(default_factory=lambda: Path(platformdirs.user_data_dir("ragsvc", appauthor=False)))
    chunk_tokens: int | None = Field(None, ge=16, le=8000)
    chunk_overlap: int | None = Field(None, ge=0, le=4000)
    embed_batch: int = Field(256, ge=1, le=2048)
    embed_concurrency: int = Field(4, ge=1, le=64)
    delta_rows: int = Field(10_000, ge=1)
    index_kind: Literal["auto", "float16", "rabitq", "ivf-rabitq"] = "auto"
    word_index_rows: int = Field(50_000, ge=1)
    keep_vectors_days: float = Field(30.0, ge=0, le=36_500)
    local_model_dir: Path | None = None
    local_blocklist: Path | None = None
    max_body_mb: int = Field(50, ge=1, le=4096)
    log_format: Literal["console", "json"] | None = None

    @field_validator(
        *("openai_api_key", "embedding_api_key", "chat_api_key", "moderation_api_key"),
        *("openai_base_url", "embedding_base_url", "chat_base_url", "moderation_base_url"),
        mode="before",
    )
    @classmethod
    def _strip(cls, value: object) -> object:
        return (value.strip() or None) if isinstance(value, str) else value

    @field_validator("data_dir", "local_model_dir", "local_blocklist")
    @classmethod
    def _expand(cls, value: Path | None) -> Path | None:
        return None if value is None else value.expanduser().absolute()

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.chunk_tokens is not None and self.chunk_overlap is not None:
            check_chunking(self.chunk_tokens, self.chunk_overlap)
        return self

    def provider_of(self, role: Role) -> Literal["openai", "local"]:
        """Return the provider of a role: its own setting, else the common one, else by what is set."""
        for choice in (getattr(self, f"{role}_provider"), self.provider):
            if choice != "auto":
                return "openai" if choice == "openai" else "local"
        return "openai" if self.has_openai(role) else "local"

    def has_openai(self, role: Role) -> bool:
        """Whether a key or a server of the role is set."""
        return self.api_key_of(role) is not None or self.base_url_of(role) is not None

    def base_url_of(self, role: Role) -> str | None:
        """Return the server of a role, None for OpenAI's own."""
        own: str | None = getattr(self, f"{role}_base_url")
        return own or self.openai_base_url

    def api_key_of(self, role: Role) -> SecretStr | None:
        """Return the key of a role."""
        own: SecretStr | None = getattr(self, f"{role}_api_key")
        return own or self.openai_api_key

    def shown(self) -> dict[str, str]:
        """Return every setting as text under the name it is set by, secrets masked."""
        named = {
            (field.validation_alias if isinstance(field.validation_alias, str) else _PREFIX + name.upper()): getattr(
                self, name
            )
            for name, field in type(self).model_fields.items()
        }
        return {name: "" if value is None else _without_secrets(str(value)) for name, value in named.items()}


def _without_secrets(value: str) -> str:
    """Mask what may be a secret in a URL: the user's part and the query."""
    return re.sub(r"(?<=://)[^/@\s]*@", "***@", re.sub(r"(://[^?\s]*\?)\S*", r"\1***", value))


def check_chunking(tokens: int, overlap: int) -> None:
    """Raise ValueError unless `overlap` is at most half of `tokens`."""
    if overlap * 2 > tokens:
        raise ValueError(f"the overlap of {overlap} tokens is more than half of a chunk of {tokens}")


def load_settings() -> Settings:
    """Read the environment and `.env` (or the file that RAGSVC_ENV_FILE names); the environment goes before it.

    Raises ConfigurationError with one line that names each setting that is unknown or wrong.
    """
    env_file = Path(os.environ.get("RAGSVC_ENV_FILE", ".env"))
    try:
        from_file = (
            {key: value for key, value in dotenv_values(env_file).items() if value} if env_file.is_file() else {}
        )
    except UnicodeDecodeError:
        raise ConfigurationError(f"{env_file} is not UTF-8 text; write it anew as such") from None
    _refuse_unknown({*from_file, *os.environ})
    try:
        return Settings(_env_file=env_file if env_file.is_file() else None)
    except ValidationError as error:
        wrong = "; ".join(f"{_shown_name(item['loc'])}: {item['msg']}" for item in error.errors())
        raise ConfigurationError(f"settings are wrong: {wrong}. See docs/settings.md") from None


def _shown_name(place: tuple[int | str, ...]) -> str:
    """Return the name a setting is set by; a rule about several has its names in its message."""
    name = ".".join(str(part) for part in place)
    return _PREFIX + name.upper() if name in Settings.model_fields else name or "settings"


def _refuse_unknown(names: set[str]) -> None:
    own = {name for name, field in Settings.model_fields.items() if field.validation_alias is None}
    known = {_PREFIX + name.upper() for name in own} | _NOT_SETTINGS
    unknown = sorted(name for name in names if name.upper().startswith(_PREFIX) and name.upper() not in known)
    if unknown:
        raise ConfigurationError(
            f"unknown setting {', '.join(unknown)}; docs/settings.md lists the known ones, correct or unset it"
        )
