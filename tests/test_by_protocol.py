"""The same sets under several protocols: what is the sets', what the protocol's, on cells whose answers are known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import by_protocol
import numpy as np
import pytest
from by_protocol import Column, compared, farthest, pairs, shown_pairs, spread, turns
from intervals import compared_by

from raydistill.report.data import Difference
from raydistill.report.wording import how_many
from raydistill.results.pairing import TrainingOutcome
from raydistill.tune.cells import TO_THE_END

NOISE = (-0.01, 0.0, 0.01)  # of three seeds: the interval of a mean is ± 2.48 points


def column(protocol: str, student: str = "convnet", /, **sets: Sequence[float]) -> Column:
    """Sets by their accuracies, one a generation seed."""
    every = {
        name.replace("_", " "): [
            TrainingOutcome(name.replace("_", " "), f"{name} {seed}", student, seed, seed, value, value)
            for seed, value in enumerate(values)
        ]
        for name, values in sets.items()
    }
    return Column(protocol, protocol, student, every)


def around(mean: float, noise: Sequence[float] = NOISE) -> list[float]:
    return [mean + n for n in noise]


def test_a_set_is_moved_by_the_difference_of_the_protocols_that_lie_farthest_apart() -> None:
    """Means 40, 25 and 31: the second and the first, 15 points."""
    columns = [
        column("hard", random=around(0.40)),
        column("fkd", random=around(0.25)),
        column("rd3", random=[0.31] * 3),
    ]
    found = spread(columns, "random")
    assert found is not None and (found.highest, found.lowest) == ("hard", "fkd")
    assert found.difference.mean == pytest.approx(0.15) and found.difference.pairs == 3


def test_the_spread_of_a_set_is_paired_by_seeds() -> None:
    """Seeds go up and down by a point: together under both protocols, or the one up where the other goes down."""
    hard = column("hard", random=around(0.40))
    together = spread([hard, column("fkd", random=[0.241, 0.25, 0.259])], "random")
    apart = spread([hard, column("fkd", random=[0.259, 0.25, 0.241])], "random")
    assert together is not None and apart is not None
    for moved, half in ((together, 0.0025), (apart, 0.047)):  # 4.30 standard errors
        assert moved.difference.low is not None and moved.difference.high is not None
        assert (moved.difference.high - moved.difference.low) / 2 == pytest.approx(half, rel=0.02)


def test_seeds_that_one_protocol_lacks_are_left_out_of_a_spread() -> None:
    columns = [column("hard", random=[0.4, 0.5, 0.9]), column("fkd", random=[0.3, 0.4])]
    found = spread(columns, "random")
    assert found is not None and found.difference.mean == pytest.approx(0.1) and found.difference.pairs == 2
    assert spread([columns[0], column("fkd", kmeans=[0.3, 0.4])], "random") is None


def test_the_error_of_the_test_images_is_known_between_protocols_too() -> None:
    """Of 100 images 60 are right under the one and 40 of these under the other."""

    def tested(right: int, seed: int) -> TrainingOutcome:
        answers = np.arange(100) < right
        return TrainingOutcome("mgd3", str(seed), "convnet", seed, seed, right / 100, right / 100, answers=(answers,))

    columns = [
        Column(p, p, "convnet", {"mgd3": [tested(right + seed, seed) for seed in range(2)]})
        for p, right in (("hard", 60), ("fkd", 40))
    ]
    found = spread(columns, "mgd3")
    assert found is not None and found.difference.low == pytest.approx(0.2, abs=0.05)
    assert found.difference.tested_low is not None and found.difference.low is not None
    assert found.difference.tested_low < found.difference.low


def test_uneven_test_classes_are_compared_over_classes() -> None:
    """40 and 30 points by the images, 10 and 50 by the mean over classes: it is the other protocol that is ahead."""
    columns = [
        Column(p, p, "convnet", {"a": [TrainingOutcome("a", p, "convnet", 0, 0, top1, a_class)]}, "balanced")
        for p, top1, a_class in (("hard", 0.4, 0.1), ("fkd", 0.3, 0.5))
    ]
    moved = spread(columns, "a")
    assert moved is not None and (moved.highest, moved.difference.mean) == ("fkd", pytest.approx(0.4))
    assert "| a | 10.0 – | 50.0 – |" in by_protocol.text(columns)


def test_pairs_that_are_not_equally_many_in_each_unit_are_counted_whole() -> None:
    """Three pairs in two generation seeds are no two times one."""
    d = Difference("a", "b", "convnet", "top-1", 0.1, pairs=3, units=2, generations=2, ahead=1.0)
    assert [how_many(replace(d, pairs=n, units=u)) for n, u in ((3, 2), (4, 2), (3, 3))] == ["3 in 2", "2 x 2", "3"]


def test_only_the_protocol_differs_between_columns_that_are_compared() -> None:
    """The same student where both have it; else the students that they have; never two students of one protocol."""
    both = [column(p, s) for p in ("hard", "rded") for s in ("convnet", "vgg11")]
    assert [(a.student, b.student) for a, b in compared(both)] == [("convnet", "convnet"), ("vgg11", "vgg11")]
    own = [column("hard", "convnet"), column("rded", "convnet_bn"), column("rded", "resnet18_bn")]
    assert [(a.student, b.student) for a, b in compared(own)] == [("convnet", "convnet_bn"), ("convnet", "resnet18_bn")]


def test_every_set_is_shown_against_random_and_the_best_two_of_each_protocol() -> None:
    """The full data are shown beside random but are never one of the best two; a pair stands once."""
    columns = [
        column("hard", random=[0.3], kmeans=[0.35], mgd3=[0.45], dit=[0.4], full_data=[0.9]),
        column("fkd", random=[0.28], kmeans=[0.1], mgd3=[0.2], dit=[0.3], full_data=[0.2]),
    ]
    against = [(n, "random") for n in ("kmeans", "mgd3", "dit", "full data")]
    assert shown_pairs(columns, [pairs(c) for c in columns]) == [*against, ("mgd3", "dit")]


def test_an_order_turns_where_both_protocols_tell_the_sets_apart() -> None:
    """a and b: + 5 points and - 5, told apart under both. a and c: + 5 and - 0.1 with noise, which tells nothing."""
    hard = column("hard", a=[0.50, 0.51, 0.50], b=[0.45, 0.46, 0.449], c=[0.45, 0.46, 0.449])
    fkd = column("fkd", a=[0.30, 0.31, 0.30], b=[0.35, 0.36, 0.349], c=[0.25, 0.36, 0.30])
    of_columns = [pairs(hard), pairs(fkd)]
    assert turns(of_columns, "abc") == (1, [("a", "b")])
    assert turns([of_columns[0], of_columns[0]], "abc") == (2, []), "b and c are the same"
    assert shown_pairs([hard, fkd], of_columns)[-1] == ("a", "b"), "what turns is shown"


def test_after_holm_less_counts_as_told_apart() -> None:
    """5 points, deviation 0.5: p = 0.003, also of three tests; 1.9 points: 0.022, 0.066 of three."""
    steps, other = np.array([-0.005, 0.0, 0.005]), np.array([-0.02, 0.0, 0.02])
    a = np.array(around(0.4))
    clear = pairs(column("hard", a=a, b=a - 0.05 + steps, c=a + other))
    vague = pairs(column("fkd", a=a, b=a + 0.019 + steps, c=a + other))
    assert vague["b", "a"].p == pytest.approx(0.022, abs=0.001)
    assert turns([clear, vague], "ab") == (1, [("a", "b")])
    assert turns([clear, vague], "ab", holm=True) == (0, [])
    assert turns([clear, clear], "ab", holm=True) == (1, [])


def test_the_sets_that_lie_farthest_apart_are_found_whichever_way_round() -> None:
    of_column = pairs(column("hard", low=around(0.2), middle=around(0.5), high=around(0.6), full_data=around(0.9)))
    found = farthest(of_column, ["low", "middle", "high"])
    assert found is not None and (found.a, found.b, found.mean) == ("high", "low", pytest.approx(0.4))
    assert farthest(of_column, ["low"]) is None


@pytest.fixture
def columns() -> list[Column]:
    """Within a protocol 6 and 2 points; between them 20 and 16. The order of a and random turns."""
    full: Mapping[str, Sequence[float]] = {TO_THE_END.replace(" ", "_"): [0.891, 0.9, 0.909]}
    return [
        column("hard", random=around(0.40), a=[0.451, 0.46, 0.469], **full),
        column("fkd", random=[0.251, 0.26, 0.269], a=[0.232, 0.24, 0.248]),
    ]


def test_what_is_the_protocols_and_what_the_sets_is_said_in_one_line(columns: list[Column]) -> None:
    summary = plain(by_protocol.text(columns)).splitlines()[-1]
    assert "A change of protocol moves a set by 14.0 to 22.0 points, 18.0 on average;" in summary
    assert "apart at most: 6.0 [5.8, 6.2] (`hard`: a − random), 2.0 [1.8, 2.2] (`fkd`: random − a)." in summary
    assert "Of 1 pair of sets 1 are told apart over seeds under at least two protocols" in summary
    assert "the order turns in 1 of them: random and a" in summary


def test_a_difference_stands_beside_itself_under_every_protocol(columns: list[Column]) -> None:
    text = plain(by_protocol.text(columns))
    assert "| sets | hard | fkd |" in text
    assert "| a − random | 6.0 [5.8, 6.2], 3 pairs | −2.0 [−2.2, −1.8], 3 pairs |" in text
    assert f"| {TO_THE_END} − random | 50.0 [49.8, 50.2], 3 pairs | – |" in text
    assert "| random | hard | fkd | 14.0 | [13.8, 14.2] | – | 3 |" in text


def test_one_protocol_has_differences_and_moves_nothing(columns: list[Column]) -> None:
    text = by_protocol.text(columns[:1])
    assert "a − random" in text and "highest under" not in text and "A change of protocol" not in text


def plain(text: str) -> str:
    return text.replace("\N{NO-BREAK SPACE}", " ")


def test_two_even_sets_of_test_images_are_not_uneven_together() -> None:
    """Trainings tested on forty images a class and on ten: by top-1, as each is alone."""

    def tested(*sizes: int) -> TrainingOutcome:
        answers = tuple(np.ones(n, bool) for n in sizes)
        return TrainingOutcome("a", "a", "convnet", 0, 0, 1.0, 1.0, "t", answers)

    assert compared_by([tested(40, 40), tested(10, 10)]) == ("top-1",)
    assert compared_by([tested(40, 40), tested(40, 10)]) == ("balanced", "top-1")
    assert compared_by([tested(40, 10), replace(tested(40, 10), answers=None)]) == ("top-1",)
