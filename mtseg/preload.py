"""What worker processes are forked with: imported once, whatever their number, and quietly."""

from __future__ import annotations

from mtseg.startup import import_tensorflow

import_tensorflow()

import mtseg.staging  # noqa: E402, F401
