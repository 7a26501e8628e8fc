"""PyTorch's side of the comparisons, in its own process.

    stack float32|bfloat16 eager|compiled N SIZE   the shared convolutions on N planes
    train float32|bfloat16 eager|compiled N        a training step on N samples
    train bfloat16 eager|compiled|graphs N cuda    the same on a GPU; graphs: compiled, and each
                                                   step is one CUDA graph
    card cpu|cuda SIZE                             what the device reaches, in bfloat16: `run 0` is
                                                   a product of two SIZE × SIZE matrices, `run 1` a
                                                   copy of one
    nnunet SCAN                                    nnU-Net v2's predictor on a scan

It obeys the lines `run`, `run K` for K training steps and `run mirrored`, as `worker_loop.serve`
says. `dense.py`, `train_step.py`, `train_on_gpu.py` and `predict.py` start it. It needs torch; for
nnU-Net also nnunetv2 and dynamic_network_architectures.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Callable

import torch
from torch import nn
from worker_loop import repetitions, serve


def make_stack(precision: str, how: str, num_planes: int, size: int) -> Callable[[str], None]:
    """25 convolutions of 32 3×3 kernels, each with bias and ELU, channels last."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for number in range(25):
        layers += [nn.Conv2d(1 if number == 0 else 32, 32, 3), nn.ELU(inplace=True)]
    dtype = getattr(torch, precision)
    stack = nn.Sequential(*layers).to(dtype).to(memory_format=torch.channels_last).eval()
    planes = torch.rand(num_planes, 1, size, size).to(dtype)
    planes = planes.to(memory_format=torch.channels_last)
    if how == "compiled":
        stack = torch.compile(stack)
    return lambda _: stack(planes)


def make_training_step(
    precision: str, how: str, num_samples: int, device: str = "cpu"
) -> Callable[[str], None]:
    """A training step of the same network, loss and optimiser; the three planes are one batch."""
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True

    def convolution(num_in: int, num_out: int, size: int) -> list[nn.Module]:
        normalise = nn.BatchNorm2d(num_out, eps=1e-3, momentum=0.01)
        return [nn.Conv2d(num_in, num_out, size, bias=False), normalise, nn.ELU(inplace=True)]

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layers = [convolution(1 if n == 0 else 32, 32, 3) for n in range(25)]
            self.stack = nn.Sequential(*(module for layer in layers for module in layer))
            self.head = nn.Sequential(
                *convolution(96, 192, 1), nn.Dropout(), *convolution(192, 192, 1), nn.Dropout(),
                nn.Conv2d(192, 7, 1),
            )  # fmt: skip

        def forward(self, planes: torch.Tensor) -> torch.Tensor:
            features = torch.cat(self.stack(planes).chunk(3), dim=1)
            return self.head(features)[:, :, 0, 0]

    network = Network().to(device, memory_format=torch.channels_last).train()
    is_graph = how == "graphs"
    optimizer = torch.optim.Adam(
        network.parameters(), lr=1e-3, fused=device == "cuda" or None, capturable=is_graph
    )
    planes = torch.rand(3 * num_samples, 1, 51, 51).to(device, memory_format=torch.channels_last)
    class_index = torch.randint(7, (num_samples,)).to(device)
    forward = network if how == "eager" else torch.compile(network)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        # Without a cache, which a graph cannot hold; every weight is cast once in any case.
        with torch.autocast(
            device, torch.bfloat16, enabled=precision == "bfloat16", cache_enabled=False
        ):
            scores = forward(planes)
        nn.functional.cross_entropy(scores.float(), class_index).backward()
        optimizer.step()

    replay = _capture(step) if is_graph else step

    def run(line: str) -> None:
        for _ in range(repetitions(line)):
            replay()
        if device == "cuda":
            torch.cuda.synchronize()

    return run


def _capture(step: Callable[[], None]) -> Callable[[], None]:
    """Makes a CUDA graph of a step, after some steps on another stream, as PyTorch asks for."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(5):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    replay: Callable[[], None] = graph.replay
    return replay


def make_card(device: str, size: int) -> Callable[[str], None]:
    """The rates that a device reaches: a product of matrices, and a copy."""
    matrix = torch.rand(size, size, device=device).to(torch.bfloat16)
    copied = torch.empty_like(matrix)

    def run(line: str) -> None:
        if line.strip() == "run 1":
            copied.copy_(matrix)
        else:
            torch.matmul(matrix, matrix, out=copied)
        if device == "cuda":
            torch.cuda.synchronize()

    return run


def make_nnunet(scan_path: str) -> Callable[[str], None]:
    """nnU-Net's predictor with its plain U-Net for patches of 128×160×128 and random weights."""
    import nibabel as nib
    import numpy as np
    from dynamic_network_architectures.architectures.unet import PlainConvUNet
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    torch.manual_seed(0)
    network = PlainConvUNet(
        input_channels=1,
        n_stages=6,
        features_per_stage=(32, 64, 128, 256, 320, 320),
        conv_op=nn.Conv3d,
        kernel_sizes=3,
        strides=(1, 2, 2, 2, 2, 2),
        n_conv_per_stage=2,
        num_classes=7,
        n_conv_per_stage_decoder=2,
        conv_bias=True,
        norm_op=nn.InstanceNorm3d,
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=nn.LeakyReLU,
        nonlin_kwargs={"inplace": True},
        deep_supervision=False,
    )
    predictor = nnUNetPredictor(
        tile_step_size=0.5,
        use_gaussian=True,
        use_mirroring=False,
        perform_everything_on_device=False,
        device=torch.device("cpu"),
        allow_tqdm=False,
    )
    predictor.network = network
    predictor.configuration_manager = types.SimpleNamespace(patch_size=(128, 160, 128))
    predictor.label_manager = types.SimpleNamespace(num_segmentation_heads=7)
    predictor.allowed_mirroring_axes = (0, 1, 2)
    scan = torch.from_numpy(np.asarray(nib.load(scan_path).dataobj, np.float32))[None]
    one_window = scan[:, :128, :160, :128]

    def run(line: str) -> None:
        # With mirroring, a window passes the network eight times, whatever the scan.
        predictor.use_mirroring = "mirrored" in line
        is_whole = line.strip() == "run"
        predictor.predict_sliding_window_return_logits(scan if is_whole else one_window)

    return run


def main() -> None:
    kind, *arguments = sys.argv[1:]

    def make() -> Callable[[str], None]:
        if kind == "train":
            precision, how, num_samples, *device = arguments
            return make_training_step(precision, how, int(num_samples), *device)
        if kind == "stack":
            precision, how, num_planes, size = arguments
            return make_stack(precision, how, int(num_planes), int(size))
        if kind == "card":
            device, size = arguments
            return make_card(device, int(size))
        return make_nnunet(*arguments)

    with torch.inference_mode(kind != "train"):
        serve(make)


if __name__ == "__main__":
    main()
