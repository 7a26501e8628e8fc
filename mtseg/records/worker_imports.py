"""What worker processes import once, before they are forked."""

from __future__ import annotations

import os

from mtseg.system.quiet_tensorflow import import_tensorflow

# They compute nothing on a GPU, and a process that has opened one must not be forked.
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
import_tensorflow()

import mtseg.records.staging  # noqa: E402, F401
