"""Loading: a preset or a YAML file, then dotted overrides, checked into one strict typed tree."""

from __future__ import annotations

import copy
import difflib
import os
import reprlib
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ValidationError, create_model

from raydistill import registry
from raydistill.config.base import Section
from raydistill.config.sections import Config
from raydistill.config.text import BOOL, advice, read
from raydistill.config.tracking import OFF
from raydistill.errors import BadInput, one_line, refuse_secrets
from raydistill.redact import holds_secret

PATHS = {
    *("run_dir", "artifact_dir", "source.path", "evaluate.images", "pretrain.out", "pretrain.init"),
    *(f"{section}.path" for section in ("vae", "generator", "features", "teacher")),
}


RENAMED = {"evaluate.increments": "evaluate.redundancy_parts"}
NOTHING = ("null", "none", "")  # in any case: null of a key that may be it
OF_NULL = {"tracking.uri": OFF}  # what somebody means who writes it where null is not nothing for every verb


def presets() -> list[str]:
    """Names of the presets that ship with the package."""
    return sorted(
        p.name.removesuffix(".yaml")
        for p in resources.files("raydistill.presets").iterdir()
        if p.name.endswith(".yaml")
    )


def load(
    config: str = "quickstart", overrides: Sequence[str] = (), suffix: str = "", text: str | None = None
) -> Config:
    """A preset's name or a YAML file, then `key=value` overrides. Raises BadInput with one line.

    Without a run_dir it is runs/NAME and the suffix. `text` is what the file holds, of one that is not on this disk.
    """
    tree, values = _read(config) if text is None else _parsed(config, text), {}
    for item in overrides:
        key, sep, text = item.partition("=")
        if not sep or not key:
            raise BadInput(f"override {item!r} is not key=value (for example ipc=10 or guidance.scale=0.1)")
        refuse_secrets(f"configuration key {key}", text)
        values[key] = _value(key, text)
    tree = _of_method(tree, values.get("method", tree.get("method")))
    for key, value in values.items():
        _put(tree, key, value)
    name = config if config in presets() else Path(config).stem
    return build(tree, default_run=f"runs/{name}{suffix}")


def changed(config: Config, values: Mapping[str, Any]) -> Config:
    """The configuration with other values, by dotted keys. Raises BadInput as `build` does."""
    tree = config.tree()
    for key, value in values.items():
        _put(tree, key, value)
    return build(tree, default_run=config.run_dir or "")


def build(tree: dict[str, Any], default_run: str = "runs/run") -> Config:
    """Validates a tree. Raises BadInput for the first thing wrong with it, and for every secret in it."""
    _refuse_secrets(tree, "configuration")
    tree = _without_old_names(tree)
    brought = _brought(tree)
    extra = {key: value for key, value in tree.items() if key in brought.model_fields}
    rest = {key: value for key, value in tree.items() if key not in extra}
    for values, model in ((rest, Config), (extra, brought)):
        for key in _unknown(values, model):
            alike = nearest_key(key, model)
            hint = f"; did you mean {alike!r}?" if alike else ""
            without = "".join(f"; without {line}" for line in registry.unusable())  # whose key it may be
            raise BadInput(f"unknown configuration key {key!r}{hint}{without}")
    try:
        config = Config.model_validate(rest).model_copy(update={"brought": dict(brought.model_validate(extra))})
    except ValidationError as e:
        first = e.errors()[0]
        key = ".".join(str(p) for p in first["loc"])
        what = one_line(first["msg"]).removeprefix("Value error, ")
        got = first.get("input")
        shown = (
            ""
            if not key or isinstance(got, dict)
            else f" (got {got[:60] if isinstance(got, str) else reprlib.repr(got)!r})"
        )
        if remedy := advice(first["type"], got):
            shown += f"; {remedy}"
        raise BadInput(f"configuration{' key ' + key if key else ''}: {what}{shown}") from None
    for key, _ in leaves(Config):
        value: Any = config
        for part in key.split("."):
            value = getattr(value, part)
        for text in (v for v in (value if isinstance(value, list) else [value]) if isinstance(v, str)):
            if why := unusable(text) or (_too_long(text) if key in PATHS else None):
                raise BadInput(f"configuration key {key}: {why}")
    return config if config.run_dir else config.model_copy(update={"run_dir": default_run})


def _of_method(tree: dict[str, Any], method: Any) -> dict[str, Any]:
    """The tree of a preset or a file with what it holds under `methods` for this method in the place of its own."""
    by_method = tree.pop("methods", None)
    return _over(tree, by_method.get(method, {})) if isinstance(by_method, dict) and isinstance(method, str) else tree


def _over(tree: dict[str, Any], more: Any) -> dict[str, Any]:
    """The tree with the values of another put over its own, section by section."""
    if not isinstance(more, dict):
        return tree
    both = {
        k: _over(tree[k], v) if isinstance(tree.get(k), dict) and isinstance(v, dict) else v for k, v in more.items()
    }
    return tree | both


def _without_old_names(tree: dict[str, Any]) -> dict[str, Any]:
    """The tree without old names that say nothing, as a run's config.yaml has them. Raises BadInput for one in use."""
    for old, new in RENAMED.items():
        section, _, name = old.partition(".")
        values = tree.get(section)
        if isinstance(values, dict) and name in values:
            if values[name] is not None:
                raise BadInput(f"configuration key {old} is called {new} now; write {new}={values[name]}")
            tree = tree | {section: {key: value for key, value in values.items() if key != name}}
    return tree


def _brought(keys: Iterable[Any]) -> type[BaseModel]:
    """A model of the sections that entries brought with them, as far as these keys name any."""
    unknown = [key for key in keys if isinstance(key, str) and key.isidentifier() and key not in Config.model_fields]
    known = registry.sections() if unknown else {}
    fields: dict[str, Any] = {key: (known[key], known[key]()) for key in unknown if key in known}
    return create_model("Brought", __base__=Section, **fields)


def unusable(text: str) -> str | None:
    """Why a text can be no name and stand in no file; None if it can."""
    if "\0" in text:
        return "holds a null character"
    halves = any("\ud800" <= c <= "\udfff" for c in text)
    return "holds bytes that are not UTF-8, or half a character; write it otherwise" if halves else None


def _too_long(path: str) -> str | None:
    if "://" in path or (len(os.fsencode(path)) < 4000 and all(len(os.fsencode(p)) < 256 for p in path.split("/"))):
        return None
    return f"a path cannot be so long ({max(path.split('/'), key=len)[:60]!r}...); give a shorter one"


def leaves(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every dotted key with its field, depth first."""
    for name, field in model.model_fields.items():
        kind = field.annotation
        if field.exclude:  # not a key of its own
            continue
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from leaves(kind, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field


def nearest_key(key: str, model: type[BaseModel] = Config) -> str | None:
    """The key of a model most like `key`, by its whole path or else by its last part; without a section the other
    way."""
    paths = {k: k for k, _ in leaves(model)}
    tails = {k.rsplit(".", 1)[-1]: k for k in paths}
    searches = [(key, paths), (key.rsplit(".", 1)[-1], tails)]
    for requested, known in searches if "." in key else reversed(searches):
        if nearest := difflib.get_close_matches(requested, list(known), n=1, cutoff=0.6):
            return known[nearest[0]]
    return None


def _read(config: str) -> dict[str, Any]:
    if config in presets():
        text = (resources.files("raydistill.presets") / f"{config}.yaml").read_text("utf-8")
    elif _is_file(config):
        try:
            text = Path(config).read_text("utf-8")
        except (OSError, UnicodeDecodeError) as e:
            raise BadInput(f"--config {config}: cannot be read: {one_line(e)}") from None
    else:
        alike = difflib.get_close_matches(config, presets(), n=1)
        hint = f"; did you mean {alike[0]!r}?" if alike else ""
        raise BadInput(f"--config {config}: neither a preset nor a file{hint} (presets: {', '.join(presets())})")
    return _parsed(config, text)


def _parsed(config: str, text: str) -> dict[str, Any]:
    try:
        tree = read(text)
    except ValueError as e:
        # what went wrong quotes the text, cut anywhere
        what = "not YAML, and it holds credentials" if holds_secret(text) else one_line(e)
        raise BadInput(f"--config {config}: {what}") from None
    _refuse_secrets(tree, f"--config {config}:")
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise BadInput(f"--config {config}: must hold keys and values, not a {type(tree).__name__}")
    return copy.deepcopy(tree)


def _refuse_secrets(tree: Any, what: str) -> None:
    """Raises BadInput for a text in a tree that holds a secret, whatever its key. Looks once at what aliases share."""
    left, seen = [("", tree)], set()
    while left:
        key, node = left.pop()
        if isinstance(node, str):
            refuse_secrets(f"{what} key {key}" if key else what, node)
        elif isinstance(node, dict | list | tuple) and id(node) not in seen:
            seen.add(id(node))
            pairs = node.items() if isinstance(node, dict) else enumerate(node)
            for name, value in pairs:
                left += [(key, name), (f"{key}.{name}" if key else str(name), value)]


def _is_file(name: str) -> bool:
    try:
        return Path(name).is_file()
    except OSError:  # a name too long, for example
        return False


def _unknown(tree: dict[Any, Any], model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Dotted keys of the tree that the model does not have. Looks only into sections, so no value can be too deep."""
    for name, value in tree.items():
        field = model.model_fields.get(name) if isinstance(name, str) else None
        if field is None or field.exclude:
            yield f"{prefix}{name}" + (f".{next(iter(value))}" if isinstance(value, dict) and value else "")
        elif isinstance(value, dict) and isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _unknown(value, field.annotation, f"{prefix}{name}.")


def _put(tree: dict[str, Any], key: str, value: Any) -> None:
    node, parts = tree, key.split(".")
    for part in parts[:-1]:
        child = node.get(part, {})
        if not isinstance(child, dict):
            raise BadInput(f"configuration key {key!r}: {part!r} is a value, not a section")
        node[part] = node = dict(child)  # a copy: YAML aliases share one object
    node[parts[-1]] = value


def field_of(key: str) -> Any:
    """The field of a dotted key, of a section that an entry brought too; None for an unknown key."""
    return dict([*leaves(Config), *leaves(_brought([key.partition(".")[0]]))]).get(key)


def _value(key: str, text: str) -> Any:
    """Text to value. A text field takes the text as it is (folders named 2024 or [x] stay names) if it is no list."""
    field = field_of(key)
    kinds = flat_kinds(field.annotation) if field is not None else set()
    if bool in kinds and BOOL.match(text):
        return text.lower() == "true"
    lists = [typing.get_args(k) for k in kinds if typing.get_origin(k) is list]
    if str in kinds and not (lists and text.startswith("[")):
        return OF_NULL.get(key) if text.lower() in NOTHING and type(None) in kinds else text
    mapping = any(typing.get_origin(k) is dict for k in kinds)
    try:
        value = read(text, texts=(str,) in lists or mapping)  # the class 010 keeps its name
    except ValueError:
        raise BadInput(f"configuration key {key!r}: cannot read the value {text[:60]!r}") from None
    return [value] if lists and isinstance(value, str | int | float) else value


def flat_kinds(kind: Any) -> set[Any]:
    origin = typing.get_origin(kind)
    if origin is Annotated:
        return flat_kinds(typing.get_args(kind)[0])
    if origin in (typing.Union, types.UnionType):
        return set().union(*(flat_kinds(a) for a in typing.get_args(kind)))
    if origin is Literal:
        return {type(a) for a in typing.get_args(kind)}
    return {kind}


def describe(config: Config | None = None, listed: Callable[[str], bool] = lambda key: True) -> str:
    """The keys that are `listed` with meanings and their values in a configuration, or their defaults."""
    lines = []
    sections = {key: kind for key, kind in registry.sections().items() if key not in Config.model_fields}
    for key, field in (*leaves(Config), *leaves(_brought(sections))):
        if listed(key):
            value = field.default if config is None else _of(config, key, sections)
            lines.append(f"  {key + '=' + written(value):<44} {field.description or ''}".rstrip())
    return "\n".join(lines)


def _of(config: Config, key: str, brought: Mapping[str, Any]) -> Any:
    first, *rest = key.split(".")
    value: Any = config.section(first, brought.get(first, Section))
    for part in rest:
        value = getattr(value, part)
    return value


def written(value: Any) -> str:
    """As it is written on a command line."""
    if isinstance(value, list):
        return f"[{','.join(map(written, value))}]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
