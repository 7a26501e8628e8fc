"""Training records: TFDS builders that write TFRecord shards, and their readers.

Begin with `writing.prepare`. `schema` is the only place that spells a record's fields; `staging`
makes preparation survive a kill; `reading` opens what has been prepared.
"""

WORKER_IMPORTS = "mtseg.records.worker_imports"
"""The module that worker processes import once before they are forked."""
