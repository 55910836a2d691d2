# SPDX-License-Identifier: Apache-2.0
"""Golden cases as data, one YAML file per contract; ids are the contract's own and repeat between contracts.

A case that we answer differently stays, with the reason in `deviation`. `engines` says which engines a case runs on.
"""

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml

DATA = Path(__file__).parent / "data"


@dataclass(frozen=True)
class Case:
    """One row of a contract."""

    contract: str
    id: str
    given: dict[str, Any]
    expect: dict[str, Any]
    deviation: str = ""
    engines: tuple[str, ...] = field(default=("fake", "real"))

    def __str__(self) -> str:
        return f"{self.contract}-{self.id}"


@cache
def contracts() -> dict[str, list[Case]]:
    """Contract name to its cases, in the order of the files."""
    found: dict[str, list[Case]] = {}
    for path in sorted(DATA.glob("*.yaml")):
        rows = yaml.safe_load(path.read_text("utf-8"))
        cases = [
            Case(
                contract=path.stem,
                id=str(row["id"]),
                given=row["given"],
                expect=row["expect"],
                deviation=row.get("deviation", ""),
                engines=tuple(row.get("engines", ("fake", "real"))),
            )
            for row in rows
        ]
        assert len({case.id for case in cases}) == len(cases), f"{path.name} repeats an id"
        found[path.stem] = cases
    return found


def cases(contract: str, engine: str | None = None) -> list[Case]:
    """The cases of one contract, those that run on one kind of engine if it is named."""
    return [case for case in contracts()[contract] if engine is None or engine in case.engines]
