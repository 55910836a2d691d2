# SPDX-License-Identifier: Apache-2.0
"""The contract of the adapter routes, on a stand-in for the engine."""

from pathlib import Path

import pytest

from tests.conformance.adapters import check_steps
from tests.conformance.cases import Case, cases
from tests.custom import serving

pytestmark = pytest.mark.pure


@pytest.mark.parametrize("case", cases("http", "adapters"), ids=str)
async def test_case(case: Case, tmp_path: Path, record_property) -> None:
    record_property("case", (case.contract, case.id, bool(case.deviation)))
    files = {f"{name}/adapter_config.json": "{}" for name in ("adapters/a1", "adapters/a2", "third")}
    async with serving(tmp_path, files, {"option.enable_lora": "true"}) as server:
        values = {
            "model": tmp_path.name,
            "a1": "a1",
            "a2": "a2",
            "a1_dir": str(tmp_path / "adapters/a1"),
            "dir": str(tmp_path / "third"),
        }
        await check_steps(case, server.client, values)
