"""The section that says where a run is told of (docs/tracking.md)."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, field_validator

from raydistill.config.base import Section

OFF = "off"  # nowhere, where null is another default: of a sweep


class TrackingConfig(Section):
    """MLflow. It changes nothing of what a run makes."""

    uri: Annotated[
        str | None,
        Field(
            description="where MLflow keeps the run: local (mlflow.db in this folder), sqlite:///FILE, "
            "http://HOST:PORT, databricks ...; off = nowhere; null = off, of a sweep local"
        ),
    ] = None
    experiment: Annotated[
        str, Field(min_length=1, max_length=200, description="MLflow's experiment that it belongs to")
    ] = "raydistill"
    trainings: Annotated[bool, Field(description="of a sweep: each training of a trial is a run below the trial's")] = (
        False
    )

    @field_validator("uri", mode="before")
    @classmethod
    def _off(cls, uri: Any) -> Any:
        return OFF if isinstance(uri, str) and uri.strip().lower() in (OFF, "none", "null") else uri
