"""The trial's modules are a package of the tests."""

from __future__ import annotations

import sys
from pathlib import Path

# Appended, so that nothing of this folder's neighbours hides a package that is installed.
sys.path.append(str(Path(__file__).parent.parent))
