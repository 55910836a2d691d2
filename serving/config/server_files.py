# SPDX-License-Identifier: Apache-2.0
"""LMI's `config.properties`: the weakest source of the server's own keys. Called by `layers.py`."""

from collections.abc import Mapping
from pathlib import Path

from serving.config import past
from serving.config.host import Host
from serving.config.options import ServerSettings, options
from serving.config.sources import Setting, from_properties
from serving.errors import ConfigError, Problem

_HOME = "MODEL_SERVER_HOME"
_PLACES = ("conf/config.properties", "config.properties")
LOCATION_KEYS = ("model_store", "load_models")
"""Keys that say where the model is, which `model.py` reads."""
NOT_A_MODELS = frozenset({
    *LOCATION_KEYS, "inference_address", "management_address", "allowed_origins", "allowed_methods", "allowed_headers",
    "ssl_certfile", "ssl_keyfile",
})  # fmt: skip
"""Keys that the model's own file has no say in, by canonical name, where LMI's spelling is used."""


def read(given: str | None, env: Mapping[str, str], host: Host, warnings: list[str]) -> list[Setting]:
    """The settings of the file that `-f` names, or of the one in LMI's home directory.

    Raises:
        ConfigError: the file that is named, or the home directory, is not there.
    """
    home = env.get(_HOME)
    if home and not host.path(home).is_dir():
        raise ConfigError([Problem("NOT_FOUND", f"{_HOME}={home} is not a directory", _HOME)])
    path = _path(given, home, host)
    if path is None:
        return []
    if not path.is_file():
        raise ConfigError([Problem("NOT_FOUND", f"{given} is not a file", "command line -f")])
    found: list[str] = []
    settings = []
    for one in from_properties(path, found):
        row = options().get(one.name)
        if (row is not None and row.table is ServerSettings) or (row is None and past.is_known(one.name)):
            settings.append(one)
        else:
            warnings.append(f"{one.spelling or one.name} ({one.origin}) has no effect: it is none of the server's keys")
    if home is None:
        return settings
    return [
        Setting(one.name, str(Path(home) / one.text), one.origin, one.known, one.spelling)
        if one.name == "model_store" and not one.text.startswith("/")
        else one
        for one in settings
    ]


def _path(given: str | None, home: str | None, host: Host) -> Path | None:
    if given is not None:
        return host.path(given)
    if not home:
        return None
    return next((path for place in _PLACES if (path := host.path(home) / place).is_file()), None)
