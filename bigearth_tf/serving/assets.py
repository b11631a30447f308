"""What lies in the assets folder of a bundle: what people and clients have to know about it."""

from __future__ import annotations

import json
from typing import Any

from bigearth_tf import __version__
from bigearth_tf.calibration import Calibration
from bigearth_tf.contract import ARCHIVE_VERSIONS, EUROSAT, DataContract, archive_title
from bigearth_tf.errors import ContractError
from bigearth_tf.models.classifier import PatchClassifier
from bigearth_tf.models.identity import embedding_identity
from bigearth_tf.serving.interface import (
    CALIBRATION_FILE,
    CARD_FILE,
    CLASSES_FILE,
    CONTRACT_FILE,
    EMBEDDING_FILE,
    LICENSE_FILE,
)
from bigearth_tf.training.result_card import ResultCard

SOFTWARE_LICENCE = "Apache-2.0"  # setup.cfg, license_expression
# Sources: Zenodo record 10891137 (BigEarthNet v2), bigearth.net (v1), github.com/phelber/EuroSAT
ARCHIVE_LICENCES = {**dict.fromkeys(ARCHIVE_VERSIONS, "CDLA-Permissive-1.0"), EUROSAT: "MIT"}


def bundle_assets(model: PatchClassifier, calibration: Calibration, card: ResultCard | None) -> dict[str, bytes]:
    """Return file name -> content of the assets of a bundle; arguments and errors as for `model_assets`."""
    return {**model_assets(model, calibration, card), EMBEDDING_FILE: _json(embedding_identity(model)).encode()}


def model_assets(model: PatchClassifier, calibration: Calibration, card: ResultCard | None) -> dict[str, bytes]:
    """Return file name -> content of what has to be known of a model in any format.

    Args:
        model: to describe.
        calibration: that it decides with.
        card: of the model, None where it was not scored.

    Raises:
        ContractError: the card is that of another model.
    """
    contract = model.contract
    assets = {
        CONTRACT_FILE: _json(contract.to_dict()),
        CLASSES_FILE: "".join(f"{name}\n" for name in contract.nomenclature.names),
        CALIBRATION_FILE: _json(calibration.to_dict()),
        LICENSE_FILE: licence_text(contract),
    }
    if card is not None:
        _require_own(card, model)
        assets[CARD_FILE] = _json(card.data)
    return {name: text.encode() for name, text in assets.items()}


def licence_text(contract: DataContract) -> str:
    """Return what is known of the rights in a bundle."""
    title, licence = archive_title(contract.archive_version), ARCHIVE_LICENCES[contract.archive_version]
    return (
        f"This model was written by bigearth_tf {__version__}, which is licensed under {SOFTWARE_LICENCE}:\n"
        f"https://spdx.org/licenses/{SOFTWARE_LICENCE}.html\n\n"
        f"Its data contract names {title} as the archive that it was trained on. That archive is published under\n"
        f"{licence}: https://spdx.org/licenses/{licence}.html\n\n"
        "Weights that its training started from, such as published ones, have licences of their own.\n"
    )


def _require_own(card: ResultCard, model: PatchClassifier) -> None:
    """Refuse a card of another model: a score that is not the model's would go out with it."""
    scored, own = card.contract.to_dict(), model.contract.to_dict()
    different = [f"the contract's {key}" for key in own if scored[key] != own[key]]
    if card.data["model"] != model.model_name:
        different.insert(0, f"the name ({card.data['model']})")
    if different:
        raise ContractError(
            f"a result card goes with the model that it scored; this one is not of {model.model_name}, they differ in "
            f"{', '.join(different)}; score this model (`bigearth-tf evaluate RUN --out CARD`), or leave the card out"
        )


def _json(data: dict[str, Any]) -> str:
    return json.dumps(data, indent=1) + "\n"
