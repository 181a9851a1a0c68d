"""An export onto the Hugging Face hub: one commit of a data set's repository, so that it is there whole or not at all.

The token is the client's business (HF_TOKEN, or what `hf auth login` keeps); it is looked for, and never kept or shown.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from raydistill.errors import BadInput, StageFailed, one_line
from raydistill.exporters.base import DATA, SHARD
from raydistill.exporters.marker import MARKER
from raydistill.store.hub import ID

FORMAT = "hf"


def check(name: str, form: str) -> None:
    """Raises BadInput for what can be known without a network."""
    if ID.fullmatch(name) is None:
        raise BadInput(f"--push {name}: give a repository on the hub, OWNER/NAME")
    if form != FORMAT:
        raise BadInput(f"--push goes with --format {FORMAT}, the hub's own layout; leave one of the two out")


def files(folder: Path) -> dict[str, Path]:
    """What goes onto the hub, by its path there: all but the mark of our exports."""
    return {p.relative_to(folder).as_posix(): p for p in sorted(folder.rglob("*")) if p.is_file() and p.name != MARKER}


def preview(folder: Path, name: str, private: bool) -> Iterator[str]:
    """What a push would do, in lines."""
    from huggingface_hub import constants, get_token

    sizes = {path: file.stat().st_size for path, file in files(folder).items()}
    yield from (f"{size:>12,}  {path}" for path, size in sizes.items())
    seen = "private if it is new" if private else "public if it is new"
    token = "as whom your token says" if get_token() else "which needs a token: `hf auth login`, or HF_TOKEN"
    yield f"{'':>12}  {DATA}/train-*.parquet of an earlier push, if any are left, are taken away"
    yield f"{sum(sizes.values()):>12,}  bytes to {constants.ENDPOINT}/datasets/{name}, {seen}, {token}"


def push(folder: Path, name: str, private: bool) -> str:
    """The page of the commit. Shards of ours that the repository has from an earlier push go in the same commit.

    Raises BadInput for what somebody has to change, StageFailed for what may go when it is tried again.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token

    if get_token() is None:
        raise BadInput("--push: no token for the hub; log in with `hf auth login`, or set HF_TOKEN to one that writes")
    api, kind = HfApi(), "dataset"
    try:
        api.create_repo(name, repo_type=kind, private=private or None, exist_ok=True)
        new = files(folder)
        old = [f for f in api.list_repo_files(name, repo_type=kind) if _of_an_earlier_push(f)]
        operations: list[CommitOperationAdd | CommitOperationDelete] = [
            CommitOperationDelete(f) for f in old if f not in new
        ]
        operations += [CommitOperationAdd(path, str(file)) for path, file in new.items()]
        commit = api.create_commit(name, operations, commit_message="A distilled set by raydistill", repo_type=kind)
    except Exception as e:  # the client raises its own kinds, those of its HTTP library, and ValueError
        _refuse(name, e)
    return str(commit.commit_url)


def _of_an_earlier_push(path: str) -> bool:
    """Whether it is a shard where ours go: those of other configurations of a data set lie in folders of their own."""
    folder, _, file = path.rpartition("/")
    return folder == DATA and SHARD.fullmatch(file) is not None


def _refuse(name: str, e: Exception) -> NoReturn:
    """What the client raised, as one line that says what to do."""
    from huggingface_hub import constants, errors

    status = e.response.status_code if isinstance(e, errors.HfHubHTTPError) and e.response is not None else None
    if status == 401:
        raise BadInput(
            f"--push {name}: {constants.ENDPOINT} does not take your token; log in again with `hf auth login`, or "
            "correct HF_TOKEN"
        ) from None
    if status in (403, 404):
        raise BadInput(
            f"--push {name}: your token may not write there; give it the right to write, or another OWNER (`hf auth "
            "whoami` says which are yours)"
        ) from None
    if isinstance(e, errors.OfflineModeIsEnabled):
        raise BadInput(f"--push {name}: HF_HUB_OFFLINE is set; unset it where the hub can be reached") from None
    raise StageFailed(
        f"export: {name} is not on {constants.ENDPOINT} as it should be ({type(e).__name__}: {one_line(e)[:300]}); run "
        "the same command again"
    ) from None
