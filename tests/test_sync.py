"""What `sync` calls whole at the target is whole there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import direct
import pytest
from handmade import Handmade, SlowDisk, east, record


@pytest.mark.timeout(120)
def test_what_is_only_committed_is_not_called_whole(scratch: Path, handmade: Handmade) -> None:
    """While the target still copies the next consistency point into its data, which is slow, `sync`
    names the one before, whose time it tells."""
    disk = SlowDisk(scratch / "slow", "100ms")
    try:
        handmade.stores["west", "data"] = disk.store(handmade.size)
        handmade.create()
        handmade.start()
        said = record("sync", east(handmade))
        with handmade.client() as client:
            for block in range(0, handmade.size // 4096, 2):
                client.write(4096 * block, b"x" * 4096)
        answer: dict[str, Any] = {}

        def another_is_committed() -> bool:
            answer.update(direct.ask(handmade, {"op": "wait", "sequence": said["sequence"]}))
            return bool(answer["status"]["committed"]["sequence"] > said["sequence"])

        direct.wait_for(another_is_committed, "another commit")
        assert answer["done"] and {key: answer[key] for key in said} == said
        assert direct.status(handmade, "west")["hardened_sequence"] == said["sequence"]
    finally:
        handmade.kill()
        disk.close()
