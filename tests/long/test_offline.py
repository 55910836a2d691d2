# SPDX-License-Identifier: Apache-2.0
"""The engine without a server, as scripts and programs with an event loop use it.

A model computes in a process of its own here, which the tests' functions are sent to: vLLM binds the process that it
computes in to cores, and changes its variables.
"""

import asyncio
import inspect
import json
import random
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import BaseModel

from serving import demo, offline
from tests.conftest import ROOT
from tests.quantized import HAS_KERNEL, REFUSAL, make_awq

pytestmark = pytest.mark.long
QUESTION = "What is LoRA?"
ANSWER = demo.answers()[QUESTION]
GREEDY = {"temperature": 0.0, "max_tokens": 40}
LOAD = {"enable_lora": True, "max_loras": 2, "max_cpu_loras": 2, "max_model_len": 512}
"""Fewer slots than adapters."""
TIMEOUT_S = 600
_model: Any = None
_runner: asyncio.Runner


class Flag(BaseModel):
    """The smallest object: a model that knows nothing of JSON cannot fail to finish it."""

    ok: bool
    kind: Literal["a", "b"]


def _load_script() -> None:
    global _model
    _model = offline.load(demo.MODEL_DIR, **LOAD)


def _load_loop() -> None:
    global _model, _runner
    _runner = asyncio.Runner()
    _model = _runner.run(offline.load_async(demo.MODEL_DIR, **LOAD))


def _end(is_loop: bool) -> None:
    _runner.run(_model.shutdown()) if is_loop else _model.shutdown()


def _check(module: str, name: str, arguments: dict[str, Any]) -> None:
    """Runs the body of a test in the process that has the model."""
    body = getattr(import_module(module), name).body
    made = body(_model, **arguments)
    if inspect.iscoroutine(made):
        _runner.run(made)


def in_its_process(body: Callable[..., Any]) -> Callable[..., None]:
    """A test whose body gets the model, in the process where that is; coroutines get the one for event loops."""
    kind = "loop" if inspect.iscoroutinefunction(body) else "script"
    names = list(inspect.signature(body).parameters)[1:]

    def test(request: pytest.FixtureRequest) -> None:
        arguments = {name: request.getfixturevalue(name) for name in names}
        pool = request.getfixturevalue(kind)
        pool.submit(_check, body.__module__, body.__name__, arguments).result(TIMEOUT_S)

    test.__name__, test.__doc__, test.body = body.__name__, body.__doc__, body  # type: ignore[attr-defined]
    return test


def _pool(load: Callable[[], None], is_loop: bool) -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(1, get_context("spawn"), initializer=load) as pool:
        yield pool
        pool.submit(_end, is_loop).result(TIMEOUT_S)


@pytest.fixture(scope="module")
def script() -> Iterator[ProcessPoolExecutor]:
    yield from _pool(_load_script, is_loop=False)


@pytest.fixture(scope="module")
def loop() -> Iterator[ProcessPoolExecutor]:
    yield from _pool(_load_loop, is_loop=True)


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Directory of each adapter to its sentence; the third one changes nothing."""
    from safetensors.torch import load_file, save_file

    root = tmp_path_factory.mktemp("adapters")
    said = {}
    for name in demo.adapter_names():
        shutil.copytree(demo.ADAPTERS_DIR / name, root / name)
        said[str(root / name)] = demo.answers(name)[QUESTION]
    neutral = root / "neutral"
    shutil.copytree(demo.ADAPTERS_DIR / demo.adapter_names()[0], neutral)
    weights = load_file(neutral / "adapter_model.safetensors")
    save_file(
        {key: tensor * 0 if "lora_B" in key else tensor for key, tensor in weights.items()},
        neutral / "adapter_model.safetensors",
    )
    return {**said, str(neutral): ANSWER}


# For scripts


@in_its_process
def test_texts(model: offline.Model) -> None:
    questions = list(demo.answers())
    assert model(QUESTION, **GREEDY) == ANSWER
    assert model(questions, **GREEDY) == list(demo.answers().values())
    assert model(model.tokenizer(QUESTION).input_ids, **GREEDY) == ANSWER
    assert model([{"role": "user", "content": QUESTION}], **GREEDY) == ANSWER
    assert model.max_model_len == 512


@in_its_process
def test_samples(model: offline.Model) -> None:
    [[one]] = model.generate(QUESTION, **GREEDY)
    assert (one.text, one.finish_reason) == (ANSWER, "stop")
    assert model.tokenizer.decode(one.token_ids, skip_special_tokens=True) == ANSWER
    assert one.num_prompt_tokens == len(model.tokenizer(QUESTION).input_ids)
    samples = model.generate([QUESTION, "abc"], n=3, max_tokens=5, ignore_eos=True)
    assert [len(group) for group in samples] == [3, 3]
    assert {len(sample.token_ids) for group in samples for sample in group} == {5}
    assert {sample.finish_reason for group in samples for sample in group} == {"length"}


@in_its_process
def test_output_types(model: offline.Model) -> None:
    assert model("a", offline.Regex("[0-9]{3}"), **GREEDY).isdigit()
    assert model("a", ["yes", "no"], **GREEDY) in ("yes", "no")
    assert isinstance(model("a", Flag, **GREEDY), Flag)
    assert model("a", {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"],
                       "additionalProperties": False}, **GREEDY) in ({"ok": True}, {"ok": False})  # fmt: skip
    assert model("a", Literal["x", "y"], **GREEDY) in ("x", "y")
    assert model("a", offline.Grammar('root ::= "left" | "right"'), **GREEDY) in ("left", "right")
    assert all(isinstance(flag, Flag) for flag in model(["a"] * 8, Flag, max_tokens=40))
    with pytest.raises(offline.IncompleteOutput):
        model("a", Flag, temperature=0.0, max_tokens=2)


@in_its_process
def test_no_room_for_blanks(model: offline.Model) -> None:
    texts = [sample.text for [sample] in model.generate(["a"] * 8, Flag, max_tokens=40)]
    assert {text == json.dumps(json.loads(text), separators=(",", ":")) for text in texts} == {True}


@in_its_process
def test_best_of_and_beams(model: offline.Model) -> None:
    [best] = model.generate("abc", best_of=6, n=3, max_tokens=6, temperature=1.5, ignore_eos=True)
    scores = [sample.cumulative_logprob for sample in best]
    assert len(scores) == 3
    assert scores == sorted(scores, reverse=True)
    [beams] = model.generate(QUESTION, use_beam_search=True, n=2, best_of=3, max_tokens=40)
    assert len(beams) == 2
    assert (beams[0].text, beams[0].finish_reason) == (ANSWER, "stop")
    assert beams[0].cumulative_logprob > beams[1].cumulative_logprob
    [chat] = model.generate([{"role": "user", "content": QUESTION}], use_beam_search=True, n=2, max_tokens=40)
    assert chat[0].text == ANSWER


@in_its_process
def test_users_parameters_stay(model: offline.Model) -> None:
    from vllm import SamplingParams
    from vllm.sampling_params import StructuredOutputsParams

    given = SamplingParams(temperature=0, max_tokens=7, structured_outputs=StructuredOutputsParams(regex="[a-z]+"))
    before = repr(given)
    assert len(model.generate(QUESTION, sampling_params=given, max_tokens=40)[0][0].token_ids) == 7
    assert repr(given) == before


@in_its_process
def test_faults(model: offline.Model) -> None:
    """Nothing of a refused call is left in the engine for the next one."""
    for prompts, options, text in [
        (QUESTION, {"n": 3, "temperature": 0}, "greedy"),
        (QUESTION, {"foo": 1}, "no sampling parameter foo"),
        ([QUESTION, [1] * 600], {}, "maximum context length is 512"),
        (["a", "b"], {"output_type": offline.Regex("(")}, "regex"),
        ([QUESTION], {"output_type": {"type": "nope"}}, "type"),
        (QUESTION, {"lora": "/nowhere"}, "/nowhere is not a valid path"),
        (QUESTION, {"lora": "no_such_adapter"}, "no_such_adapter is no directory"),
    ]:
        with pytest.raises(offline.ServingError, match=text):
            model.generate(prompts, **options)
        assert model(QUESTION, lora=None, **GREEDY) == ANSWER


@in_its_process
def test_an_interrupted_call(model: offline.Model) -> None:
    step, calls = model.llm.llm_engine.step, 0

    def interrupted() -> Any:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return step()

    model.llm.llm_engine.step = interrupted
    with pytest.raises(KeyboardInterrupt):
        model.generate(["abc"] * 4, n=2, max_tokens=100, ignore_eos=True)
    model.llm.llm_engine.step = step
    assert model.llm.llm_engine.get_num_unfinished_requests() == 0
    assert not model.llm.llm_engine.output_processor.parent_requests
    assert model(QUESTION, **GREEDY) == ANSWER


@in_its_process
def test_a_failing_engine(model: offline.Model) -> None:
    """Its failure is no fault of the request's, and keeps its cause."""
    step = model.llm.llm_engine.step

    def failing() -> Any:
        raise ValueError("a bug")

    model.llm.llm_engine.step = failing
    try:
        with pytest.raises(offline.ServingError, match="a bug") as caught:
            model(QUESTION)
    finally:
        model.llm.llm_engine.step = step
    assert type(caught.value).__name__ == "EngineError"
    assert isinstance(caught.value.__cause__, ValueError)
    assert model(QUESTION, **GREEDY) == ANSWER


@in_its_process
def test_adapter_switching(model: offline.Model, adapters: dict[str, str]) -> None:
    """A hundred switches between three adapters and none, two slots: every answer is that adapter's sentence."""
    choices = random.Random(7).choices([*adapters, None], k=100)
    wrong, used = [], Counter()
    for path in choices:
        model.load_lora(path)
        said = model(QUESTION, **GREEDY)
        used[path] += 1
        if said != (adapters[path] if path else ANSWER):
            wrong.append((path, said))
    model.load_lora(None)
    assert not wrong
    assert set(used) == {*adapters, None}
    assert [model(QUESTION, lora=path, **GREEDY) for path in adapters] == list(adapters.values())
    assert model(QUESTION, **GREEDY) == ANSWER


@in_its_process
def test_numbers_of_adapters_are_stable(model: offline.Model, adapters: dict[str, str]) -> None:
    paths = list(adapters)
    engine = model._engine
    numbers = [engine.load_lora(path).lora_int_id for path in (*paths, *paths)]
    assert numbers[:3] == numbers[3:]
    assert len(set(numbers)) == 3


@in_its_process
def test_changed_files(model: offline.Model, adapters: dict[str, str], tmp_path: Path) -> None:
    """What was trained again is loaded again, and the prefix cache has nothing of before."""
    pirate, brief = list(adapters)[:2]
    place = tmp_path / "mine"
    shutil.copytree(pirate, place)
    assert model(QUESTION, lora=place, **GREEDY) == adapters[pirate]
    shutil.rmtree(place)
    shutil.copytree(brief, place)
    assert model(QUESTION, lora=place, **GREEDY) == adapters[brief]
    model.unload_lora(place)


@in_its_process
def test_adapters_beside_the_model(model: offline.Model) -> None:
    for name in demo.adapter_names():
        assert model(QUESTION, lora=name, **GREEDY) == demo.answers(name)[QUESTION]


@in_its_process
def test_wrapped(model: offline.Model, adapters: dict[str, str], tmp_path: Path) -> None:
    wrapped = offline.wrap(model.llm)
    assert wrapped(QUESTION, **GREEDY) == ANSWER
    path = next(iter(adapters))
    assert wrapped(QUESTION, lora=path, **GREEDY) == adapters[path]
    place = tmp_path / "mine"
    for source in list(adapters)[:2]:
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(source, place)
        assert offline.wrap(model.llm)(QUESTION, lora=place, **GREEDY) == adapters[source]
    with pytest.raises(TypeError, match=r"takes a vllm\.LLM, not str"):
        offline.wrap("model")  # type: ignore[arg-type]


# For event loops


@in_its_process
async def test_calls_side_by_side(model: offline.AsyncModel) -> None:
    questions = list(demo.answers())
    answers = await asyncio.gather(*(model(question, **GREEDY) for question in questions))
    assert answers == list(demo.answers().values())
    assert await model(questions, **GREEDY) == answers
    assert await model(model.tokenizer(QUESTION).input_ids, **GREEDY) == ANSWER
    assert await model([{"role": "user", "content": QUESTION}], **GREEDY) == ANSWER
    assert model.max_model_len == 512


@in_its_process
async def test_streams(model: offline.AsyncModel) -> None:
    pieces = [piece async for piece in model.stream(QUESTION, **GREEDY)]
    assert "".join(piece.text for piece in pieces) == ANSWER
    assert len(pieces) > 5
    assert [piece.finish_reason for piece in pieces][-2:] == [None, "stop"]
    text = "".join([piece.text async for piece in model.stream("a", Flag, **GREEDY)])
    assert Flag.model_validate_json(text)
    texts = Counter()
    async for piece in model.stream(QUESTION, n=2, max_tokens=40, seed=1):
        texts[piece.index] += len(piece.token_ids)
    assert set(texts) == {0, 1}


@in_its_process
async def test_async_output_types(model: offline.AsyncModel) -> None:
    assert isinstance(await model("a", Flag, **GREEDY), Flag)
    assert (await model("a", offline.Regex("[0-9]{3}"), **GREEDY)).isdigit()
    best = await model.generate("abc", best_of=4, n=2, max_tokens=6, temperature=1.5)
    assert len(best[0]) == 2
    [beams] = await model.generate(QUESTION, use_beam_search=True, n=2, max_tokens=40)
    assert beams[0].text == ANSWER


def _num_in_flight(model: offline.AsyncModel) -> int:
    return len(model._engine._engine.gate.output_processor.request_states)


async def _until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not holds():
            await asyncio.sleep(0.01)


@in_its_process
async def test_abort(model: offline.AsyncModel) -> None:
    long = {"max_tokens": 400, "ignore_eos": True}
    tasks = [asyncio.create_task(model.generate(["abc"] * 2, request_id=f"r{number}", **long)) for number in range(2)]
    await _until(lambda: _num_in_flight(model) == 4)
    await model.abort("r0")
    first = await tasks[0]
    assert [[sample.finish_reason for sample in samples] for samples in first] == [["abort"], ["abort"]]
    assert _num_in_flight(model) == 2, "the other call goes on"
    tasks[1].cancel()
    with pytest.raises(asyncio.CancelledError):
        await tasks[1]
    stream = model.stream("abc", **long)
    await anext(stream)
    await stream.aclose()
    assert _num_in_flight(model) == 0
    assert await model(QUESTION, **GREEDY) == ANSWER


@in_its_process
async def test_abort_outside_the_engine(model: offline.AsyncModel, adapters: dict[str, str]) -> None:
    """Beams are many short requests to the engine; a call that is only about to reach it is none."""
    beams = asyncio.create_task(
        model.generate("abc", use_beam_search=True, n=2, max_tokens=400, ignore_eos=True, request_id="beams")
    )
    await asyncio.sleep(0.5)
    early = asyncio.create_task(model.generate("abc", max_tokens=400, ignore_eos=True, request_id="early"))
    await _until(lambda: len(model._engine._calls) == 2)
    await model.abort("beams")
    await model.abort("early")
    for task in (beams, early):
        assert {sample.finish_reason for [sample] in await asyncio.wait_for(task, 30)} == {"abort"}
    await _until(lambda: _num_in_flight(model) == 0)


@in_its_process
async def test_unload_beside_calls(model: offline.AsyncModel, adapters: dict[str, str], tmp_path: Path) -> None:
    """It waits for those that use the adapter, and keeps nobody else waiting, nor one who starts it over again."""
    first, second = list(adapters)[:2]
    stream = model.stream("abc", lora=first, max_tokens=300, ignore_eos=True)
    await anext(stream)
    unloading = asyncio.create_task(model.unload_lora(first + "/"))
    await asyncio.sleep(0.1)
    async with asyncio.timeout(20):
        assert await model(QUESTION, lora=second, **GREEDY) == adapters[second]
        assert await model(QUESTION, lora=first, **GREEDY) == adapters[first]
    assert not unloading.done()
    unloading.cancel()
    await stream.aclose()
    await _until(lambda: not model._engine._retiring)
    for path in adapters:
        await model.unload_lora(path)
    assert not await model._engine._engine.gate.list_loras()

    racing = [asyncio.create_task(model(QUESTION, lora=first, **GREEDY)) for _ in range(30)]
    await asyncio.sleep(0.02)
    await model.unload_lora(first)
    assert set(await asyncio.gather(*racing)) == {adapters[first]}

    place = tmp_path / "mine"
    shutil.copytree(first, place)
    stream = model.stream("abc", lora=place, max_tokens=300, ignore_eos=True)
    await anext(stream)
    shutil.rmtree(place)
    shutil.copytree(second, place)
    async with asyncio.timeout(20):
        assert await model(QUESTION, lora=place, **GREEDY) == adapters[second]
    await stream.aclose()
    await model.unload_lora(place)


@in_its_process
async def test_async_faults(model: offline.AsyncModel) -> None:
    for prompts, options, text in [
        (QUESTION, {"n": 3, "temperature": 0}, "greedy"),
        ([QUESTION, [1] * 600], {}, "maximum context length is 512"),
        ("a", {"output_type": offline.Regex("(")}, "regex"),
        (QUESTION, {"lora": "/nowhere"}, "/nowhere is not a valid path"),
    ]:
        with pytest.raises(offline.ServingError, match=text):
            await model.generate(prompts, **options)
        assert _num_in_flight(model) == 0
    assert await model(QUESTION, **GREEDY) == ANSWER


@in_its_process
async def test_async_adapter_switching(model: offline.AsyncModel, adapters: dict[str, str]) -> None:
    chosen = random.Random(8).choices([*adapters, None], k=100)
    answers = await asyncio.gather(*(model(QUESTION, lora=path, **GREEDY) for path in chosen))
    assert answers == [adapters[path] if path else ANSWER for path in chosen]
    for path in random.Random(9).choices(list(adapters), k=20):
        await model.load_lora(path)
        assert await model(QUESTION, **GREEDY) == adapters[path]
    await model.unload_lora(path)
    assert await model(QUESTION, **GREEDY) == ANSWER


# Starts


def test_no_adapters() -> None:
    program = """
from serving import offline
model = offline.load("demo", max_model_len=512, enable_lora=False, swap_space=4)
try:
    model("a", lora="x")
except offline.PayloadError as error:
    print("refused:", error)
model.shutdown()
"""
    run = _run(program)
    assert "refused: adapters need an engine that was started with enable_lora=True" in run.stdout
    assert "swap_space (keyword swap_space) has no effect" in run.stderr


@pytest.mark.parametrize(
    ("keywords", "text"),
    [
        ("quantization='squeezellm'", "squeezellm.*awq"),
        ("max_modle_len=3", "TypeError: vLLM's engine has no keyword 'max_modle_len'; did you mean max_model_len"),
        ("max_model_len=10**9", "ConfigError: the engine does not start: .*greater than the derived max_model_len"),
    ],
)
def test_refused_starts(keywords: str, text: str) -> None:
    run = _run(f"from serving import offline\noffline.load('demo', {keywords})")
    assert run.returncode == 1
    last = run.stderr.strip().splitlines()[-1]
    assert re.search(text, last), last


def test_a_program_without_a_guard(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text("import asyncio\nfrom serving import offline\nasyncio.run(offline.load_async('demo'))\n")
    run = subprocess.run([sys.executable, program], capture_output=True, text=True, timeout=TIMEOUT_S)
    assert run.returncode == 1
    assert 'put what the program does below `if __name__ == "__main__":`' in run.stderr.strip().splitlines()[-1]


def test_models_of_one_program() -> None:
    """One after the other, and two at once."""
    run = _run(f"""
from serving import offline
options = dict(temperature=0, max_tokens=40)
with offline.load("demo", max_model_len=512) as first:
    print(first({QUESTION!r}, **options))
second, third = (offline.load("demo", max_model_len=512) for _ in range(2))
for model in (second, third, second):
    print(model({QUESTION!r}, **options))
second.shutdown()
print(third({QUESTION!r}, **options))
try:
    second("a")
except offline.ServingError as error:
    print(error)
""")
    said = [line for line in run.stdout.splitlines() if line in (ANSWER, "this model was shut down")]
    assert said == [*[ANSWER] * 5, "this model was shut down"], run.stderr


def test_shutdown_beside_calls(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text("""
import asyncio
from serving import offline

async def main():
    model = await offline.load_async("demo", max_model_len=512)
    tasks = [asyncio.create_task(model.generate("abc", max_tokens=400, ignore_eos=True)) for _ in range(2)]
    while len(model._engine._calls) < 2:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.5)
    await model.shutdown()
    print([(await asyncio.wait_for(task, 20))[0][0].finish_reason for task in tasks])
    try:
        await model("a")
    except offline.ServingError as error:
        print(error)

if __name__ == "__main__":
    asyncio.run(main())
""")
    run = subprocess.run([sys.executable, program], capture_output=True, text=True, timeout=TIMEOUT_S)
    assert run.stdout.splitlines()[-2:] == ["['abort', 'abort']", "this model was shut down"], run.stderr


def test_example() -> None:
    example = ROOT / "examples" / "offline.py"
    run = subprocess.run([sys.executable, example], capture_output=True, text=True, timeout=TIMEOUT_S)
    said = [line for line in run.stdout.splitlines() if "INFO" not in line and "WARNING" not in line]
    answers = demo.answers()
    assert said[:2] == [answers["What is LoRA?"], answers["What is vLLM?"]]
    assert re.fullmatch(r"sure=(True|False) choice='(yes|no)'", said[2])
    assert said[3] == demo.answers("pirate")["What is LoRA?"]


def test_quantized(tmp_path: Path) -> None:
    """Both ways of a checkpoint, and at load; a processor that cannot compute the checkpoint is told."""
    make_awq(demo.MODEL_DIR, tmp_path / "awq")
    run = _run(f"""
from serving import offline
from serving.errors import ConfigError
for name, keywords in [("demo", dict(quantization="fp8")), ({str(tmp_path / "awq")!r}, dict()),
                       ({str(tmp_path / "awq")!r}, dict(quantization="awq"))]:
    try:
        with offline.load(name, max_model_len=512, **keywords) as model:
            print(model({QUESTION!r}, temperature=0, max_tokens=40))
    except ConfigError as error:
        print("refused:", error)
""")
    said = [line for line in run.stdout.splitlines() if line == ANSWER or line.startswith("refused:")]
    assert said[0] == ANSWER, run.stderr
    assert len(said) == 3, run.stderr
    assert all(one == ANSWER if HAS_KERNEL else REFUSAL in one for one in said[1:]), said


def test_outlines() -> None:
    """The library's own way without a server, on our engine."""
    example = ROOT / "examples" / "clients" / "outlines_offline.py"
    run = subprocess.run([sys.executable, example], capture_output=True, text=True, timeout=TIMEOUT_S)
    lines = dict(line.split(": ", 1) for line in run.stdout.splitlines() if re.match("[a-z]+: ", line))
    answers = demo.answers()
    assert lines["text"] == answers["What is LoRA?"], run.stderr
    assert re.fullmatch(r"sure=(True|False) choice='(yes|no)'", lines["json"])
    assert lines["choice"] in ("yes", "no")
    assert re.fullmatch("2026-0[1-9]-[12][0-9]", lines["regex"])
    assert lines["batch"] == str([[answers["What is LoRA?"]], [answers["What is vLLM?"]]])
    assert lines["adapter"] == demo.answers("pirate")["What is LoRA?"]


def _run(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=TIMEOUT_S)
