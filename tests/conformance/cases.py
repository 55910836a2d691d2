# SPDX-License-Identifier: Apache-2.0
"""Golden cases as data, one YAML file per contract; ids are the contract's own and repeat between contracts.

A case that we answer differently stays, with the reason in `deviation`. `engines` says which engines a case runs on, or
which test of its own it has.
A row that needs a part that does not exist yet is there with `not_built`, the name of that part.
A row `after` another one begins with its requests, on a server as fresh as its own; `cleanup` ends both.
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
    not_built: str = ""
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
                given=_given(row, {str(other["id"]): other for other in rows}),
                expect=row.get("expect", {}),
                not_built=row.get("not_built", ""),
                deviation=row.get("deviation", ""),
                engines=tuple(row.get("engines", ("fake", "real"))),
            )
            for row in rows
        ]
        assert all(bool(case.not_built) != bool(case.given or case.expect) for case in cases), path.name
        assert len({case.id for case in cases}) == len(cases), f"{path.name} repeats an id"
        found[path.stem] = cases
    return found


def _given(row: dict[str, Any], rows: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What a row is given: its own, or steps where there is something before or behind it."""
    if not {"after", "cleanup", "save"} & row.keys():
        return row.get("given", {})
    lineage = [row]
    while "after" in lineage[0]:
        lineage.insert(0, rows[lineage[0]["after"]])
    steps = [step for one in lineage for step in one["given"].get("steps", [one])]
    cleanup = [step for one in reversed(lineage) for step in one.get("cleanup", [])]
    return {"steps": steps, "cleanup": cleanup}


def cases(contract: str, engine: str | None = None, mode: str | None = None) -> list[Case]:
    """The cases of one contract that can run; those of one kind of engine, or one of LMI's modes, if it is named."""
    built = [case for case in contracts()[contract] if not case.not_built]
    return [
        case
        for case in built
        if (engine is None or engine in case.engines) and (mode is None or mode == case.given.get("mode", "async"))
    ]
