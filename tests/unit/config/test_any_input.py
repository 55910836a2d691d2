# SPDX-License-Identifier: Apache-2.0
"""Whatever stands in files and variables, a start ends in a configuration or in problems with an origin."""

import os
import re
from pathlib import Path

import javaproperties
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from serving import demo
from serving.config import past
from serving.config.host import Host
from serving.config.options import ServerSettings, options
from serving.config.resolve import resolve
from serving.config.sources import from_properties
from serving.config.vllm_arguments import arguments
from serving.errors import ConfigError, Problem

pytestmark = pytest.mark.pure
KEYS = sorted(
    {row.key for row in options().values()}
    | {f"option.{name}" for name in [*arguments(), *past.IGNORED, *past.REPLACED]}
    | {"engine", "option.nobody_knows"}
)
VARIABLES = sorted(
    {f"OPTION_{key.removeprefix('option.').upper()}" for key in KEYS if key.startswith("option.")}
    | {f"SERVING_{name.upper()}" for name in ServerSettings.model_fields}
    | {"HF_MODEL_ID", "HF_REVISION", "HF_TASK", "SM_NUM_GPUS", "TENSOR_PARALLEL_DEGREE", "ENABLE_CUDA_GRAPHS"}
    | {"SAGEMAKER_MAX_PAYLOAD_IN_MB", "SAGEMAKER_NUM_MODEL_WORKERS", "SAGEMAKER_BIND_TO_PORT", "PREDICT_TIMEOUT"}
)
WORDS = ["true", "False", "0", "-1", "1", "2", "64.0", "1e400", "8k", "max", "auto", "none", "None", "null", "", " "]
WORDS += ["{}", "[]", "[1, 2]", '{"a": 1}', "{'a': [1]}", "a,b", "s3://b/p", "http://x", "unix:/s", "/", "~", "a=b"]
TEXTS = st.sampled_from(WORDS) | st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)
SOME = settings(
    max_examples=int(os.environ.get("LMI_TEST_EXAMPLES", "400")),
    deadline=None,
    derandomize="LMI_TEST_EXAMPLES" not in os.environ,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
"""The same examples in each run; `LMI_TEST_EXAMPLES=20000` tries others."""


def checked(env: dict[str, str], file: str, tmp_path: Path) -> None:
    """Ends in a configuration, or in problems that say what is wrong."""
    (tmp_path / "store").mkdir(exist_ok=True)
    (tmp_path / "store/serving.properties").write_text(file, "utf-8")
    host = Host(device_count=1, root=tmp_path, fetch=lambda url, directory: tmp_path / "store")
    try:
        resolve({"SERVING_MODEL_STORE": "/store", **env}, [], host, demo.MODEL_DIR)
        problems: tuple[Problem, ...] = (Problem("none", "none"),)
    except ConfigError as error:
        problems = error.problems
    assert problems
    assert all(problem.kind and problem.text for problem in problems)


@SOME
@given(st.dictionaries(st.sampled_from(KEYS), TEXTS, max_size=8))
@example({"option.model_id": "org/m", "option.chat_template": "\x00"})
def test_any_file(tmp_path: Path, values: dict[str, str]) -> None:
    checked({}, javaproperties.dumps({"option.model_id": "org/m"} | values, timestamp=None), tmp_path)


@SOME
@given(st.dictionaries(st.sampled_from(VARIABLES), TEXTS, max_size=8))
def test_any_variables(tmp_path: Path, values: dict[str, str]) -> None:
    checked(values, "option.model_id=org/m\n", tmp_path)


@SOME
@given(st.binary(max_size=200) | st.text("a=:# \\\n\r\t\fu0gé{}\"'.", max_size=60).map(lambda text: text.encode()))
@example(b"a=\\u12G4")
@example(b"\xff\xfe=\x00")
def test_any_bytes(tmp_path: Path, data: bytes) -> None:
    """The reader parses, or says in which line it cannot."""
    path = tmp_path / "serving.properties"
    path.write_bytes(data)
    try:
        settings_found = from_properties(path, [])
    except ConfigError as error:
        settings_found, problems = [], error.problems
    else:
        problems = ()
    assert {problem.kind for problem in problems} <= {"PROPS_SYNTAX", "CONFLICT"}
    origins = [one.origin for one in (*settings_found, *problems)]
    assert all(re.match(r"serving\.properties line \d+", origin) for origin in origins)


@SOME
@given(st.dictionaries(st.text(min_size=1, max_size=8), st.text(max_size=20), max_size=6))
def test_what_java_writes_is_read(tmp_path: Path, values: dict[str, str]) -> None:
    """Keys and values come back as they were, but for blanks at the end of a value."""
    path = tmp_path / "serving.properties"
    path.write_text(javaproperties.dumps({f"x{key}": text for key, text in values.items()}, timestamp=None), "latin-1")
    found = {setting.name: setting.text for setting in from_properties(path, [])}
    assert found == {f"x{key}": text.rstrip() for key, text in values.items()}
