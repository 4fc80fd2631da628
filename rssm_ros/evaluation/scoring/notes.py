"""What a reader of a scorecard has to know: what could not be measured, and why."""

from collections.abc import Sequence

import numpy as np

from rssm_ros.evaluation.playing.play import UNOCCLUDED, How, Played
from rssm_ros.online.regions import regions_of
from rssm_ros.online.session import Session

NO_MODELS = (
    "no recurrent network and no network of single frames beside the bundle (`rssm train-baseline`, "
    "--baseline-model)"
)


def notes_of(session: Session, how: How, played: Sequence[Played]) -> tuple[str, ...]:
    """In sentences, for the scorecard's foot."""
    contract, regions, notes = session.bundle.contract, regions_of(session.bundle), []
    calibrated = session.bundle.calibration.get("particles", how.particles)
    if calibrated != how.particles:
        notes.append(f"regions are calibrated for {calibrated} particles, this is a run of {how.particles}")
    for spec in contract.targets:
        if not any(spec.name in item.references for item in played):
            notes.append(f"{spec.name}: nothing recorded says where it was; not scored")
        elif any(spec.name in item.unlabelled for item in played):
            notes.append(
                f"{spec.name}: nothing recorded says how much of it could be seen; "
                "taken as visible with every picture"
            )
        if spec.name not in regions:
            notes.append(
                f"{spec.name}: the bundle's regions are not calibrated (`rssm calibrate`): no coverage"
            )
    if any(value == UNOCCLUDED for item in played for value in item.references.values()):
        notes.append(
            "where nothing was recorded the bundle is held against itself, undisturbed: a belief that never "
            "moves would score well, so look at the truth as well where there is one"
        )
    if how.imposed:
        notes.append("odometry is no reference: bundles decode pictures and targets, not odometry")
    if not any(spec.kind == "image" for spec in contract.observations):
        notes.append("the contract has no camera: no picture is predicted")
    elif not any(len(rows) for item in played for rows in item.pictures.values()):
        notes.append("no picture was predicted: nothing re-appeared and nothing was covered")
    if contract.targets and not any(
        np.isfinite(t.velocity).any() for item in played for t in item.ticks.targets.values()
    ):
        notes.append("no recording says how the belt moved: the privileged baseline is missing")
    if contract.targets and not how.models:
        notes.append(NO_MODELS)
    return tuple(notes)
