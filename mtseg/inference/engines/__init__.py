"""What computes the tiles of a volume: TensorFlow, or a runtime without TensorFlow and Keras.

Begin with `choice.choose_engine`. `tensorflow_engine` runs `mtseg.inference.tile_graph` and is the
reference. `chunks` divides a tile for a runtime that computes the layers alone, which is in
`openvino_engine`. `rounding` gives all of them the same weights in bfloat16, `quantization` those
of int8. `averaging` is the mean of several networks, or of a volume and its mirror image.
"""

import sys

# `import openvino` reports its use to its makers over the network, unless this package of theirs
# cannot be imported. mtseg sends nothing.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
