"""YAML as configurations hold it: the scalars of YAML 1.2, each key once.

PyYAML reads YAML 1.1, in which 010 is 8, 1:30 is 90, `no` is false and 1e3 is text. Here such words are text, which is
right where a text is wanted, such as the class 010, and refused where a number is.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

TAG = "tag:yaml.org,2002:"
NULL = re.compile(r"(~|null|Null|NULL|)$")
BOOL = re.compile(r"(true|True|TRUE|false|False|FALSE)$")
INT = re.compile(r"[-+]?(0|[1-9][0-9]*)$")
FLOAT = re.compile(
    r"([-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))$"
)
DIGITS = list("-+.0123456789")


class DuplicateKey(ValueError):
    """A mapping gives a key twice, by itself or with what it merges."""


class Texts(yaml.SafeLoader):
    """Scalars are texts, or null."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        super().flatten_mapping(node)
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                line = key.start_mark.line + 1
                if key.value in lines:
                    raise DuplicateKey(
                        f"key {key.value[:60]!r} is given twice, in line {lines[key.value]} and in line {line}; "
                        "keep one"
                    )
                lines[key.value] = line


class Values(Texts):
    """Scalars are what they are in YAML 1.2, but that octal and hexadecimal numbers are texts."""

    def number(self, node: yaml.ScalarNode) -> int | float:
        """Also of a tag that is written out, as in `!!int 010`."""
        if not (INT if node.tag == TAG + "int" else FLOAT).match(node.value):
            raise yaml.constructor.ConstructorError(None, None, f"{node.value!r} is no number", node.start_mark)
        return int(node.value) if node.tag == TAG + "int" else self.construct_yaml_float(node)


class Dumper(yaml.SafeDumper):
    """Quotes a text that YAML 1.1 or 1.2 would take for something else."""


Texts.yaml_implicit_resolvers = {}
Texts.yaml_constructors = {TAG + k: yaml.SafeLoader.yaml_constructors[TAG + k] for k in ("null", "str", "seq", "map")}
Texts.yaml_constructors[None] = yaml.SafeLoader.yaml_constructors[None]
Texts.add_implicit_resolver(TAG + "null", NULL, ["~", "n", "N", ""])
Texts.add_implicit_resolver(TAG + "merge", re.compile(r"<<$"), ["<"])
Values.add_implicit_resolver(TAG + "bool", BOOL, list("tTfF"))
Values.add_implicit_resolver(TAG + "int", INT, DIGITS)
Values.add_implicit_resolver(TAG + "float", FLOAT, DIGITS)
Values.add_constructor(TAG + "bool", yaml.SafeLoader.yaml_constructors[TAG + "bool"])
Values.add_constructor(TAG + "int", Values.number)
Values.add_constructor(TAG + "float", Values.number)
Dumper.add_implicit_resolver(TAG + "float", FLOAT, DIGITS)


def read(text: str, texts: bool = False) -> Any:
    """The value of a YAML text; with `texts`, of scalars that are texts. Raises ValueError with one line.

    Nothing of a tag but texts, numbers, booleans, lists and mappings is made of it.
    """
    try:
        return yaml.load(text, Texts if texts else Values)
    except DuplicateKey:
        raise
    except RecursionError:
        raise ValueError("not YAML: it is nested too deep, or holds itself") from None
    except Exception as e:  # PyYAML raises many kinds on odd scalars; all mean: not YAML
        raise ValueError(f"not YAML: {e}") from None


def write(tree: Any) -> str:
    """Canonical text: sorted keys."""
    return yaml.dump(tree, Dumper=Dumper, sort_keys=True, allow_unicode=True)


def advice(kind: str, value: object) -> str:
    """What to write for a value that is no `kind` (pydantic's name of the error), or "" if that is not known."""
    if kind == "string_type" and isinstance(value, int | float):
        return "write it in quotes"
    if kind == "bool_type" and str(value).lower() in ("yes", "on", "y", "no", "off", "n"):
        return f"write {str(str(value).lower() in ('yes', 'on', 'y')).lower()}"
    if not kind.startswith(("int", "float")):
        return ""
    if isinstance(value, float):
        return f"write {int(value)}" if value.is_integer() else ""
    return _number(value) if isinstance(value, str) else ""


def _number(text: str) -> str:
    """How the number of a text that only other languages read as one is written."""
    sign, digits = ("-", text[1:]) if text.startswith("-") else ("", text.removeprefix("+"))
    if re.fullmatch(r"[0-9]+(:[0-5]?[0-9])+", digits):
        return "write a number without colons"
    if re.fullmatch(r"0[xX][0-9a-fA-F]{1,16}|0[oO][0-7]{1,20}|0[bB][01]{1,64}", digits):
        return f"write {sign}{int(digits, 0)}"
    plain = digits.replace("_", "")
    if re.fullmatch(r"0+[0-7]{1,20}", plain):
        return f"write {sign}{int(plain)}, or {sign}{int(plain, 8)} if it is octal"
    if re.fullmatch(r"[0-9]{1,20}(\.[0-9]*)?", plain):
        whole, dot, rest = plain.partition(".")
        return f"write {sign}{int(whole)}{dot}{rest}"
    return ""
