"""What the tests compare of prepared records."""

import tensorflow as tf

from mtseg.records.reading import prepared_dir


def encoded_records(data_dir, kind, task="renal", source="folder"):
    """The bytes of every record of a kind, sorted."""
    folder = prepared_dir(data_dir, task, source, kind)
    shards = sorted(str(path) for path in folder.glob("*.tfrecord*"))
    return sorted(record.numpy() for record in tf.data.TFRecordDataset(shards))
