# SPDX-License-Identifier: Apache-2.0
"""What runs users' code: real installers and interpreters, wheels made here, no index.

`server` stands for the server's interpreter in every test, so that nothing is installed into the one that runs them.
"""

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Iterator
from importlib.machinery import PathFinder
from importlib.metadata import version
from pathlib import Path
from shutil import which
from types import SimpleNamespace
from typing import Any

import pytest

from serving.errors import ConfigError, Problem
from serving.user_packages import UserPython, installer, prepare, python
from serving.user_packages.requirements import Requirements

pytestmark = pytest.mark.pure
NUMPY = f"numpy=={version('numpy')}"
PACKAGES = Path(sysconfig.get_path("purelib"))
UV = Path(sys.executable).with_name("uv")
ROOT = Path(python.__file__).parents[2]


@pytest.fixture(scope="module", autouse=True)
def packages_of_the_tests() -> Iterator[None]:
    """They stay as they are: every wheel of these tests is called `tiny` something, or numpy."""
    yield
    assert not list(PACKAGES.glob("tiny*"))
    assert version("numpy") in NUMPY


@pytest.fixture(autouse=True)
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A throw-away environment that knows pip, taken for the server's; returns the folder of its packages."""
    venv.EnvBuilder(symlinks=True).create(tmp_path / "server")
    site = site_of(tmp_path / "server")
    (site / "pip").symlink_to(PACKAGES / "pip")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "server/bin/python"))
    monkeypatch.setattr(python, "_is_writable", lambda: True)
    if UV.exists():  # the quicker one, wherever it does not matter
        only("uv", monkeypatch)
    return site


@pytest.fixture
def read_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(python, "_is_writable", lambda: False)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    return tmp_path / "model"


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """No index, no configuration of this machine, a cache of the test's own."""
    own = {"HOME": str(tmp_path / "home"), "DJL_CACHE_DIR": str(tmp_path / "cache"), "PATH": os.defpath}
    return {**own, "PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", "UV_OFFLINE": "1", "UV_NO_CONFIG": "1"}


@pytest.fixture
def other(tmp_path: Path) -> str:
    """An interpreter of the user's, without anything."""
    venv.EnvBuilder(symlinks=True).create(tmp_path / "other")
    return str(tmp_path / "other/bin/python")


def site_of(folder: Path) -> Path:
    return next(folder.glob("lib/python*/site-packages"))


def only(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hides the other installers; one of `pip`, `uv` and the `bundled` pip."""
    if not {"uv": UV, "pip": PACKAGES / "pip"}.get(name, PACKAGES).exists():
        pytest.skip(f"no {name} beside the interpreter")
    found = {"pip": ["pip"], "bundled": ["ensurepip"]}.get(name, [])

    def spec(it: str) -> object:
        return PathFinder.find_spec(it) if it in found else None

    monkeypatch.setattr("serving.user_packages.installer.PathFinder", SimpleNamespace(find_spec=spec))
    monkeypatch.setattr("shutil.which", lambda it, path="": str(UV) if name == it == "uv" else which(it, path=path))


def wheel(folder: Path, name: str, number: str, *requires: str) -> Path:
    """A wheel with one module, whose `VERSION` is `number`."""
    folder.mkdir(parents=True, exist_ok=True)
    file, info = folder / f"{name}-{number}-py3-none-any.whl", f"{name}-{number}.dist-info"
    needs = "".join(f"Requires-Dist: {text}\n" for text in requires)
    tags = "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(f"{name}.py", f"VERSION = {number!r}\n")
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {number}\n{needs}")
        archive.writestr(f"{info}/WHEEL", tags)
        archive.writestr(f"{info}/RECORD", "")
    return file


def run(model: Path | None, env: dict[str, str], text: str | None = None, **changes: Any) -> UserPython:
    if model and text is not None:
        (model / "requirements.txt").write_text(text)
    given = {"python_executable": None, "enable_venv": False, "has_worker": True, "has_formatters": False}
    return prepare(model, env=env, **{**given, "warnings": [], **changes})


def refused(model: Path, env: dict[str, str], text: str | None = None, **changes: Any) -> Problem:
    with pytest.raises(ConfigError) as caught:
        run(model, env, text, **changes)
    (problem,) = caught.value.problems
    return problem


def printed(user: UserPython, code: str) -> str:
    """What a worker's interpreter prints."""
    code = f"import sys; sys.path[1:1] = {list(user.path)!r}; {code}"
    return subprocess.check_output([user.executable, "-c", code], text=True, cwd="/").strip()


def forbid_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("a process was started"))


# Nothing to do

SATISFIED = "numpy>=1.0  # any\nNumPy\nabsent==1; python_version < '3'\n"


@pytest.mark.parametrize("text", [None, "", "# nothing\n\n", "--extra-index-url https://a/simple\n-f x\n", SATISFIED])
def test_nothing_to_do_starts_nothing(
    text: str | None, model: Path, env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    forbid_processes(monkeypatch)
    assert run(model, env, text, has_formatters=True) == UserPython(sys.executable, (), ())
    assert run(None, env) == UserPython(sys.executable, (), ())


@pytest.mark.parametrize(
    "line", ["absent", "numpy<1", "numpy[extra]", "numpy @ https://a/numpy.whl", "-e .", "-r more.txt", "./x.whl"]
)
def test_what_only_an_installer_can_tell(line: str, model: Path) -> None:
    (model / "requirements.txt").write_text(f"packaging\n{line}\n")
    assert not Requirements.read(model).are_satisfied()


# Where it is installed


@pytest.mark.parametrize("name", ["pip", "uv"])
def test_writable_packages_are_added_to(
    name: str, model: Path, env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    only(name, monkeypatch)
    wheel(model / "requirements", "tiny_a", "1", "tiny_b")
    wheel(model / "requirements", "tiny_b", "2")
    # Modules of the model do not stand in for the installer's.
    (model / "typing.py").write_text("raise SystemExit('wrong typing')")
    user = run(model, env | {"DJL_OFFLINE": "true"}, "tiny_a\n", has_formatters=True)
    assert user == UserPython(sys.executable, (), ())
    assert printed(user, "import tiny_a, tiny_b; print(tiny_a.VERSION, tiny_b.VERSION)") == "1 2"


@pytest.mark.usefixtures("read_only")
@pytest.mark.parametrize("name", ["pip", "uv"])
def test_read_only_server_gets_a_directory_with_what_it_lacks(
    name: str, model: Path, env: dict[str, str], server: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    only(name, monkeypatch)
    with zipfile.ZipFile(wheel(tmp_path, "tiny_base", "1")) as archive:
        archive.extractall(server)
    monkeypatch.syspath_prepend(server)
    wheel(model / "requirements", "tiny_a", "1", "tiny_base")
    direct = wheel(model / "wheels", "tiny_direct", "3")
    text = f"tiny-a\ntiny_base\n./wheels/{direct.name}\n"
    user = run(model, env, text, has_formatters=True)
    (folder,) = user.path
    assert user == UserPython(sys.executable, (folder,), (folder,))
    assert {path.name for path in Path(folder).glob("*.py")} == {"tiny_a.py", "tiny_direct.py"}
    with monkeypatch.context() as patch:
        forbid_processes(patch)
        assert run(model, env) == UserPython(sys.executable, (folder,), ())
        # Without a worker, nothing else than this process could use it.
        assert run(model, env, has_worker=False).api_path == (folder,)


@pytest.mark.usefixtures("read_only")
def test_changed_requirements_get_another_directory(model: Path, env: dict[str, str]) -> None:
    for number in ("1", "2"):
        wheel(model / "requirements", "tiny_a", number)
        assert printed(run(model, env, "tiny_a\n"), "import tiny_a; print(tiny_a.VERSION)") == number


@pytest.mark.parametrize(
    ("offline", "has_wheels", "expected"),
    [
        ("false", False, []),
        ("false", True, ["--find-links=WHEELS"]),
        ("TRUE", False, ["--no-deps"]),
        ("true", True, ["--find-links=WHEELS", "--no-index"]),
    ],
)
def test_offline(offline: str, has_wheels: bool, expected: list[str], model: Path) -> None:
    if has_wheels:
        (model / "requirements").mkdir()
    found = installer.sources(Requirements.read(model), {"DJL_OFFLINE": offline})
    assert [word.replace(str(model / "requirements"), "WHEELS") for word in found] == expected


@pytest.mark.usefixtures("read_only")
def test_uv_offline_with_the_wheels_of_pip(
    model: Path, env: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    only("uv", monkeypatch)
    wheel(tmp_path / "wheels", "tiny_a", "1", "not_to_be_had")
    user = run(model, env | {"DJL_OFFLINE": "true", "PIP_FIND_LINKS": f"{tmp_path}/wheels"}, "tiny_a\n")
    assert printed(user, "import tiny_a; print(tiny_a.VERSION)") == "1"


# What is refused


@pytest.mark.parametrize(
    ("text", "number", "reason"),
    [
        ("tiny_c\n\nNo.Such_thing\n", 3, "no-such-thing was not found"),
        ("tiny_c<1\ntiny_a\n", 2, "tiny-b"),
    ],
)
def test_the_rejected_line_is_named(
    text: str, number: int, reason: str, model: Path, env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    only("uv", monkeypatch)
    wheel(model / "requirements", "tiny_a", "1", "tiny_b>=2")
    wheel(model / "requirements", "tiny_c", "0")
    problem = refused(model, env, text)
    assert (problem.kind, problem.origin) == ("VALIDATION", f"requirements.txt line {number}")
    asked, explanation = problem.text.split(", which cannot be installed: ")
    assert asked == f"requirements.txt asks for {text.splitlines()[number - 1]}"
    assert reason in explanation
    assert "\n" not in explanation
    assert problem.remedy == "correct the file, or put the wheels it needs into a folder named requirements beside it"


@pytest.mark.parametrize(
    ("reason", "number"),
    [
        ("Could not find a version that satisfies the requirement tiny_b>=2 (from tiny-a) (from versions: 1)", 1),
        ("Invalid requirement: 'other = 1' (from line 2 of FILE)", 2),
        ("Could not open requirements file: [Errno 2] No such file or directory: 'absent.txt'", 3),
        ("absent.whl is not a valid wheel filename.", 4),
        ("subprocess-exited-with-error \u00d7 python setup.py egg_info did not run successfully.", 4),
        ("Cannot install -r FILE (line 5) because these package versions have conflicting dependencies.", 5),
        ("Could not find a version that satisfies the requirement Tiny (from versions: none)", 5),
        ("Could not find a version that satisfies the requirement tiny_ab (from versions: none)", None),
    ],
)
def test_what_pip_says_of_a_line(reason: str, number: int | None, model: Path) -> None:
    file = model / "requirements.txt"
    file.write_text("tiny_a\nother = 1\n-r absent.txt\n./absent.whl\ntiny\n")
    stdout = f"Collecting tiny_a (from -r {file} (line 1))\nProcessing absent.whl (from -r {file} (line 4))\n"
    line = Requirements.read(model).rejected_line(reason.replace("FILE", str(file)), stdout)
    assert (line and line.number) == number


@pytest.mark.parametrize(
    ("name", "line", "reason"),
    [
        (
            "pip",
            "tiny_a",
            "Cannot install -r FILE (line 2) because these package versions have conflicting dependencies.",
        ),
        ("uv", "numpy==1.0", "Because you require numpy==1.0 and "),
    ],
)
def test_the_servers_own_packages_stay(
    name: str, line: str, reason: str, model: Path, env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    only(name, monkeypatch)
    wheel(model / "requirements", "numpy", "1.0")
    wheel(model / "requirements", "tiny_a", "1", "numpy<2")
    wheel(model / "requirements", "tiny_c", "0")
    problem = refused(model, env, f"tiny_c\n{line}\n")
    assert problem.origin == "requirements.txt line 2"
    assert reason.replace("FILE", f"{model}/requirements.txt") in problem.text
    assert problem.remedy == f"the server runs on {NUMPY}: allow that version, or remove the line"


@pytest.mark.usefixtures("read_only")
def test_a_failed_installation_is_tried_again(model: Path, env: dict[str, str]) -> None:
    refused(model, env, "tiny_a\n")
    wheel(model / "requirements", "tiny_a", "1")
    assert printed(run(model, env), "import tiny_a; print(tiny_a.VERSION)") == "1"


def test_passwords_are_masked(model: Path, env: dict[str, str], caplog: pytest.LogCaptureFixture) -> None:
    problem = refused(model, env, "tiny_a @ http://me:secret@127.0.0.1:1/tiny_a-1-py3-none-any.whl\n")
    assert problem.text.startswith("requirements.txt asks for tiny_a @ http://****@127.0.0.1:1/tiny_a-1")
    assert "secret" not in str(problem) + caplog.text


def test_neither_pip_nor_uv(model: Path, env: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """pip comes from Python's own bundle, and without one the start ends."""
    only("bundled", monkeypatch)
    *command, pip, _ = installer._command(env)
    assert command == [sys.executable, "-P"]
    assert zipfile.ZipFile(Path(pip).parent).getinfo("pip/__main__.py")
    elsewhere = {"WHEEL_PKG_DIR": str(wheel(model.parent / "wheels", "pip", "1").parent)}
    with monkeypatch.context() as debian:
        debian.setattr("sysconfig.get_config_var", elsewhere.get)
        assert installer._command(env)[2] == f"{elsewhere['WHEEL_PKG_DIR']}/pip-1-py3-none-any.whl/pip"
    only("none", monkeypatch)
    problem = refused(model, env, "tiny_a\n")
    assert problem.text == "requirements.txt cannot be installed: the server has no pip, no uv and no ensurepip"
    assert problem.remedy == "install pip or uv beside the server"


# option.enable_venv


def test_venv(model: Path, env: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel(model / "requirements", "tiny_a", "1")
    user = run(model, env, "tiny_a\n", enable_venv=True, has_formatters=True)
    folder = Path(user.executable).parents[1]
    assert folder.parent == tmp_path / "cache/venv"
    assert (user.path, user.api_path) == ((), (str(site_of(folder)),))
    # Its own packages, and behind them the server's, under whatever name the server itself is installed.
    code = (
        "import tiny_a, djl_python, handlers.worker.child, msgspec; print(tiny_a.VERSION, msgspec.__file__, sys.prefix)"
    )
    assert printed(user, code) == f"1 {PACKAGES}/msgspec/__init__.py {folder}"
    path = printed(user, "print(*sys.path, sep='\\n')").splitlines()
    assert path.index(str(site_of(folder))) < path.index(str(PACKAGES))
    forbid_processes(monkeypatch)
    assert run(model, env, enable_venv=True) == UserPython(user.executable, (), ())


def test_venv_that_cannot_be_made(model: Path, env: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    problem = refused(model, env | {"DJL_VENV_DIR": str(tmp_path / "file")}, enable_venv=True)
    assert problem.text.startswith(f"cannot make a virtual environment in {tmp_path}/file/")
    assert problem.remedy == "set DJL_VENV_DIR to a directory that can be written"


# option.pythonExecutable


def test_interpreter_of_the_user(model: Path, env: dict[str, str], other: str) -> None:
    site = site_of(Path(other).parents[1])
    (site / "handlers/worker").mkdir(parents=True)
    for name in ("djl_python", "msgspec", "handlers/worker/child"):
        (site / f"{name}.py").touch()
    wheel(model / "requirements", "tiny_a", "1")
    wheel(model / "requirements", "numpy", "1.0")
    text = "tiny_a\nnumpy==1.0"
    user = run(model, env, text, python_executable=other)
    # Nothing of the server is pinned there; a formatter's process could not have this numpy.
    assert user == UserPython(other, (), ())
    assert printed(user, "import tiny_a, numpy; print(tiny_a.VERSION, numpy.VERSION)") == "1 1.0"
    assert refused(model, env, python_executable=other, has_formatters=True).origin == "requirements.txt line 2"


def test_interpreter_that_is_the_servers(model: Path, env: dict[str, str], server: Path) -> None:
    (server / "tests.pth").write_text(f"{PACKAGES}\n{ROOT}\n")
    wheel(model / "requirements", "numpy", "1.0")
    problem = refused(model, env, "numpy==1.0", python_executable=f"{sys.executable}3")
    assert problem.remedy.startswith(f"the server runs on {NUMPY}")


def test_interpreter_that_cannot_run_the_worker(model: Path, env: dict[str, str], other: str) -> None:
    problem = refused(model, env, python_executable=other)
    assert problem.text == (
        f"option.pythonExecutable={other!r} cannot run the handler: ModuleNotFoundError: No module named 'djl_python'"
    )
    assert problem.remedy.startswith("name an interpreter that this server is installed for")
    assert refused(model, env, python_executable="/no/python").text.endswith("No such file or directory: '/no/python'")


def test_interpreter_that_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 10, 1))
    with pytest.raises(SystemExit, match=r"it is Python 3\.10, and 3\.11 or newer is needed"):
        exec(python._WORKER_IMPORTS)


def test_settings_without_effect(model: Path, env: dict[str, str], server: Path) -> None:
    (server / "tests.pth").write_text(f"{PACKAGES}\n{ROOT}\n")
    own = sys.executable
    warnings: list[str] = []
    assert run(
        model, env, enable_venv=True, has_worker=False, python_executable="/no/python", warnings=warnings
    ) == UserPython(own)
    assert run(model, env, enable_venv=True, python_executable=own, warnings=warnings) == UserPython(own)
    assert warnings == [
        "option.pythonExecutable=/no/python has no effect: there is no handler that a worker process would run",
        "option.enable_venv has no effect: there is no handler and no formatter",
        f"option.enable_venv has no effect beside option.pythonExecutable={own}, which runs the handler",
    ]
