"""What the tests compare of prepared records."""

import tensorflow as tf

from mtseg.records.prepared import prepared_dir
from mtseg.records.reading import find_shards
from mtseg.records.shards import TFRECORD, read_array_record


def encoded_records(data_dir, kind, task="renal", source="folder"):
    """The bytes of every record of a kind, sorted."""
    records = []
    for split in find_shards(prepared_dir(data_dir, task, source, kind)).values():
        if split.file_format == TFRECORD:
            dataset = tf.data.TFRecordDataset([str(path) for path in split.paths])
            records += [record.numpy() for record in dataset]
        else:
            records += [record for path in split.paths for record in read_array_record(path)]
    return sorted(records)
