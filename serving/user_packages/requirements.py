# SPDX-License-Identifier: Apache-2.0
"""A model's `requirements.txt`: what it asks for, whether that is there already, and which line a failure is about.

Only plain requirements are understood here; addresses, paths, extras and included files are the installer's business.
"""

import hashlib
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple


class Line(NamedTuple):
    """A line that asks for something, without its comment."""

    number: int
    text: str

    @property
    def name(self) -> str:
        """What an installer calls it: the last part of a path, address or option, else the distribution."""
        if re.search(r"^-|/", self.text):
            return normalized(re.split(r"[/\s=]", self.text)[-1])
        return normalized(re.split(r"[^\w.-]", self.text)[0])


class Requirements(NamedTuple):
    """What a model asks for; without lines, nothing."""

    file: Path
    lines: list[Line]

    @classmethod
    def read(cls, model_dir: Path | None) -> "Requirements":
        """Those of `model_dir`, which may have none."""
        file = Path(model_dir or "/", "requirements.txt").absolute()
        texts = file.read_text("utf-8-sig", "replace").splitlines() if model_dir and file.is_file() else []
        lines = [Line(number, re.sub(r"(^|\s)#.*", "", text).strip()) for number, text in enumerate(texts, 1)]
        # Other options are settings of the installer.
        return cls(file, [line for line in lines if re.match(r"[^-]|-[er]|--(editable|requirement)\b", line.text)])

    def are_satisfied(self) -> bool:
        """This process can import all of it; False where only an installer can tell."""
        return all(_is_satisfied(line.text) for line in self.lines)

    def fingerprint(self, *circumstances: str) -> str:
        """Changes with the file, with what it may include, with the wheels beside it and with the circumstances."""
        folder, parts = self.file.parent, [str(self.file), *circumstances]
        if self.lines:
            parts.append(self.file.read_text("utf-8", "replace"))
            files = {*folder.glob("*.txt"), *folder.rglob("*.whl"), *folder.glob("requirements/*")}
            stats = [(path, path.stat()) for path in sorted(files) if path.is_file()]
            parts += [f"{path} {stat.st_size} {stat.st_mtime_ns}" for path, stat in stats]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]

    def rejected_line(self, reason: str, stdout: str) -> Line | None:
        """The line that an installer's error is about: by its number, else the one that is named first."""
        # pip does not name what cannot be built, but that is what it looked at last.
        where, file = stdout if "subprocess-exited-with-error" in reason else reason, re.escape(str(self.file))
        if numbers := re.findall(rf"-r {file} \(line (\d+)\)|line (\d+) of {file}", where):
            return next((line for line in self.lines if str(line.number) in numbers[-1]), None)
        said = normalized(reason)
        found = [(re.search(rf"(?<![\w-]){re.escape(line.name)}(?!-?\w)", said), line) for line in self.lines]
        return min([(match.start(), line) for match, line in found if match and line.name], default=(0, None))[1]


def _is_satisfied(text: str) -> bool:
    from packaging.requirements import InvalidRequirement, Requirement

    try:
        asked = Requirement(text)
        if asked.marker and not asked.marker.evaluate():
            return True
        return not (asked.url or asked.extras) and asked.specifier.contains(version(asked.name), prereleases=True)
    except (InvalidRequirement, PackageNotFoundError):
        return False


def normalized(name: str) -> str:
    """A distribution's name as packaging tools compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()
