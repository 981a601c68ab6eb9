"""What the driver's own tool says of a card: name, clocks, limits of power."""

from __future__ import annotations

import shutil
import subprocess

FIELDS = (
    "name", "uuid", "driver_version", "vbios_version", "memory.total", "clocks.max.sm",
    "clocks.max.memory", "clocks.sm", "clocks.memory", "power.limit", "power.default_limit",
    "power.max_limit", "power.draw", "temperature.gpu", "persistence_mode", "mig.mode.current",
    "ecc.mode.current", "compute_mode", "utilization.gpu", "memory.used",
)  # fmt: skip
_WAIT_S = 20.0


def asked_of_card(uuid: str) -> dict[str, str]:
    """`FIELDS` of the card with this uuid as `nvidia-smi` prints them, units in the values.

    Empty where the tool is missing or does not answer: then only torch's word is known.
    """
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return {}
    command = [tool, f"--query-gpu={','.join(FIELDS)}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_WAIT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return {}
    return card_of(done.stdout, uuid) if done.returncode == 0 else {}


def card_of(printed: str, uuid: str) -> dict[str, str]:
    """The row of the card with this uuid, the only row where just one card is listed.

    torch gives the uuid without the tool's `GPU-`.
    """
    rows = [
        dict(zip(FIELDS, (value.strip() for value in line.split(",")), strict=False))
        for line in printed.splitlines()
        if line.count(",") == len(FIELDS) - 1
    ]
    mine = [row for row in rows if uuid and row["uuid"].removeprefix("GPU-") == uuid]
    if mine:
        return mine[0]
    return rows[0] if len(rows) == 1 else {}
