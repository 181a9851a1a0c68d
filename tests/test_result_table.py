"""Result tables out of finished cells: what is averaged over what, hard and soft apart."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import table
import yaml

from raydistill.config import load
from raydistill.evaluation.score import packed
from raydistill.methods.resolve import resolve
from raydistill.report.scores import FULL
from raydistill.tune import cells
from raydistill.tune.cells import Cell, Row


def arguments(out: Path, **more: Any) -> argparse.Namespace:
    base = {"out": out, "methods": ["random"], "protocols": ["hard"], "ipc": [10], "seeds": [0, 1], "full": 0,
            "metrics": [], "variants": {}, "training_seeds": 1, "flow": None,
            "full_epochs": None, "across": False}  # fmt: skip
    return argparse.Namespace(**base | more)


def write(args: argparse.Namespace, method: str, seed: int, rows: list[tuple[str, float, float]],
          protocol: str = "hard", ipc: int = 10, labels: int = 0, loss: float = 0.0,
          tested: tuple[int, ...] = (), right: tuple[tuple[int, ...], ...] = ()) -> None:  # fmt: skip
    """`right` of `tested` images of each class are right, a row a training."""
    teacher = {"architecture": "squeezenet1_0", "accuracy": 0.947} if labels else None
    cell = {
        "seed": seed,
        "rows": [
            {"student": s, "training_seed": i, "last": last, "best": best, "loss": [[64, loss or 0.1 * seed]]}
            | ({"tested": tested, "right": packed(answers(tested, right[i]))} if right else {})
            for i, (s, last, best) in enumerate(rows)
        ],
        "images": 100, "bytes": {"images": 2_000_000, "labels": labels}, "teacher": teacher,
        "protocol_name": f"{protocol} x0.1, 64 px",
    }  # fmt: skip
    cells.write(Cell(Row(method, ()), ipc, seed, protocol).path(args.out), cell)


def answers(tested: tuple[int, ...], right: tuple[int, ...]) -> np.ndarray:
    return np.concatenate([np.arange(n) < k for n, k in zip(tested, right, strict=True)])


def test_generation_seeds_are_what_the_deviation_is_over(tmp_path: Path) -> None:
    """Means over training seeds 40 and 44: 42 ± 2.8, however far apart the training seeds are."""
    args = arguments(tmp_path / "cells")
    write(args, "random", 0, [("convnet", 0.30, 0.5), ("convnet", 0.50, 0.5)])
    write(args, "random", 1, [("convnet", 0.44, 0.5), ("convnet", 0.44, 0.5)])
    text = table.summary(args)
    assert "| 10 | random | 100 | 2,000 | 42.0 ± 2.8 | [12.4, 63.2] | – | 50.0 ± 0 | – | 2 gen" in plain(text)
    assert "| 2 generation x 2 training seeds |" in text
    assert text.startswith("Protocol hard x0.1, 64 px; hard labels; student convnet.")


def test_every_pair_of_rows_has_its_interval_below_the_table(tmp_path: Path) -> None:
    args = arguments(tmp_path / "cells", methods=["mgd3", "dit"], seeds=[0, 1, 2])
    for seed, (a, b) in enumerate(((0.50, 0.40), (0.52, 0.42), (0.51, 0.40))):
        write(args, "mgd3", seed, [("convnet", a, a)])
        write(args, "dit", seed, [("convnet", b, b)])
    text = table.summary(args)
    assert text.index("| 10 | dit |") < text.index("Differences at ipc 10, in points:")
    assert "| mgd3 − dit | 10.3 | [" in text and "| 1.00 | 0.001 | 3 | 5 here | better (on these test images) |" in text


def test_a_set_that_no_seed_changes_is_one_training_and_not_three(tmp_path: Path) -> None:
    """k-means at IPC 1: the same images by every seed, and so the same training."""
    args = arguments(tmp_path / "cells", methods=["kmeans", "random"], seeds=[0, 1, 2])
    for seed, last in enumerate((0.10, 0.11, 0.15)):
        write(args, "kmeans", seed, [("convnet", 0.137, 0.137)], loss=0.7)
        write(args, "random", seed, [("convnet", last, last)])
    text = table.summary(args)
    assert "| kmeans | 100 | 2,000 | 13.7 | – | – | 13.7 | – | 1 training seed |" in text
    assert "one pair of trainings" in text and "cannot be told apart" not in text


def test_full_data_is_over_training_seeds(tmp_path: Path) -> None:
    args = arguments(tmp_path / "cells", full=2)
    write(args, "full data", 0, [("convnet", 0.5, 0.6), ("convnet", 0.7, 0.8)])
    line = "| full data | 100 | 2,000 | 60.0 ± 14.1 | [−67.1, 187.1] | – | 70.0 ± 14.1 | – | 2 training seeds |"
    assert line in plain(table.summary(args))


def test_soft_labels_are_a_table_of_their_own_with_their_bytes_and_teacher(tmp_path: Path) -> None:
    args = arguments(tmp_path / "cells", protocols=["hard", "fkd"], seeds=[0])
    for protocol, labels in (("hard", 0), ("fkd", 500_000)):
        write(args, "random", 0, [("convnet", 0.4, 0.4)], protocol, labels=labels)
    hard, soft = table.summary(args).split("\n\nProtocol ")
    assert "| 2,000 |" in hard and "| 2,500 |" in soft
    assert "fkd x0.1, 64 px; soft labels by squeezenet1_0 (94.7 % itself);" in soft and "squeezenet" not in hard


def test_several_students_have_a_mean_and_a_worst(tmp_path: Path) -> None:
    """The worst of each generation seed, then the mean: (20 + 30) / 2."""
    args = arguments(tmp_path / "cells")
    write(args, "random", 0, [("convnet", 0.4, 0.4), ("vgg11", 0.2, 0.2)])
    write(args, "random", 1, [("convnet", 0.3, 0.3), ("vgg11", 0.5, 0.5)])
    text = table.summary(args)
    assert "| convnet | vgg11 | mean | worst | over |" in text
    assert "| random | 100 | 2,000 | 35.0 ± 7.1 | 35.0 ± 21.2 | 35.0 ± 7.1 | 25.0 ± 7.1 | 2 generation x 1" in text


def test_several_students_have_a_mean_over_classes_where_it_is_known(tmp_path: Path) -> None:
    """(90 + 50) / 2 of one and (70 + 30) / 2 of the other."""
    args = arguments(tmp_path / "cells", methods=["random", "kmeans"], seeds=[0])
    rows = [("convnet", 0.7, 0.7), ("vgg11", 0.5, 0.5)]
    write(args, "random", 0, rows, tested=(10, 10), right=((9, 5), (7, 3)))
    write(args, "kmeans", 0, rows, loss=0.3)
    text = table.summary(args)
    assert "| convnet | vgg11 | mean | worst | mean a class | over |" in text
    assert "| random | 100 | 2,000 | 70.0 | 50.0 | 60.0 | 50.0 | 60.0 | 1 training seed |" in text
    assert "| kmeans | 100 | 2,000 | 70.0 | 50.0 | 60.0 | 50.0 | – | 1 training seed |" in text


class TestUneven:
    """80 and 20 test images: mgd3 knows the large class and random images teach the small one."""

    @pytest.mark.parametrize("across", [False, True])
    @pytest.mark.parametrize("tested", [(80, 20), (50, 50)])
    def test_test_classes_are_compared_over_classes(
        self, tmp_path: Path, tested: tuple[int, int], across: bool
    ) -> None:
        args = arguments(tmp_path / "cells", methods=["mgd3", "random"], across=across)
        for seed in (0, 1):
            write(args, "mgd3", seed, [("convnet", 0.74, 0.74)], tested=tested, right=((45 + seed, 2),))
            write(args, "random", seed, [("convnet", 0.68, 0.68)], tested=tested, right=((40, 12 + seed),))
        text, uneven = plain(table.summary(args)), tested[0] > tested[1]
        if across:
            assert ("last accuracy a class" if uneven else "last top-1") in text
            assert ("| mgd3 | 33.4 [" if uneven else "| mgd3 | 74.0 [") in text
        else:
            assert ("random − mgd3 (a class) | 22.8 |" in text) is uneven
            assert f"mgd3 − random{' (an image)' if uneven else ''} | 6.0 |" in text


def test_what_is_not_there_yet_is_left_out(tmp_path: Path) -> None:
    args = arguments(tmp_path / "cells", methods=["kmeans", "random"], ipc=[1, 10], seeds=[0])
    write(args, "random", 0, [("convnet", 0.4, 0.4)], ipc=1)
    lines = [line for line in table.summary(args).splitlines() if line.startswith("| 1")]
    assert len(lines) == 1 and lines[0].startswith("| 1 | random | 100 | 2,000 | 40.0 | – | – | 40.0 |")
    assert table.summary(arguments(tmp_path / "none")) == ""


def test_metrics_are_columns_and_a_dash_where_there_is_none(tmp_path: Path) -> None:
    args = arguments(tmp_path / "cells", metrics=["fid/latent", "mmd/latent"])
    for seed, fid in ((0, 10.0), (1, 14.0)):
        write(args, "random", seed, [("convnet", 0.3, 0.4)])
        path = Cell(Row("random", ()), 10, seed, "hard").path(args.out)
        path.write_text(json.dumps(json.loads(path.read_text()) | {"metrics": {"fid/latent": fid}}))
    text = table.summary(args)
    assert "| fid/latent | mmd/latent |" in text and text.rstrip().endswith("| 12 | – |")


def test_names_of_variants_are_safe_as_files(tmp_path: Path) -> None:
    rows = [Row(name, ()) for name in ("levels + manifold", "k-means", "a/../b")]
    names = {Cell(row, 10, 0, "hard").path(tmp_path).name for row in rows}
    assert names == {"ipc10-hard-levels_manifold-seed0.json", "ipc10-hard-k_means-seed0.json",
                     "ipc10-hard-a_.._b-seed0.json"}  # fmt: skip
    assert Cell(rows[1], 10, 0).path(tmp_path).name == "ipc10-k_means-seed0.json", "of one protocol"


VARIANTS = sorted(p for p in Path(table.__file__).parent.glob("*.yaml") if p.stem != "pages")


@pytest.mark.parametrize("file", VARIANTS, ids=lambda p: p.stem)
def test_every_row_of_a_file_of_variants_is_a_configuration_of_its_own_that_holds(file: Path) -> None:
    rows = yaml.safe_load(file.read_text())
    configs = [resolve(load("nette128", [*o, "ipc=10"])).config.tree() for o in rows.values()]
    assert configs and all(a != b for i, a in enumerate(configs) for b in configs[:i])


def test_a_method_without_dice_is_over_training_seeds(tmp_path: Path) -> None:
    args = arguments(tmp_path / "cells", methods=["herding"], seeds=[0, 1, 2])
    (row,) = table.rows(args)
    assert "evaluate.seeds=3" in row.overrides and row.seeds == (0,)
    write(args, "herding", 0, [("convnet", v, v) for v in (0.3, 0.4, 0.5)])
    text = table.summary(args)
    assert "40.0 ± 10.0" in text and "| 3 training seeds |" in text


def test_methods_that_sample_as_flows_do_take_the_flow() -> None:
    """A variant by the method that it overrides, whatever its name."""
    args = argparse.Namespace(flow="FLOW")
    assert table.flow(args, ["method=pgfm", "path.w_max=0"]) == ["generator.path=FLOW"]
    for name in ("mgd3", "random", FULL, "a variant"):
        assert table.flow(args, [f"method={name}"]) == []
    assert table.flow(argparse.Namespace(flow=None), ["method=pgfm"]) == []


def test_full_data_to_the_end_is_a_row_beside_that_of_as_many_visits() -> None:
    by_name = {row.name: row for row in table.rows(arguments(Path(), full=2, full_epochs=30))}
    assert "evaluate.full_epochs=30" in by_name[cells.TO_THE_END].overrides
    assert not any("full_epochs" in o for o in by_name[FULL].overrides)
    assert cells.TO_THE_END not in {row.name for row in table.rows(arguments(Path(), full=2))}


def test_the_same_sets_under_all_protocols_are_one_table(tmp_path: Path) -> None:
    args = arguments(tmp_path / "cells", methods=["random", "kmeans"], protocols=["hard", "fkd"], across=True)
    for seed in (0, 1):
        write(args, "random", seed, [("convnet", 0.4 + 0.02 * seed, 0.5)])
        write(args, "kmeans", seed, [("convnet", 0.5 + 0.02 * seed, 0.5)])
        write(args, "random", seed, [("convnet", 0.2, 0.3)], "fkd", labels=1)
    text = plain(table.summary(args))
    assert "* `fkd`: Protocol fkd x0.1, 64 px; soft labels by squeezenet1_0 (94.7 % itself); convnet." in text
    assert "| set | hard | fkd |" in text
    assert "| random | 41.0 [28.3, 53.7] | 20.0 [20.0, 20.0] |" in text and "| kmeans | 51.0 [38.3, 63.7] | – |" in text


def test_a_protocol_of_several_students_has_a_column_for_each(tmp_path: Path) -> None:
    args = arguments(tmp_path / "cells", protocols=["hard", "rded"], across=True)
    for seed in (0, 1):
        write(args, "random", seed, [("convnet", 0.4 + 0.02 * seed, 0.5)])
        write(args, "random", seed, [("convnet_bn", 0.2, 0.3), ("resnet18_bn", 0.3, 0.3)], "rded", labels=1)
    text = plain(table.summary(args))
    assert "| set | hard | rded, convnet_bn | rded, resnet18_bn |" in text
    assert "| random | 41.0 [28.3, 53.7] | 20.0 [20.0, 20.0] | 30.0 [30.0, 30.0] |" in text


def plain(text: str) -> str:
    """Without the spaces that keep an interval on one line."""
    return text.replace("\N{NO-BREAK SPACE}", " ")
