"""The section that says where a run is told of (docs/tracking.md)."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from raydistill.config.base import Section


class TrackingConfig(Section):
    """MLflow. It changes nothing of what a run makes."""

    uri: Annotated[
        str | None,
        Field(
            description="where MLflow keeps the run: local (mlflow.db in this folder), sqlite:///FILE, "
            "http://HOST:PORT, databricks ...; null = nowhere"
        ),
    ] = None
    experiment: Annotated[
        str, Field(min_length=1, max_length=200, description="MLflow's experiment that it belongs to")
    ] = "raydistill"
    trainings: Annotated[bool, Field(description="of a sweep: each training of a trial is a run below the trial's")] = (
        False
    )
