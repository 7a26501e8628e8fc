"""The files beside a served model, read by the protocol buffers that they must follow."""

import ast
import json
import os
import re
import shutil
import sys

import pytest
import tensorflow as tf
import yaml
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from tensorflow_serving.apis import prediction_log_pb2
from tensorflow_serving.config import model_server_config_pb2

import mtseg
from mtseg.errors import InputError
from mtseg.runs.manifest import versions
from mtseg.serving import folder as serving
from mtseg.serving.folder import export_serving, prune
from tests.models.documented_commands import code_blocks, commands_in, parse

pytestmark = pytest.mark.slow

FIELD = descriptor_pb2.FieldDescriptorProto


def message_class(name, **fields):
    """A message whose definition is not in TensorFlow Serving's Python package.

    Args:
        name: of the message.
        fields: name -> its type: `bool`, `string`, `Int64Value`, or the fields of a message.
    """
    file = descriptor_pb2.FileDescriptorProto(
        name=f"{name}.proto", package=name.lower(), syntax="proto3"
    )
    file.dependency.append("google/protobuf/wrappers.proto")

    def add(message, fields):
        for number, (field, kind) in enumerate(fields.items(), start=1):
            added = message.field.add(name=field, number=number, label=FIELD.LABEL_OPTIONAL)
            if kind == "bool":
                added.type = FIELD.TYPE_BOOL
            elif kind == "string":
                added.type = FIELD.TYPE_STRING
            elif kind == "Int64Value":
                added.type, added.type_name = FIELD.TYPE_MESSAGE, ".google.protobuf.Int64Value"
            else:
                add(file.message_type.add(name=field), kind)
                added.type, added.type_name = FIELD.TYPE_MESSAGE, f".{file.package}.{field}"

    add(file.message_type.add(name=name), fields)
    from google.protobuf import wrappers_pb2

    pool = descriptor_pool.DescriptorPool()
    wrappers = descriptor_pb2.FileDescriptorProto()
    wrappers_pb2.DESCRIPTOR.CopyToProto(wrappers)
    pool.Add(wrappers)
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{file.package}.{name}"))


def test_models_config(serving_folder):
    text = (serving_folder / "models.config").read_text()
    config = text_format.Parse(text, model_server_config_pb2.ModelServerConfig())
    (model,) = config.model_config_list.config
    assert (model.name, model.base_path) == ("mtseg", "/models/mtseg")
    assert model.model_platform == "tensorflow"
    assert model.model_version_policy.latest.num_versions == 2


def test_batching_config(serving_folder):
    # tensorflow_serving/servables/tensorflow/session_bundle_config.proto, BatchingParameters
    parameters = message_class(
        "BatchingParameters",
        max_batch_size="Int64Value",
        batch_timeout_micros="Int64Value",
        max_enqueued_batches="Int64Value",
        num_batch_threads="Int64Value",
    )
    config = text_format.Parse((serving_folder / "batching.config").read_text(), parameters())
    assert config.max_batch_size.value == 1  # Volumes are never joined.
    assert config.num_batch_threads.value == 2
    assert config.max_enqueued_batches.value == 64
    assert config.HasField("batch_timeout_micros")


def test_monitoring_config(serving_folder):
    # tensorflow_serving/config/monitoring_config.proto, MonitoringConfig
    monitoring = message_class(
        "MonitoringConfig", prometheus_config={"enable": "bool", "path": "string"}
    )
    config = text_format.Parse((serving_folder / "monitoring.config").read_text(), monitoring())
    assert config.prometheus_config.enable
    assert config.prometheus_config.path == "/monitoring/prometheus/metrics"


def test_warm_up_requests_can_be_replayed(serving_folder):
    version = serving_folder / "mtseg" / "1"
    path = version / "assets.extra" / "tf_serving_warmup_requests"
    assert path.stat().st_size < 10_000
    model, seen = tf.saved_model.load(str(version)), []
    for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
        request = prediction_log_pb2.PredictionLog.FromString(record).predict_log.request
        assert request.model_spec.name == "mtseg"
        inputs = {name: tf.make_ndarray(proto) for name, proto in request.inputs.items()}
        name = request.model_spec.signature_name
        seen.append(name)
        if name in ("segment", "classify_patches"):
            outputs = model.signatures[name](**{k: tf.constant(v) for k, v in inputs.items()})
            assert outputs["probabilities"].shape[0] == 1
        else:
            assert inputs["tile"].shape == (1, 82, 82, 82)
            assert model.signatures[name].structured_input_signature[1].keys() == inputs.keys()
    assert seen == [
        "segment", "tile_probabilities", "tile_probabilities_bfloat16", "classify_patches"
    ]  # fmt: skip


def test_the_container_is_on_this_machine_alone(serving_folder):
    text = (serving_folder / "compose.yaml").read_text()
    assert '"127.0.0.1:8500:8500"' in text
    assert '"127.0.0.1:8501:8501"' in text
    assert "/v1/models/mtseg " in text
    assert "MODEL" not in text
    assert "MODEL" not in (serving_folder / "README.md").read_text()


def test_the_images_ports_and_paths_of_the_cluster_are_those_of_the_container(serving_folder):
    text = (serving_folder / "kubernetes.yaml").read_text()
    container = (serving_folder / "compose.yaml").read_text()
    assert "MODEL" not in text
    (image,) = re.findall(r"tensorflow/serving:[\d.]+", text)
    assert f"-{image}}}" in container
    arguments = re.findall(r"- (--\S+)", text)
    assert len(arguments) == 5
    assert arguments == re.findall(r"- (--\S+)", container)
    assert "path: /v1/models/mtseg, port: rest" in text
    assert "capabilities: {drop: [ALL]}" in text


def test_gpus_are_given_to_the_same_container_of_the_same_version(serving_folder):
    read = {name: yaml.safe_load((serving_folder / name).read_text())
            for name in ("compose.yaml", "compose.gpu.yaml", "kubernetes-gpu.yaml")}  # fmt: skip
    name, container = next(iter(read["compose.yaml"]["services"].items()))
    on_gpu = read["compose.gpu.yaml"]["services"][name]
    assert on_gpu["image"] == container["image"].replace("}", "-gpu}")
    (device,) = on_gpu["deploy"]["resources"]["reservations"]["devices"]
    assert device["driver"] == "nvidia"
    cluster = list(yaml.safe_load_all((serving_folder / "kubernetes.yaml").read_text()))
    (pod,) = (part["spec"]["template"]["spec"] for part in cluster if part["kind"] == "Deployment")
    (patched,) = read["kubernetes-gpu.yaml"]["spec"]["template"]["spec"]["containers"]
    assert patched["name"] == pod["containers"][0]["name"]
    assert patched["image"] == pod["containers"][0]["image"] + "-gpu"


def test_the_scaler_by_waiting_requests_replaces_the_other_and_has_its_metric(serving_folder):
    cluster = yaml.safe_load_all((serving_folder / "kubernetes.yaml").read_text())
    (by_processor,) = (part for part in cluster if part["kind"] == "HorizontalPodAutoscaler")
    by_queue = yaml.safe_load((serving_folder / "kubernetes-queue.yaml").read_text())
    assert by_queue["metadata"] == by_processor["metadata"]
    assert by_queue["spec"]["scaleTargetRef"] == by_processor["spec"]["scaleTargetRef"]
    (metric,) = by_queue["spec"]["metrics"]
    adapter = yaml.safe_load((serving_folder / "prometheus-adapter.yaml").read_text())
    (rule,) = adapter["rules"]["custom"]
    assert rule["name"]["as"] == metric["pods"]["metric"]["name"]
    assert rule["seriesQuery"].startswith(
        ":tensorflow:serving:batching_session:queuing_latency_sum{"
    )


def test_charts_and_alerts_are_of_metrics_that_the_server_has(serving_folder):
    # tensorflow_serving/servables/tensorflow/util.cc and batching/batching_session.cc
    known = {
        "request_count", "request_latency_bucket", "runtime_latency_sum",
        "batching_session:queuing_latency_bucket",
    }  # fmt: skip
    board = json.loads((serving_folder / "grafana-dashboard.json").read_text())
    queries = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    rules = (serving_folder / "prometheus-rules.yaml").read_text()
    for text in (*queries, rules):
        named = re.findall(r":tensorflow:serving:([\w:]+)", text)
        assert named
        assert set(named) <= known
    assert {name for name in known if name in rules + "".join(queries)} == known
    assert 'model_name="mtseg"' in rules
    # tensorflow/cc/saved_model/loader.cc; a server has it from the load on, before any request.
    gone = rules.split("alert: ModelServerGone")[1]
    assert 'load_attempt_count{model_path=~"/models/mtseg/.*"' in gone


def test_the_schema_in_the_readme_is_the_manifests(serving_folder):
    manifest = json.loads((serving_folder / "mtseg" / "1" / "manifest.json").read_text())
    request = f'{{"signature_name": "describe", "inputs": {{"schema": [{manifest["schema"]}]}}}}'
    assert request in (serving_folder / "README.md").read_text()


def test_the_commands_and_python_of_the_readme_can_be_run(serving_folder):
    text = (serving_folder / "README.md").read_text()
    names = [words[0] for words in commands_in(text) if parse(words)]
    assert names == ["mtseg-predict"]
    (code,) = code_blocks(text, "python")
    tree = ast.parse(code)
    used = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    of_mtseg = {node.attr for node in used if getattr(node.value, "id", "") == "mtseg"}
    assert of_mtseg == {"load"} <= set(dir(mtseg))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    exec("\n".join(map(ast.unparse, imports)), {})


def test_a_second_model_joins_and_old_versions_go_on_request(serving_folder, tmp_path, monkeypatch):
    chunks = []

    def export(workdir, out, which, finish, chunk_bytes):
        chunks.append(chunk_bytes)
        number = max(versions(out), default=0) + 1 if out.is_dir() else 1
        (out / str(number)).mkdir(parents=True)
        return out / str(number)

    folder = tmp_path / "serving"
    shutil.copytree(serving_folder, folder)
    monkeypatch.setattr(serving, "export_model", export)
    export_serving("run", folder, name="heart")
    text = (folder / "models.config").read_text()
    config = text_format.Parse(text, model_server_config_pb2.ModelServerConfig())
    assert [model.name for model in config.model_config_list.config] == ["heart", "mtseg"]
    for _ in range(3):
        path, removed = export_serving("run", folder, name="heart")
        assert removed == []
    assert (path.name, versions(folder / "heart")) == ("4", [1, 2, 3, 4])
    _, removed = export_serving("run", folder, name="heart", keep=2, gpu_bytes=64 * 10**9)
    assert removed == [1, 2, 3]
    assert set(chunks[:-1]) == {8_000_000}  # of a processor
    assert chunks[-1] == 2 * 10**9
    assert sorted(os.listdir(folder / "heart")) == ["4", "5"]
    assert prune(folder / "heart", 2) == []


@pytest.mark.parametrize("name", ["", "a/b", "..", "7", ".hidden", "a b", "a\n"])
def test_a_name_that_no_address_can_have_is_refused(tmp_path, name):
    with pytest.raises(InputError, match="--name"):
        export_serving("run", tmp_path / "out", name=name)
    assert not (tmp_path / "out").exists()


def test_a_missing_package_is_said_before_the_long_work(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_serving.apis", None)
    with pytest.raises(InputError, match=r"pip install 'mtseg\[serving\]'"):
        export_serving(tmp_path / "no_run_yet", tmp_path / "served")
    assert not (tmp_path / "served").exists()
