"""`raydistill completion SHELL`: what a shell needs to complete verbs, options, keys and their words."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, get_args, get_origin

from raydistill import config as configuration
from raydistill import registry
from raydistill.config import reads
from raydistill.errors import BadInput
from raydistill.manual import OPTIONS
from raydistill.verbs import NO_CONFIG, VERBS, plain

SHELLS = {
    "bash": "raydistill completion bash > ~/.local/share/bash-completion/completions/raydistill",
    "zsh": "raydistill completion zsh > DIR/_raydistill, in a DIR of $fpath",
}
REGISTERED = {  # keys whose words are the entries of a kind
    "method": "method",
    "evaluate.protocol.name": "protocol",
    "evaluate.students": "student",
    "cluster.algorithm": "clustering",
}
_OPTION = re.compile(r"^\s+(?:-\w, )?(--[\w-]+)", re.MULTILINE)
_SCRIPT = """# Completion of raydistill; made by `raydistill completion {shell}`.
_raydistill() {{
  local line="${{COMP_LINE:0:COMP_POINT}}" verb="${{COMP_WORDS[1]}}" words="" cur
  cur="${{line##*[[:space:]]}}"
  COMPREPLY=()
  if [ "$COMP_CWORD" -le 1 ]; then
    words="{verbs}"
  else
    case "$cur" in
      *=*) local key="${{cur%%=*}}"; cur="${{cur#*=}}"
        case "$key" in
{choices}
        esac ;;
      *) case "$verb" in
{per_verb}
        esac
        case "$line" in *"--config "*([!\\ ])) words="{presets}" ;; esac ;;
    esac
  fi
  COMPREPLY=($(compgen -W "$words" -- "$cur"))
  [ ${{#COMPREPLY[@]}} -gt 0 ] || COMPREPLY=($(compgen -f -- "$cur"))
  case "${{COMPREPLY[0]}}" in *=) compopt -o nospace 2>/dev/null ;; esac
}}
"""


def completion(argv: Sequence[str], run: Callable[[str, Sequence[str]], int]) -> int:
    """Prints the script of a shell. `run` runs a verb: their help says which options they take. Raises BadInput."""
    known = "\n".join(f"  {command}" for command in SHELLS.values())
    p = plain("completion", f"\n\nkeep it where your shell looks:\n{known}")
    p.add_argument("shell", metavar="SHELL", help=f"one of {', '.join(SHELLS)}")
    shell = p.parse_args(argv).shell
    if shell not in SHELLS:
        raise BadInput(f"completion: {shell!r} is not known; known: {', '.join(SHELLS)}")
    print(script(shell, {verb: options(verb, run) for verb in VERBS}), end="")
    return 0


def options(verb: str, run: Callable[[str, Sequence[str]], int]) -> list[str]:
    """What the help of a verb lists."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        run(verb, ["--help"])
    return sorted(set(_OPTION.findall(said.getvalue())))


def script(shell: str, taken: Mapping[str, Sequence[str]]) -> str:
    config = configuration.load()
    fields = dict(configuration.leaves(configuration.Config))
    per_verb = []
    for verb, flags in taken.items():
        keys = [] if verb in NO_CONFIG else [f"{k}=" for k in fields if reads.reads(verb, k, config)]
        per_verb.append(f'        {verb}) words="{" ".join([*flags, *keys])}" ;;')
    offered = {key: words(key, field.annotation) for key, field in fields.items()}
    choices = [f'        {key}) words="{" ".join(w)}" ;;' for key, w in offered.items() if w]
    text = _SCRIPT.format(
        shell=shell,
        verbs=" ".join([*VERBS, "help", *OPTIONS[1:]]),
        choices="\n".join(choices),
        per_verb="\n".join(per_verb),
        presets=" ".join(configuration.presets()),
    )
    if shell == "zsh":
        start = "#compdef raydistill\nautoload -U +X bashcompinit && bashcompinit\n"
        return f"{start}{text}complete -F _raydistill raydistill\n"
    return f"shopt -s extglob\n{text}complete -F _raydistill raydistill\n"


def words(key: str, kind: object) -> list[str]:
    """What a key may be, where that is a choice."""
    if key in REGISTERED:
        return registry.names(REGISTERED[key])
    if kind is bool:
        return ["true", "false"]
    for part in (kind, *get_args(kind)):
        if get_origin(part) is Literal:
            return [str(w) for w in get_args(part)]
    return []
