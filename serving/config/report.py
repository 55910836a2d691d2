# SPDX-License-Identifier: Apache-2.0
"""What was decided and why, for people and as JSON: the answer of `lmi config`. Called by `cli.py`.

No secret shows (`masking.py`).
"""

import dataclasses
import json
from collections.abc import Iterable, Sequence
from typing import Any

from serving.config.masking import masked
from serving.config.options import options
from serving.config.resolve import ResolvedConfig
from serving.config.sources import ORDER, Effective
from serving.config.vllm_arguments import arguments
from serving.errors import Problem


def as_data(config: ResolvedConfig, handler: str = "") -> dict[str, Any]:
    """The configuration as JSON types; `handler` says who answers requests."""
    return {
        "model_name": config.model_name,
        "model_dir": str(config.model_dir) if config.model_dir is not None else None,
        "mode": {"name": config.mode.name, "reason": config.mode.reason},
        "handler": handler,
        "adapters": {name: str(path) for name, path in config.adapters.items()},
        "limits": dataclasses.asdict(config.limits),
        "settings": [_setting(entry) for entry in config.effective.values()],
        "vllm_arguments": {name: masked(name, value) for name, value in _given(config)},
        "environment": {name: masked(name, value) for name, value in config.environment.items()},
        "warnings": list(config.warnings),
        "problems": [],
    }


def problems_as_data(problems: Sequence[Problem]) -> dict[str, Any]:
    """A refusal as JSON types, under the same key as in `as_data`."""
    return {"problems": [{name: getattr(one, name) for name in Problem.__slots__} for one in problems]}


def as_text(config: ResolvedConfig, handler: str = "") -> str:
    """The configuration as a person reads it; `handler` says who answers requests."""
    limits = config.limits
    waits = f"first output within {limits.first_output_s} s, each next one within {limits.gap_s} s"
    head = {
        "model": config.model_name,
        "directory": config.model_dir or "none: a Hub id",
        "mode": f"{config.mode.name} ({config.mode.reason})",
        "handler": handler,
        "adapters": ", ".join(config.adapters) or "none",
        "limits": f"{limits.num_in_flight} requests at once, {waits}",
    }
    values = [(f"--{name.replace('_', '-')}", _shown(masked(name, value))) for name, value in _given(config)]
    blocks = [
        _block("", head.items()),
        _block(f"Settings (strongest first: {', '.join(ORDER)})", _settings(config.effective.values())),
        _block("vLLM arguments", values),
        _block("Variables set for vLLM", [(name, masked(name, text)) for name, text in config.environment.items()]),
        _block("Warnings", [("", text) for text in config.warnings]),
    ]
    return "\n\n".join(block for block in blocks if block)


def _block(title: str, rows: Iterable[tuple[str, Any]]) -> str:
    """Two columns under a title; empty without rows."""
    rows = [(name, str(value)) for name, value in rows]
    if not rows:
        return ""
    width = max(len(name) for name, _ in rows)
    indent = "  " if title else ""
    lines = [f"{indent}{name:<{width}}  {value}".rstrip() if name else f"{indent}{value}" for name, value in rows]
    return "\n".join([title, *lines] if title else lines)


def _settings(effective: Iterable[Effective]) -> list[tuple[str, str]]:
    """Each winner with its origin, and under it what it beat."""
    rows = []
    for entry in effective:
        data = _setting(entry)
        note = "" if entry.setting.known else ", unknown"
        rows.append((data["name"], f"{_shown(data['value'])}  ({data['origin']}{note})"))
        rows += [("", f"    beats {_shown(one['value'])}  ({one['origin']})") for one in data["overrode"]]
    return rows


def _setting(entry: Effective) -> dict[str, Any]:
    name = entry.setting.name
    row = options().get(name)
    key = row.key if row is not None else f"option.{name}"
    return {
        "name": key,
        "value": masked(name, entry.setting.text),
        "origin": entry.setting.origin,
        "known": entry.setting.known,
        "vllm_argument": name if name in arguments() else None,
        "overrode": [{"value": masked(name, one.text), "origin": one.origin} for one in entry.overrode],
    }


def _given(config: ResolvedConfig) -> list[tuple[str, Any]]:
    """vLLM's arguments that are set."""
    return [(name, value) for name, value in config.vllm_arguments.items() if value is not None]


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
