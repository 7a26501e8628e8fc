"""What worker processes import, once, before they are forked.

This is a module because the server process of `mtseg.system.processes` imports by name. It is named
by `mtseg.records.WORKER_IMPORTS`.
"""

from __future__ import annotations

import os

from mtseg.errors import InputError
from mtseg.system.quiet_tensorflow import import_tensorflow

# Workers compute nothing on a GPU, and a process that has opened one must not be forked.
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
try:
    import_tensorflow()
except InputError as error:  # the command itself says so; the server of the workers expects this
    raise ImportError(str(error)) from error

import mtseg.records.staging  # noqa: F401
