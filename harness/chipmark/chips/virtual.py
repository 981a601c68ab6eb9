"""Whether this machine is a virtual one, on every architecture.

x86 sets a CPU flag; ARM and others have none, so firmware (DMI), the device tree and the kernel's
own words are looked at. In a virtual machine the CPUs are a share of a package that others use
too, and its sockets are whatever the hypervisor likes to show.
"""

from __future__ import annotations

from pathlib import Path

_VENDORS = (
    "qemu", "kvm", "vmware", "xen", "innotek", "parallels", "bochs", "openstack", "nutanix",
    "red hat", "digitalocean", "tencent cloud", "alibaba cloud", "huawei cloud", "google",
)  # fmt: skip
_PRODUCTS = ("virtual machine", "kvm", "virtualbox", "vmware", "hvm domu", "compute engine")


def virtual_by(root: Path, flags: frozenset[str]) -> str:
    """What tells that the machine under `root` is virtual; "" where nothing does.

    flags: of /proc/cpuinfo.
    """
    if "hypervisor" in flags:
        return "hypervisor flag"
    dmi = root / "sys/devices/virtual/dmi/id"
    vendor, product = _text(dmi / "sys_vendor"), _text(dmi / "product_name")
    # EC2 sells whole machines too, under names of their own.
    if vendor == "Amazon EC2" and not product.endswith(".metal"):
        return f"DMI: {vendor} {product}".strip()
    if vendor.lower().startswith(_VENDORS) or any(word in product.lower() for word in _PRODUCTS):
        return f"DMI: {vendor} {product}".strip()
    if kind := _text(root / "sys/hypervisor/type"):
        if "control_d" in _text(root / "proc/xen/capabilities"):
            return ""
        return f"/sys/hypervisor/type: {kind}"
    node = _text(root / "proc/device-tree/hypervisor/compatible").strip("\0")
    return f"device tree: {node}" if node else ""


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
