# SPDX-License-Identifier: Apache-2.0
"""The programs of `examples/clients`, each as a user runs it, against the shared server."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from serving import demo
from tests.conftest import ROOT
from tests.e2e.sagemaker import endpoint

pytestmark = pytest.mark.engine
PROGRAMS = ROOT / "examples" / "clients"
ANSWERS = demo.answers()
LORA, VLLM, CACHE, STREAMING = (ANSWERS[f"What is {topic}?"] for topic in ("LoRA", "vLLM", "a KV cache", "streaming"))
CITIES = ("Oslo", "Rome")


def run(program: str, *arguments: object, **env: str) -> list[tuple[str, str]]:
    """The lines that a program prints, each in front of its first colon and behind it."""
    variables = {
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # it would ask the network for prices
        **{name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"},
        **env,
    }
    command = [sys.executable, str(PROGRAMS / program), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=variables, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    lines = [line.partition(": ") for line in done.stdout.splitlines() if ": " in line]
    return [(label, text) for label, _, text in lines]


def test_openai(url: str) -> None:
    lines = run("openai_client.py", url)
    name, arguments = dict(lines)["tool"].split(" ", 1)
    assert (name, ast.literal_eval(arguments)["city"] in CITIES) == ("get_weather", True)
    assert [line for line in lines if line[0] != "tool"] == [
        ("chat", LORA), ("completion", VLLM), ("stream", LORA), ("response", CACHE), ("embeddings", "404"),
    ]  # fmt: skip


def test_langchain(url: str) -> None:
    lines = dict(run("langchain_client.py", url))
    assert (lines["chat"], lines["stream"]) == (LORA, VLLM)
    assert lines["tool"] in [f"get_weather {{'city': '{city}'}} It rains in {city}." for city in CITIES]
    weather = [f"Weather(city={city!r}, is_raining={is_raining})" for city in CITIES for is_raining in (True, False)]
    assert lines["json_schema"] in weather
    assert lines["function_calling"] in weather


def test_litellm(url: str) -> None:
    assert run("litellm_client.py", url) == [
        ("openai", LORA), ("stream", LORA), ("sagemaker", LORA), ("long prompt", "ContextWindowExceededError"),
    ]  # fmt: skip


def test_instructor(url: str) -> None:
    ((label, weather),) = run("instructor_client.py", url)
    assert label == "tools"
    assert weather in [f"Weather(city={city!r}, degrees={degrees})" for city in CITIES for degrees in range(10)]


def test_huggingface(url: str) -> None:
    assert run("huggingface_client.py", url) == [
        ("text", LORA), ("stream", VLLM), ("details", "eos_token 18"), ("chat", STREAMING),
    ]  # fmt: skip


def test_sagemaker(url: str) -> None:
    keys = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": "us-east-1"}
    with endpoint(url) as address:
        lines = run("sagemaker_client.py", "demo", address, **keys)
    assert lines == [("text", LORA), ("chat", VLLM), ("stream", LORA)]


def test_outlines(url: str) -> None:
    lines = dict(run("outlines_sync.py", url))
    assert (lines["text"], lines["stream"]) == (LORA, STREAMING)
    assert lines["several"] == repr([VLLM, VLLM])
    assert lines["adapter"] == demo.answers("pirate")["What is LoRA?"]
    assert lines["choice"] in CITIES
    assert lines["stream of a choice"] in CITIES
    assert lines["enum"] in ("red", "blue")
    for label, pattern in [
        ("regex", "2026-0[1-9]-[12][0-9]"), ("grammar", r"[1-9]\+[1-9]"), ("json", "name='.{0,8}' strength=[1-9]")
    ]:  # fmt: skip
        assert re.fullmatch(pattern, lines[label]), lines[label]


def test_outlines_async(url: str) -> None:
    lines = run("outlines_async.py", url)
    assert lines[:3] == [("text", LORA), ("text", VLLM), ("text", CACHE)]
    assert lines[3] in [("choice", city) for city in CITIES]
    assert lines[4:] == [("stream", STREAMING)]


def test_kani_openai(url: str) -> None:
    lines = run("kani_openai.py", demo.MODEL_DIR, url)
    assert lines[:2] == [("chat", LORA), ("stream", VLLM)]
    assert lines[2][0] == "assistant"
    assert set(ast.literal_eval(lines[2][1])) == {"get_weather"}
    assert lines[3] == ("function", "It rains.")


def test_kani_native(url: str) -> None:
    assert run("kani_native.py", demo.MODEL_DIR, url) == [("chat", LORA), ("again", VLLM)]


def test_agent_arena(url: str) -> None:
    assert run("agent_arena.py", PROGRAMS / "agent_arena.yaml", url) == [
        ("available", "True"),
        ("text", f"{LORA} stop 22"),
        ("tools", f"native {ANSWERS['Who are you?']} None"),
        ("tools in words", "fallback"),
    ]


def test_agent_arena_without_a_server() -> None:
    assert run("agent_arena.py", PROGRAMS / "agent_arena.yaml", "http://127.0.0.1:9") == [("available", "False")]


def test_every_program_is_run() -> None:
    """Each program has a test above; that which has an engine of its own, elsewhere."""
    source = Path(__file__).read_text() + (ROOT / "tests" / "long" / "test_offline.py").read_text()
    assert [path.name for path in PROGRAMS.glob("*.py") if f'"{path.name}"' not in source] == []
