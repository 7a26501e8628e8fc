"""Prepared data on disk: patch and volume records in shards, which TFDS can read.

Begin with `writing.prepare`, which is `mtseg-prepare`. `schema` is the only module that spells a
record's fields, `shards` the only one that knows the formats of files. `staging` makes a
preparation resumable, `planning` decides what has to be done, `estimates` what memory and disk it
takes, `prepared` says what is there, and `reading` opens it.
"""

WORKER_IMPORTS = "mtseg.records.worker_imports"
"""Name of the module that worker processes import before they are forked."""
