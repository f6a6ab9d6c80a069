"""Where things lie and how the service runs: environment (AUTOMBW_*), a settings file, defaults."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import quote

from pydantic import BeforeValidator, Field, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from scoring.data_text import parse_toml, parse_yaml
from scoring.display import shown
from scoring.errors import InputError


def _split(value: object) -> object:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
"""A list; in a variable of the environment, its items with commas between them."""
DEFAULT_FILES = ("autombw.toml", "autombw.yaml", "autombw.yml")


class Settings(BaseSettings):
    """Settings of one installation. Each is also read from the variable AUTOMBW_<NAME IN CAPITALS>.

    Relative folders count from the working directory, or from the settings file they stand in.
    """

    model_config = SettingsConfigDict(env_prefix="AUTOMBW_", extra="forbid", validate_default=True)

    models_dir: Path = Field(
        default=Path("models"), description="Folder of the checkpoints that jobs may name."
    )
    data_dir: Path = Field(
        default=Path("autombw-data"), description="Database, renders and merged checkpoints."
    )
    probes_dir: Path = Field(default=Path("probes"), description="Folder of probe files that jobs may name.")
    scorers_dir: Path = Field(default=Path("scorers"), description="Folder of the scorers' weights.")
    wildcards_dir: Path = Field(
        default=Path("wildcards"), description="Folder of wildcard files that prompts may name."
    )
    embeddings_dir: Path = Field(
        default=Path("embeddings"), description="Folder of textual inversions that prompts may name."
    )
    database_url: str = Field(default="", description="SQLAlchemy URL; SQLite in data_dir where empty.")
    database_password_file: Path | None = Field(
        default=None, description="File with the password of PostgreSQL's user, where database_url has none."
    )
    host: str = Field(default="127.0.0.1", description="Address the API listens on.")
    port: int = Field(default=8188, ge=1, le=65535, description="Port the API listens on.")
    auth: Literal["auto", "always"] = Field(
        default="auto",
        description="auto: a token is needed unless only this machine is listened to and none was ever made.",
    )
    allowed_hosts: Names = Field(
        default=(), description="Names, beside localhost, that requests may call the service by."
    )
    trusted_proxies: Names = Field(
        default=(), description="Addresses or networks of reverse proxies whose X-Forwarded-* are believed."
    )
    session_days: float = Field(default=14.0, gt=0, le=365, description="A browser stays logged in for.")
    request_rate: float = Field(
        default=100.0, ge=0, description="Requests per second to the API that a token may make; 0: any."
    )
    queue_limit: int = Field(
        default=100, ge=0, description="Jobs of a token that are not over, admins' aside; 0: any number."
    )
    max_body_mb: float = Field(default=32.0, gt=0, description="A request with a larger body is refused.")
    request_seconds: float = Field(
        default=30.0, ge=0, description="A request whose answer has not begun by then gets a 503; 0: never."
    )
    work_seconds: float = Field(
        default=3600.0,
        ge=0,
        description="The same for requests that read or write models, such as submissions and exports.",
    )
    allow_hub: bool = Field(
        default=False,
        description="Fetch scorers' models from a hub by their ids; else only what is here counts.",
    )
    device: str = Field(default="auto", description="auto, cpu, cuda, cuda:0, mps.")
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = Field(
        default="auto", description="Numbers the models run in; auto is float32 on a CPU, else float16."
    )
    max_batch: int = Field(
        default=0,
        ge=0,
        le=1024,
        description="Images rendered together at most; 0 is 16, and on CUDA 64 or what the memory takes.",
    )
    compile: bool = Field(
        default=False,
        description="Compile the UNet with torch.compile: a minute or more for a node, then faster steps.",
    )
    lease_seconds: float = Field(
        default=30.0, ge=1.0, le=3600.0, description="A silent worker loses its node after."
    )

    reserve_mb: int = Field(
        default=500, ge=0, description="A node pauses before a disk would have fewer MB free than this."
    )
    log_format: Literal["text", "json"] = Field(
        default="text", description="Lines for people, or a JSON object a line with ids as fields."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="What is logged to stderr; debug tells of every render."
    )

    @model_validator(mode="after")
    def _complete(self) -> Settings:
        for name in type(self).model_fields:
            if name.endswith("_dir"):
                object.__setattr__(self, name, getattr(self, name).expanduser().absolute())
        if not self.database_url:
            object.__setattr__(self, "database_url", f"sqlite:///{self.data_dir / 'autombw.sqlite3'}")
        return self

    @property
    def renders_dir(self) -> Path:
        """Content-addressed images."""
        return self.data_dir / "renders"

    @property
    def outputs_dir(self) -> Path:
        """Merged checkpoints."""
        return self.data_dir / "outputs"

    @property
    def thumbnails_dir(self) -> Path:
        """Small pictures of the images, for pages."""
        return self.data_dir / "thumbnails"

    @property
    def cache_dir(self) -> Path:
        """What can be computed again, such as hashes of files."""
        return self.data_dir / "cache"

    @property
    def batches_file(self) -> Path:
        """How many images the GPUs of this installation hold at once, as was measured."""
        return self.data_dir / "batches.json"

    def resolved_max_batch(self) -> int:
        """The largest batch to render on the resolved device; what does not fit its memory is cut."""
        return self.max_batch or (64 if self.resolved_device().startswith("cuda") else 16)

    def resolved_device(self) -> str:
        """The device to use, `auto` resolved by what this machine has."""
        if self.device != "auto":
            return self.device
        import torch

        if torch.cuda.is_available():
            return "cuda"
        return "cpu"

    def resolved_dtype(self) -> str:
        """The dtype to use on the resolved device."""
        if self.dtype != "auto":
            return self.dtype
        return "float32" if self.resolved_device() == "cpu" else "float16"


def load_settings(file: Path | None = None, **overrides: Any) -> Settings:
    """Settings from overrides, then environment, then the settings file, then defaults.

    The file is `file`, else the one AUTOMBW_SETTINGS names, else autombw.toml/.yaml in the working
    directory when there is one. Raises InputError on a missing or broken file and on a bad value.
    """
    path = _settings_file(file)
    values = {} if path is None else _read(path)

    class _WithFile(Settings):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
            file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return init_settings, env_settings, InitSettingsSource(settings_cls, init_kwargs=values)

    try:
        settings = Settings.model_construct(**_WithFile(**overrides).model_dump())
    except ValidationError as error:
        where = f"settings ({path})" if path else "settings"
        raise InputError(f"{where}: {describe(error)}") from error
    if settings.database_password_file is None:
        return settings
    url = _with_password(settings.database_url, settings.database_password_file.expanduser())
    return settings.model_copy(update={"database_url": url})


def describe(error: ValidationError) -> str:
    """A validation error in one line: every place, what is wrong there, and what was given."""
    return "; ".join(
        f"{'.'.join(str(p) for p in e['loc']) or 'value'}: {e['msg']} (got {shown(e['input'])})"
        for e in error.errors()
    )


def _with_password(url: str, file: Path) -> str:
    """A URL of PostgreSQL with the password that a file holds. Raises InputError where it cannot."""
    parts = re.fullmatch(r"(postgres\w*(?:\+\w+)?://[^:@/?]+)(@.*)", url)
    if parts is None:
        raise InputError(
            "database_password_file needs a database_url with a user and no password, such as "
            "postgresql://autombw@db/autombw"
        )
    try:
        password = file.read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"database_password_file {file} cannot be read: {error}") from error
    if not password:
        raise InputError(f"database_password_file {file} is empty; write the password into it")
    return f"{parts[1]}:{quote(password, safe='')}{parts[2]}"


def _settings_file(file: Path | None) -> Path | None:
    named = file or (Path(os.environ["AUTOMBW_SETTINGS"]) if os.environ.get("AUTOMBW_SETTINGS") else None)
    if named is None:
        return next((Path(name) for name in DEFAULT_FILES if Path(name).is_file()), None)
    if not named.is_file():
        raise InputError(f"settings file {named} does not exist; give an existing TOML or YAML file")
    return named


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        values = parse_toml(text) if path.suffix == ".toml" else parse_yaml(text)
    except (OSError, ValueError) as error:
        raise InputError(f"settings file {path} cannot be read: {error}") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise InputError(f"settings file {path} must hold names and values, not a {type(values).__name__}")
    base = path.absolute().parent
    return {
        str(k): str(base / Path(v).expanduser()) if str(k).endswith("_dir") and isinstance(v, str) else v
        for k, v in values.items()
    }
