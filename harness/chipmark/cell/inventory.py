"""What of chips, providers, meters and models is here: the content of `chipmark doctor`."""

from __future__ import annotations

import importlib.util
from dataclasses import asdict, dataclass
from typing import Any

from chipmark.backends.ort.provider_scan import scan
from chipmark.backends.torch_device.devices import plugin_modules
from chipmark.cell.available import candidates
from chipmark.cell.device_state import state_source
from chipmark.cell.environment import run_module
from chipmark.cell.prepare import meter_request
from chipmark.chips.contract import ChipIdentity
from chipmark.chips.detect import chips_here
from chipmark.chips.state_text import state_text
from chipmark.meters.calibration import calibration_note
from chipmark.meters.contract import MeterInfo
from chipmark.meters.declared import AssumedMeter
from chipmark.meters.pick import meter_answers
from chipmark_models.pull import list_models

_UNSEEN = ": the kernel shows none of them here, as in most virtual machines"
_FORMATS = {"gguf": "GGUF files", "tokenizers": "transcripts", "jinja2": "chat templates"}


@dataclass(frozen=True, slots=True)
class Item:
    """One line: what, whether it is here, what it is, and how to get it."""

    kind: str
    name: str
    here: bool
    text: str
    remedy: str = ""


def inventory() -> list[Item]:
    """Every line of the report. Slow providers may take seconds to register."""
    items: list[Item] = []
    chips, missing = chips_here()
    for chip in chips:
        text = f"{chip.device_name}; {chip.unit} {chip.used}/{chip.of}; {'; '.join(chip.evidence)}"
        items.append(Item("chip", chip.name, True, text))
        items += _meters(chip)
        items.append(_state(chip))
    for text in missing:
        name, _, why = text.partition(": ")
        items.append(Item("chip", name, False, why))
    for candidate in candidates():
        here = not candidate.missing
        text = candidate.missing or "used by a suite that names no backend"
        items.append(Item("backend", candidate.backend, here, text, candidate.remedy))
    items += _torch_devices() + _ort_providers()
    for model in list_models():
        real = model["weights"] == "real"
        text = "real weights" if real else "seeded weights of its shape"
        remedy = f"chipmark models pull {model['name']}" if model["pullable"] and not real else ""
        items.append(Item("model", str(model["name"]), True, text, remedy))
    for module, purpose in _FORMATS.items():
        if importlib.util.find_spec(module) is None:
            items.append(Item("reader", module, False, purpose, "pip install 'chipmark[gguf]'"))
    return items


def _state(chip: ChipIdentity) -> Item:
    """What the device says of its clocks, heat and users now."""
    source = state_source(chip)
    text = "" if source is None else state_text(source.read())
    by = "; ".join((f"{source.name}: {text}", *source.remarks)) if source and text else ""
    return Item(
        "state",
        chip.name,
        bool(by),
        by or "clocks, heat and throttling cannot be read" + _UNSEEN * chip.on_host,
    )


def as_json(items: list[Item]) -> list[dict[str, Any]]:
    """The same as JSON objects."""
    return [asdict(item) for item in items]


def _meters(chip: ChipIdentity) -> list[Item]:
    """The meter of a chip's row, then what every meter says of its unit, its host and its node."""
    request = meter_request(chip, "", None)
    answers = meter_answers(request)
    # The first that meters the unit is the row's, as `pick_meters` takes it.
    own = next((a.meter for a in answers if a.metered == "unit" and a.meter is not None), None)
    if own is not None:
        items = [Item("meter", chip.name, True, _meter_text(own.info))]
    else:
        text = "no power is measured"
        if request.assumed is not None:
            text += f"; {_meter_text(AssumedMeter(request.assumed).info)}"
        remedy = "declare the unit's power: --power-w W"
        items = [Item("meter", chip.name, False, text, remedy)]
    shown: dict[tuple[str, str], None] = {}
    for answer in answers:
        text = answer.refusal
        if answer.meter is not None:
            info = answer.meter.info
            text = "; ".join(filter(None, (_meter_text(info), calibration_note(info))))
        if (answer.name, text) not in shown:
            shown[answer.name, text] = None
            text = f"for the {answer.metered} of {chip.name}: {text}"
            items.append(Item("meter", answer.name, answer.meter is not None, text))
    return items


def _meter_text(info: MeterInfo) -> str:
    return f"{info.source}, scope {info.scope}: {info.method}"


def _torch_devices() -> list[Item]:
    items = []
    for device, package in plugin_modules().items():
        here = importlib.util.find_spec(package) is not None
        text = f"{package} is installed" if here else f"{package} is not installed"
        remedy = "" if here else f"the vendor's own {package}, with its build of torch"
        items.append(Item("torch device", f"torch:{device}", here, text, remedy))
    return items


def _ort_providers() -> list[Item]:
    if importlib.util.find_spec("onnxruntime") is None:
        text = "onnxruntime is not installed"
        return [Item("provider", "ort", False, text, "pip install 'chipmark[ort]'")]
    from chipmark.backends.ort.providers import known_providers

    return [
        Item("provider", f"ort:{found.name}", found.here, found.text, found.remedy)
        for found in scan(list(known_providers()), run_module)
    ]
