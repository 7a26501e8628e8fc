"""What commands leave in a folder, without what differs from run to run though nothing is wrong."""

import gzip
import json
import re
from operator import attrgetter

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from mtseg.system.checksums import CHECKSUMS, verify_checksums

CHANGING = {"training_seconds", "scan_modified_ns"}
"""Fields of JSON files that hold a time."""


def content_of(folder):
    """Relative path -> content, of every file below a folder; its own path reads FOLDER.

    Of TensorBoard's event files each run writes its own; files that are locked are empty.
    """
    content = {}
    for path in sorted(folder.rglob("*")):
        # An exported model that is given again is the next version.
        name = re.sub(r"(^|/)\d+/", r"\1VERSION/", str(path.relative_to(folder)))
        if path.is_file() and "tfevents" not in name and path.name != ".lock":
            content[name] = _content(path, folder)
    return content


def _content(path, folder):
    data = path.read_bytes()
    if path.suffix == ".json":
        data = json.dumps(_without_times(json.loads(data))).encode()
    elif path.suffix == ".npz":  # a checkpoint of JAX
        with np.load(path) as file:
            return {name: file[name].tobytes() for name in file.files if name != "seconds"}
    elif path.suffix == ".gz":
        data = gzip.decompress(data)
    elif path.name == "saved_model.pb":
        return _graphs(data)
    elif path.name == "fingerprint.pb":
        return "present"
    elif path.name == CHECKSUMS:
        verify_checksums(path.parent)
        return "right"
    elif re.fullmatch(r"(state|variables)\.(index|data.*)", path.name):
        return _variables(path)
    return data.replace(str(folder).encode(), b"FOLDER")


def _without_times(value):
    if isinstance(value, dict):
        return {k: _without_times(v) for k, v in value.items() if k not in CHANGING}
    return [_without_times(v) for v in value] if isinstance(value, list) else value


def _graphs(data):
    """Every function's name without its number, and how many operations it has."""
    model = saved_model_pb2.SavedModel.FromString(data)
    functions = attrgetter("library.function")(model.meta_graphs[0].graph_def)
    return sorted((re.sub(r"\d+", "", f.signature.name), len(f.node_def)) for f in functions)


def _variables(path):
    """The values of a checkpoint; how long training took is one of them."""
    reader = tf.train.load_checkpoint(str(path.with_suffix("")))
    values = {
        name: reader.get_tensor(name).tobytes()
        for name in reader.get_variable_to_shape_map()
        if not name.startswith(("seconds", "_CHECKPOINTABLE"))
    }
    if path.stem == "state":
        return values
    # Keras numbers the variables of an exported model as they come; dropout's seed is in no use.
    types = reader.get_variable_to_dtype_map()
    return sorted(value for name, value in values.items() if types[name].is_floating)
