"""The tree of a class, to walk through: each node folds out into the two that it was split into."""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup

from raydistill.report.images import data_uri
from raydistill.report.text import count, percent, plural

OPEN_LEVELS = 1  # of a tree that is folded out, below its root


@dataclass(frozen=True)
class TreeNode:
    """A cluster of `size` real images; `image` is a small copy of the one nearest its centroid. `parent` is -1 of the
    root, `slots` are those whose images were led to it."""

    node: int
    parent: int
    level: int
    size: int
    image: bytes
    slots: tuple[int, ...] = ()


@dataclass(frozen=True)
class ClassTree:
    """Nodes in the order in which they were made, parents first; the latest `left_out` of all are not shown."""

    nodes: tuple[TreeNode, ...]
    left_out: int = 0

    @property
    def leaves(self) -> int:
        """Of the whole tree, which is binary."""
        return (len(self.nodes) + self.left_out + 1) // 2


def draw(tree: ClassTree, name: str) -> Markup:
    """A list within a list, as deep as the tree; larger children first."""
    children: dict[int, list[TreeNode]] = {}
    for node in tree.nodes:
        children.setdefault(node.parent, []).append(node)
    drawn: dict[int, Markup] = {}
    for node in reversed(tree.nodes):  # children have higher numbers
        below = sorted(children.get(node.node, ()), key=lambda n: (-n.size, n.node))
        drawn[node.node] = _node(node, tree.nodes[0].size, Markup("").join(drawn.pop(n.node) for n in below), name)
    left_out = f" Left out of this page: {plural(tree.left_out, 'node')} that came later." if tree.left_out else ""
    levels = 1 + max(node.level for node in tree.nodes)
    head = Markup('<details class="more"><summary>The tree of this class: {}, {}</summary>').format(
        plural(tree.leaves, "leaf", "leaves"), plural(levels, "level")
    )
    said = "A node is a cluster of real images, shown by the one nearest its centroid; it folds out into its halves."
    body = Markup('<p class="small soft">{}{}</p><div class="tree">{}</div>').format(
        said, left_out, drawn[tree.nodes[0].node]
    )
    return head + body + Markup("</details>")


def _node(node: TreeNode, whole: int, below: Markup, name: str) -> Markup:
    picture = Markup('<img src="{}" alt="Real image of {} nearest the centroid of node {}" loading="lazy">').format(
        data_uri(node.image), name, node.node
    )
    slots = ", ".join(map(str, node.slots))
    led = Markup(' <span class="tag">slot {}</span>').format(slots) if node.slots else Markup("")
    said = Markup('{}<span><b>{}</b> <span class="soft">{} %, node {}</span>{}</span>').format(
        picture, count(node.size), percent(node.size / whole), node.node, led
    )
    if not below:
        return Markup('<div class="node">{}</div>').format(said)
    fold = Markup(" open") if node.level < OPEN_LEVELS else Markup("")
    return Markup('<details class="node"{}><summary>{}</summary>{}</details>').format(fold, said, below)
