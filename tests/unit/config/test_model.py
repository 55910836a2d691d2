# SPDX-License-Identifier: Apache-2.0
"""Where the model comes from, how the endpoint is called, and which places are refused."""

from pathlib import Path

import pytest

from serving.config.host import Host
from serving.config.resolve import ResolvedConfig, resolve
from serving.errors import ConfigError

pytestmark = pytest.mark.pure
WAYS = "; give a model: lmi serve MODEL, or HF_MODEL_ID=MODEL, or option.model_id=MODEL in serving.properties"


def resolved(root: Path, argv: list[str] | None = None, files: tuple[str, ...] = (), **env: str) -> ResolvedConfig:
    """The configuration of a machine with these files; what follows `=` in a path is its content."""
    for path, _, content in (file.partition("=") for file in (*files, "/demo/config.json")):
        (root / path[1:]).parent.mkdir(parents=True, exist_ok=True)
        (root / path[1:]).write_text(content)
    return resolve(env, argv or [], Host(root=root), Path("/demo"))


def problem(root: Path, argv: list[str], files: tuple[str, ...] = (), **env: str) -> tuple[str, str]:
    """Kind and text of the one reason why such a machine does not start."""
    with pytest.raises(ConfigError) as raised:
        resolved(root, argv, files, **env)
    (found,) = raised.value.problems
    return found.kind, str(found)


@pytest.mark.parametrize(
    ("argv", "env", "model", "name", "directory"),
    [
        (["org/m-7.1b"], {}, "org/m-7.1b", "org_m_7_1b", None),
        (["/models/my-llm"], {}, "/models/my-llm", "my_llm", "/models/my-llm"),
        (["--model", "org/m"], {}, "org/m", "org_m", None),
        (["-m", "org/m"], {}, "org/m", "org_m", None),
        (["-m", "my-name=org/m"], {}, "org/m", "my-name", None),
        (["-m", "[my-name:1:Python:*]=file:///models/my-llm"], {}, "/models/my-llm", "my-name", "/models/my-llm"),
        (["--demo"], {}, "/demo", "demo", "/demo"),
        (["--config", "/c.yaml"], {}, "/models/my-llm", "my_llm", "/models/my-llm"),
        ([], {"HF_MODEL_ID": "/models/my-llm"}, "/models/my-llm", "my_llm", "/models/my-llm"),
        ([], {"OPTION_MODEL_ID": "/models/my-llm"}, "/models/my-llm", "my_llm", "/models/my-llm"),
        ([], {"OPTION_model_id": "org/m"}, "org/m", "org_m", None),
        (["-s", "/models/my-llm"], {}, "/models/my-llm", "my_llm", "/models/my-llm"),
        (["-s", "/models/my-llm"], {"HF_MODEL_ID": "org/m"}, "org/m", "my_llm", "/models/my-llm"),
        (["-s", "/models"], {}, "/models/my-llm", "my_llm", "/models/my-llm"),
        (["-s", "/models"], {"OPTION_MODEL_ID": "org/m"}, "org/m", "models", "/models"),
        # The stronger source first, the weaker ones beside it.
        (["org/m"], {"HF_MODEL_ID": "org/x", "SERVING_MODEL_STORE": "/models"}, "org/m", "org_m", None),
        (["org/m", "--config", "/c.yaml"], {}, "org/m", "org_m", None),
        (["/models/my-llm"], {"HF_MODEL_ID": "org/x"}, "/models/my-llm", "my_llm", "/models/my-llm"),
        (["--config", "/c.yaml"], {"HF_MODEL_ID": "org/x"}, "/models/my-llm", "my_llm", "/models/my-llm"),
        ([], {"HF_MODEL_ID": "org/m", "OPTION_MODEL_ID": "org/x"}, "org/m", "org_m", None),
    ],
)
def test_sources_of_the_model(
    tmp_path: Path, argv: list[str], env: dict[str, str], model: str, name: str, directory: str | None
) -> None:
    files = ("/models/my-llm/config.json", "/c.yaml=model: /models/my-llm")
    config = resolved(tmp_path, argv, files, **env)
    assert config.vllm_arguments["model"] == model
    assert config.served_model_names == ["lmi", model]
    assert config.model_name == name
    assert config.model_dir == (None if directory is None else tmp_path / directory[1:])
    assert config.warnings == []


def test_clients_may_name_the_model_as_the_user_did(tmp_path: Path) -> None:
    config = resolved(tmp_path, ["/models/x/../my-llm/"], ("/models/my-llm/config.json",))
    assert config.vllm_arguments["model"] == "/models/my-llm"
    assert config.served_model_names == ["lmi", "/models/x/../my-llm/"]
    assert config.model_name == "my_llm"


@pytest.mark.parametrize(
    ("argv", "env"), [(["/models/m"], {}), ([], {"HF_MODEL_ID": "/models/m"}), (["-s", "/models/m"], {})]
)
def test_file_beside_the_model_may_name_another(tmp_path: Path, argv: list[str], env: dict[str, str]) -> None:
    config = resolved(tmp_path, argv, ("/models/m/serving.properties=option.model_id=org/base",), **env)
    assert (config.vllm_arguments["model"], config.model_name) == ("org/base", "m")


def test_file_beside_the_model_does_not_replace_a_hub_id(tmp_path: Path) -> None:
    files = ("/store/serving.properties=option.model_id=org/other",)
    assert resolved(tmp_path, ["org/m"], files, SERVING_MODEL_STORE="/store").vllm_arguments["model"] == "org/m"


@pytest.mark.parametrize(
    ("argv", "files", "kind", "text"),
    [
        ([], (), "NOT_FOUND", "no model" + WAYS),
        (["-s", "/none"], (), "NOT_FOUND", "no model: the model store '/none' is empty or missing" + WAYS),
        (["/none"], (), "NOT_FOUND", "directory '/none' does not exist (positional argument)" + WAYS),
        (["/file"], ("/file",), "NOT_FOUND", "directory '/file' is not a directory (positional argument)" + WAYS),
        (["a/b/c"], (), "NOT_FOUND", "model directory 'a/b/c' does not exist (positional argument)" + WAYS),
        (["gs://b/p"], (), "NOT_FOUND", "model directory 'gs://b/p' does not exist (positional argument)" + WAYS),
        (["a", "-m", "b"], (), "CONFLICT",
         "more than one model: 'a' (positional argument) and 'b' (command line -m); one server serves one model"),
        (["-s", "/two"], ("/two/a/x", "/two/b/x"), "UNSUPPORTED",
         "the model store '/two' holds 2 models: a, b; one server serves one model"),
        (["-s", "/m"], ("/m/serving.properties=option.model_id=/gone",), "NOT_FOUND",
         "model directory '/gone' does not exist (serving.properties line 1)" + WAYS),
    ],
)  # fmt: skip
def test_places_that_are_refused(tmp_path: Path, argv: list[str], files: tuple[str, ...], kind: str, text: str) -> None:
    assert problem(tmp_path, argv, files) == (kind, text)


def test_empty_directory_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    expected = ("NOT_FOUND", "directory '/empty' is empty (HF_MODEL_ID)" + WAYS)
    assert problem(tmp_path, [], HF_MODEL_ID="/empty") == expected


def test_store_with_a_hidden_entry_is_the_model_itself(tmp_path: Path) -> None:
    config = resolved(tmp_path, ["-s", "/store"], ("/store/a/x", "/store/.cache/x"))
    assert (config.vllm_arguments["model"], config.model_name) == ("/store", "store")


def test_empty_directories_in_a_store_do_not_count(tmp_path: Path) -> None:
    (tmp_path / "store/empty").mkdir(parents=True)
    assert resolved(tmp_path, ["-s", "/store"], ("/store/a/x",)).vllm_arguments["model"] == "/store/a"


def test_relative_path_and_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "work/m").mkdir(parents=True)
    (tmp_path / "work/m/config.json").touch()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("HOME", str(tmp_path))
    for text in ("./m", "m", "../work/m", "~/work/m"):
        config = resolve({}, [text], Host(), tmp_path)
        assert (config.vllm_arguments["model"], config.model_name) == (str(tmp_path / "work/m"), "m")


def test_link_keeps_its_name(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("target")
    assert resolved(tmp_path, ["/link"], ("/target/config.json",)).model_name == "link"


@pytest.mark.parametrize(
    ("files", "env", "warning"),
    [
        (("/a/x", "/b/x"), {"SERVING_MODEL_STORE": "/b"},
         "SERVING_MODEL_STORE=/b wins over the flag -s /a, as in LMI"),
        ((), {"HF_MODEL_ID": "org/m"}, "the model store '/a' does not exist"),
    ],
)  # fmt: skip
def test_warnings_about_the_store(tmp_path: Path, files: tuple[str, ...], env: dict[str, str], warning: str) -> None:
    assert resolved(tmp_path, ["-s", "/a"], files, **env).warnings == [warning]


@pytest.mark.parametrize(
    ("argv", "files", "env", "revision", "num_warnings"),
    [
        ([], (), {"HF_MODEL_ID": "org/m"}, "r1", 0),
        (["-s", "/s"], ("/s/serving.properties",), {"HF_MODEL_ID": "org/m"}, "r1", 0),
        ([], (), {"HF_MODEL_ID": "org/m", "OPTION_REVISION": "r2"}, "r1", 0),
        (["org/m"], (), {}, None, 1),
        ([], ("/m/x",), {"HF_MODEL_ID": "/m"}, None, 1),
        ([], ("/m/x",), {"HF_MODEL_ID": "/m", "OPTION_REVISION": "r2"}, "r2", 1),
        (["-s", "/s"], ("/s/serving.properties=option.model_id=org/a",), {"HF_MODEL_ID": "org/m"}, None, 2),
    ],
)
def test_revision_of_the_hub_id(
    tmp_path: Path,
    argv: list[str],
    files: tuple[str, ...],
    env: dict[str, str],
    revision: str | None,
    num_warnings: int,
) -> None:
    config = resolved(tmp_path, argv, files, HF_REVISION="r1", **env)
    assert config.vllm_arguments["revision"] == revision
    assert len(config.warnings) == num_warnings
    assert all("HF_" in warning for warning in config.warnings)
