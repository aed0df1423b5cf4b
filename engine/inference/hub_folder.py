"""A network as a folder for the Hugging Face hub, which timm loads (`timm.create_model("hf-hub:OWNER/NAME", pretrained=True)`):
`model.safetensors` with timm's names and our metadata, and timm's `config.json`."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.evaluation.settings import Settings
from inception import Network, NetworkError, export_state, save_weights
from inception.weights.files import HUB_FILE

HUB = "hf"


def write_folder(network: Network, settings: Settings, metadata: Mapping[str, Any], folder: Path) -> str:
    """Writes the folder, after timm's own network took the weights; returns a note in words. Raises NetworkError where timm has
    no such network, or none with these options."""
    import timm  # slow to import
    from timm.models import save_for_hf

    state = export_state(network, "timm")
    theirs = timm.create_model(network.name, num_classes=network.num_classes, in_chans=network.in_channels)
    wanted = theirs.state_dict()
    left = sorted({name.partition(".")[0] for name in state.keys() - wanted.keys()})
    state = {name: tensor for name, tensor in state.items() if name in wanted}
    try:
        theirs.load_state_dict(state)
    except RuntimeError:
        raise NetworkError(
            f"timm has no {network.name} with the options {network.options}; write it with --format safetensors"
        ) from None
    shown = {
        "input_size": (network.in_channels, settings.resolution, settings.resolution),
        "interpolation": settings.interpolation,
        "crop_pct": crop_percentage(settings),
        "crop_mode": "center",
        "mean": settings.mean,
        "std": settings.std,
    }
    labels = {"label_names": list(metadata["classes"])} if "classes" in metadata else {}
    save_for_hf(theirs, str(folder), model_config=labels, data_config=shown, safe_serialization=True)
    options = {**metadata["options"], **({"auxiliary": False} if left else {})}
    save_weights(folder / HUB_FILE, state, {**metadata, "options": options})
    notes = [f"{len(state)} tensors and config.json as timm reads them"]
    notes += [f"without {name}, which timm's network lacks" for name in left]
    if not settings.resize:
        notes.append("timm resizes before it cuts, so that it shows images a little otherwise")
    return "; ".join(notes)


def crop_percentage(settings: Settings) -> float:
    """The crop_pct from which timm reckons the resize: floor(resolution / crop_pct)."""
    stated = settings.crop_fraction
    if not settings.resize or math.floor(settings.resolution / stated) == settings.resize:
        return stated
    return settings.resolution / (settings.resize + 0.5)
