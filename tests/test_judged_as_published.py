"""Distilled sets as others publish them are judged: numbered folders with their order."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_foreign import find, folders, refused


class TestNumberedFolders:
    @pytest.mark.parametrize("names", [("00000", "00001", "00002"), ("new000", "new001", "new002")])
    def test_are_refused_with_a_remedy_that_works(self, tmp_path: Path, names: tuple[str, str, str]) -> None:
        mine = folders(tmp_path / "mine", names)
        line = refused(mine)
        assert f"its class {names[0]!r} is none" in line and "an order.txt beside them with a class id a line" in line
        (mine / "order.txt").write_text("n02\nn03\nn01\n")
        assert find(mine).listing.labels.tolist() == [1, 1, 2, 2, 0, 0]

    @pytest.mark.parametrize(
        ("names", "order", "why"),
        [
            (("00000", "00001", "00002"), "n01\nn02\n", "has 2 class ids, for folders numbered 0 to 1; there are 3"),
            (("00001", "00002", "00003"), "n01\nn02\nn03\n", "there are 3 from 1 to 3"),
            (("00000", "00001", "n03"), "n01\nn02\nn03\n", "and there are others"),
            (("00000", "00001", "00002"), "n01\nn02\nn02\n", "names 'n02' twice"),
            (("00000", "00001", "00002"), "n01\nn02\nn04\n", "is none of the 3 training classes"),
        ],
    )
    def test_with_an_order_that_does_not_fit(
        self, tmp_path: Path, names: tuple[str, ...], order: str, why: str
    ) -> None:
        mine = folders(tmp_path / "mine", names)
        (mine / "order.txt").write_text(order)
        assert why in refused(mine)
