"""Where MLflow keeps what it is told: `tracking.uri` as it is written becomes one of MLflow's own, or is refused."""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit

from raydistill.config.tracking import OFF, TrackingConfig
from raydistill.errors import BadInput, one_line

LOCAL, DATABASE, ARTIFACTS = "local", "mlflow.db", "mlartifacts"
SERVERS = ("http", "https")
TRAININGS_VIEW = "workflowType=machine_learning"  # MLflow's pages are about chats otherwise
SQLITE = b"SQLite format 3\0"
# MLflow's own answer times are two minutes and seven attempts; whoever sets these has the last word.
PATIENCE = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_ARTIFACT_UPLOAD_DOWNLOAD_TIMEOUT": "60",
    "MLFLOW_DISABLE_TELEMETRY": "true",  # a run speaks to the server of its user, and to nobody else
}

PLAINLY = (
    (r"(?i)timed out", "no answer in time"),
    (r"Connection refused", "connection refused"),
    (r"(?i)failed to resolve|name resolution|Name or service not known", "no such host"),
    (r"too many (\d+) error responses", "it answers {}"),
    (r"failed with error code (\d+)", "it answers {}"),
    (r"(?i)IncompleteRead|Connection aborted|Connection broken|Remote end closed", "the connection broke"),
)


@dataclass(frozen=True)
class Destination:
    """A store of MLflow and an experiment in it."""

    uri: str
    experiment: str

    @property
    def name(self) -> str:
        """By which a run's card knows it."""
        return f"{self.uri} {self.experiment}"

    @property
    def file(self) -> Path | None:
        """Of a store in SQLite."""
        return Path(self.uri.removeprefix("sqlite:///")) if self.uri.startswith("sqlite:///") else None

    @property
    def artifacts(self) -> str | None:
        """Where a store in SQLite keeps what runs leave; a server decides that itself."""
        return None if self.file is None else str(self.file.parent / ARTIFACTS / _folder(self.experiment))

    @property
    def viewer(self) -> str:
        """What a person does to see it."""
        if self.file is not None:
            return f"mlflow ui --backend-store-uri {self.uri}"
        return self.uri if self.uri.startswith(SERVERS) else f"mlflow ui --backend-store-uri '{self.uri}'"

    def page(self, experiment_id: str, run_id: str) -> str:
        """The address of a run on its server, or how to look at it."""
        if self.uri.startswith(SERVERS):
            return f"{self.uri.rstrip('/')}/#/experiments/{experiment_id}/runs/{run_id}?{TRAININGS_VIEW}"
        return self.viewer


def find(config: TrackingConfig) -> Destination | None:
    """What the section says. Raises BadInput for what MLflow cannot open."""
    requested = config.uri
    if not requested or requested == OFF:
        return None
    if requested == LOCAL:
        return Destination(f"sqlite:///{Path(DATABASE).absolute()}", config.experiment)
    if requested.startswith("sqlite:"):
        path = re.fullmatch(r"sqlite:///([^?#]+)", requested)
        if path is None:
            raise BadInput(f"tracking.uri={requested}: write sqlite:///FILE, or sqlite:////FOLDER/FILE")
        return Destination(f"sqlite:///{os.path.abspath(path[1])}", config.experiment)
    scheme = urlsplit(requested).scheme
    if scheme in ("", "file") and not requested.startswith("databricks") and requested != "uc":
        folder = requested.removeprefix("file://").rstrip("/") or "."
        path_of = folder if folder.endswith(".db") else f"{folder}/{DATABASE}"
        raise BadInput(
            f"tracking.uri={requested}: MLflow writes no folders of files any more; write sqlite:///{path_of}, local "
            f"({DATABASE} in this folder), or the address of a server, http://HOST:PORT"
        )
    return Destination(requested, config.experiment)


def absolute(config: TrackingConfig) -> TrackingConfig:
    """The section with the uri that is meant, whatever folder is the current one later. Raises BadInput as `find`."""
    destination = find(config)
    return config if destination is None else config.model_copy(update={"uri": destination.uri})


def check(destination: Destination, new: bool) -> str | None:
    """What is wrong with reaching it, None if nothing is. Writes nothing; imports MLflow.

    Raises BadInput for a scheme that MLflow does not know, a file that is no database, a deleted experiment; for a
    `new` run also for one that does not answer.
    """
    file = destination.file
    fault = _fault_of_file(file) if file is not None else _fault_of_server(destination)
    if file is not None and fault is None and _deleted_in_file(file, destination.experiment):
        raise BadInput(_deleted(destination))
    if fault is not None and new:
        raise BadInput(
            f"tracking.uri={destination.uri}: {fault}; start it or correct the address, or leave tracking.uri out and "
            "give it to `raydistill track RUN` later"
        )
    return fault


def _fault_of_file(file: Path) -> str | None:
    try:
        if file.exists():
            with open(file, "rb") as f:
                head = f.read(len(SQLITE))
            if head not in (SQLITE, b""):
                raise BadInput(f"tracking.uri: {file} is no SQLite database; choose another file")
            return None if os.access(file, os.W_OK) else f"{file} is not writable"
    except OSError as e:
        return f"{file} cannot be read ({os.strerror(e.errno or 0)})"
    if not file.parent.is_dir():
        return f"there is no folder {file.parent}"
    return None if os.access(file.parent, os.W_OK) else f"{file.parent} is not writable"


def _deleted_in_file(file: Path, experiment: str) -> bool:
    """Whether a store in SQLite has the experiment among those that were deleted. MLflow's client would write to it."""
    if not file.exists():
        return False
    question = "SELECT 1 FROM experiments WHERE name = ? AND lifecycle_stage = 'deleted'"
    try:
        with contextlib.closing(sqlite3.connect(f"file:{quote(str(file))}?mode=ro", uri=True)) as store:
            return store.execute(question, (experiment,)).fetchone() is not None
    except sqlite3.Error:  # no store of MLflow yet, or one that another process holds
        return False


def _fault_of_server(destination: Destination) -> str | None:
    patient()
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient
    from mlflow.tracking._tracking_service.utils import _tracking_store_registry

    scheme = urlsplit(destination.uri).scheme or destination.uri
    known = sorted(name for name in _tracking_store_registry._registry if name not in ("", "file"))
    if scheme.partition("+")[0] not in known:
        raise BadInput(
            f"tracking.uri={destination.uri}: MLflow knows no {scheme!r}; write local, sqlite:///FILE, "
            f"http://HOST:PORT, or another of {', '.join(known)}"
        )
    try:
        experiment = MlflowClient(destination.uri).get_experiment_by_name(destination.experiment)
    except (MlflowException, OSError) as e:
        return f"it does not answer ({reason(e)})"
    except Exception as e:  # a driver of a database that is not installed, a client's own kinds
        return f"it cannot be opened ({reason(e)})"
    if experiment is not None and experiment.lifecycle_stage == "deleted":
        raise BadInput(_deleted(destination))
    return None


def _deleted(destination: Destination) -> str:
    return (
        f"tracking.experiment={destination.experiment} was deleted in {destination.uri}; restore it there "
        f"(mlflow experiments restore), or give another name"
    )


def patient() -> None:
    """Sets how long MLflow waits, before it is imported."""
    for name, value in PATIENCE.items():
        os.environ.setdefault(name, value)


def reason(error: BaseException) -> str:
    """A few words on what a client raised, which is nested several times over."""
    text = one_line(error)
    for pattern, words in PLAINLY:
        if match := re.search(pattern, text):
            return words.format(*match.groups())
    return text[:200] or type(error).__name__


def _folder(experiment: str) -> str:
    return re.sub(r"[^\w.-]", "_", experiment).lstrip(".") or "_"
