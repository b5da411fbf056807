"""Checks and times the network on a GPU, ours beside nnU-Net's own: python benchmarks/gpu.py

Every variant is compared with nnU-Net's fp32 network before it is timed, then timed by a monotonic clock as the benchmark
itself does: one call at a time, from the staged volumes to complete logits, with and without the volumes' transfer.
Prints a Markdown table and writes gpu.json beside it. `--layers` times each convolution in each form instead.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from unet3d import workload
from unet3d.brats import weights
from unet3d.config.precisions import PRECISIONS
from unet3d.devices import host, registry
from unet3d.engines.base import Request
from unet3d.engines.pytorch.engine import TorchEngine
from unet3d.errors import BenchmarkError
from unet3d.measure import against_fp32
from unet3d.results.timing import timed


class Stock(TorchEngine):
    """nnU-Net's network as PyTorch runs it when nobody changes its memory layout."""

    use_graphs = False

    def load(self, reference: Any) -> None:
        import torch

        super().load(reference)
        self._module = self._module.to(memory_format=torch.contiguous_format)

    def stage(self, volumes: Any) -> Any:
        return super().stage(volumes).contiguous()


class StockChannelsLast(TorchEngine):
    """nnU-Net's network with weights and volumes in channels_last_3d."""

    use_graphs = False


class WithoutGraph(TorchEngine):
    """Our network, each kernel launched by itself."""

    use_graphs = False


# (name, engine, network, JIT)
VARIANTS = (
    ("nnU-Net, eager", Stock, "reference", "none"),
    ("nnU-Net, torch.compile", Stock, "reference", "compile"),
    ("nnU-Net in channels_last_3d, torch.compile", StockChannelsLast, "reference", "compile"),
    ("ours, JIT=none", TorchEngine, "fast", "none"),
    ("ours, JIT=trace without graph", WithoutGraph, "fast", "trace"),
    ("ours, JIT=compile without graph", WithoutGraph, "fast", "compile"),
    ("ours, JIT=trace", TorchEngine, "fast", "trace"),
    ("ours, JIT=compile", TorchEngine, "fast", "compile"),
)


def measure(engine: TorchEngine, volumes: Any, on_device: bool, seconds: float) -> dict[str, Any]:
    """Latencies of at least 5 calls and `seconds`, with energy and clocks where they can be read."""
    engine.request = dataclasses.replace(engine.request, input_on_device=on_device)
    staged = engine.stage(volumes)
    for _ in range(3):
        engine.infer(staged)
    power = engine.request.device.power_source()
    latencies: list[float] = []
    clocks: dict[str, int] = {}
    joules, begin = power.joules() if power else 0.0, perf_counter()
    while len(latencies) < 5 or perf_counter() - begin < seconds:
        latencies.append(timed(engine.infer, staged)[1])
        if power and not clocks and perf_counter() - begin > seconds / 2:
            clocks = power.clocks_mhz()
    elapsed = perf_counter() - begin
    used = power.joules() - joules if power else None
    ordered = sorted(latencies)
    done = len(latencies) * len(volumes)
    return {
        "calls": len(latencies),
        "latency_ms": 1e3 * ordered[len(ordered) // 2],
        "latency_p90_ms": 1e3 * ordered[-(-9 * len(ordered) // 10) - 1],
        "volumes_per_second": done / sum(latencies),
        "joules_per_volume": used / done if power else None,
        "watts": used / elapsed if power else None,
        "clocks_mhz": clocks,
    }


def run_variant(variant: tuple, precision: str, options: argparse.Namespace, device: Any, reference: Any) -> Iterator[dict]:
    """Rows of one variant: each batch size, with the volumes on the device and on the host."""
    import numpy as np
    import torch

    name, kind, network, jit = variant
    torch._dynamo.reset()
    engine = kind(Request(engine="torch", device=device, precision=precision, jit=jit, network=network))
    row = {"variant": name, "precision": precision}
    try:
        engine.load(reference)
        row["relative_error"] = against_fp32.against_fp32(engine, reference, options.seed).relative_error
        row["effective"] = dataclasses.asdict(engine.effective())
        for batch in options.batches:
            volumes = np.random.default_rng(options.seed).standard_normal((batch, 4, *options.shape), dtype=np.float32)
            engine.request = dataclasses.replace(engine.request, shape=volumes.shape)
            device.reset_peak_memory()
            engine.compile(engine.stage(volumes))
            for on_device in (True, False):
                yield {
                    **row,
                    "batch": batch,
                    "input_on_device": on_device,
                    "compile_seconds": engine.load_seconds["compile"],
                    **measure(engine, volumes, on_device, options.seconds),
                    "peak_bytes": device.peak_memory(),
                    "effective": dataclasses.asdict(engine.effective()),
                    "warnings": engine.warnings,
                }
    except (BenchmarkError, RuntimeError) as error:
        yield {**row, "error": f"{type(error).__name__}: {str(error).splitlines()[0]}"}
    finally:
        engine.close()
        del engine
        gc.collect()
        device.empty_cache()


def table(rows: list[dict]) -> str:
    """The rows as Markdown, stock and ours in the order in which they ran."""
    lines = [
        "| Variant | Precision | Batch | Volumes | Volumes/s | Latency median, p90 (ms) | J/volume | Error to fp32 |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        if "error" in row:
            lines.append(f"| {row['variant']} | {row['precision']} | | | failed: {row['error']} | | | |")
            continue
        joules = "n/a" if row["joules_per_volume"] is None else f"{row['joules_per_volume']:.1f}"
        where = "on device" if row["input_on_device"] else "from host"
        lines.append(
            f"| {row['variant']} | {row['precision']} | {row['batch']} | {where} | "
            f"{row['volumes_per_second']:.1f} | {row['latency_ms']:.2f}, {row['latency_p90_ms']:.2f} | {joules} | "
            f"{row['relative_error']:.1e} |"
        )
    return "\n".join(lines)


def time_layers(options: argparse.Namespace, device: Any, reference: Any) -> None:
    """Each 3x3x3 convolution with its moments: milliseconds in the library's form and in ours."""
    import torch

    from unet3d.network import flops, gpu
    from unet3d.network.inference import InferenceUNet
    from unet3d.network.triton_ops.march import CHANNELS

    form = InferenceUNet.from_reference(reference, native=False)
    extent = list(options.shape)
    blocks = []
    for stage in form.encoder:
        for block in stage:
            blocks.append((block, tuple(extent)))
            extent = [-(-e // s) for e, s in zip(extent, block.conv.stride, strict=True)]
    for level, stage in enumerate(form.decoder):
        size = [e >> (len(form.decoder) - 1 - level) for e in options.shape]
        blocks += [(block, tuple(size)) for block in stage]
    print("| Channels | Stride | Extent | " + "Form and ms | TFLOP/s |\n| --- | --- | --- | --- | --- |")
    for precision in options.precisions:
        dtype = PRECISIONS[precision].dtype()
        for block, size in dict.fromkeys((b, s) for b, s in blocks):
            conv = block.conv
            forms = [("library", 0)]
            if gpu.form_of(conv, dtype, lambda _: "planes") == "planes":
                forms += [("planes", chunk) for chunk in (2, 3, 4, 8, 16, 32, size[0])]
                if {conv.in_channels, conv.out_channels} <= set(CHANNELS):
                    forms.append(("march", 0))
            elif gpu.form_of(conv, dtype, gpu.elsewhere) == "first":
                forms.append(("first", 0))
            x = torch.randn((1, *size, conv.in_channels), device=device.torch_device, dtype=dtype).permute(0, 4, 1, 2, 3)
            extent = flops.convolution_extent(size, conv.kernel_size, conv.stride, conv.padding)
            flop = flops.convolution_flop(conv.weight.shape, x.shape, (1, conv.out_channels, *extent))
            for name, chunk in forms:
                made = gpu.Block(block, dtype, name).to(device.torch_device)
                gpu.CHUNK = chunk or gpu.CHUNK
                with torch.inference_mode():
                    milliseconds = 1e3 * _median(lambda made=made, x=x: made(x), device)
                label = f"{name} {chunk}" if chunk else name
                print(
                    f"| {conv.in_channels} to {conv.out_channels} {precision} | {conv.stride[0]} | {size} | {label}: "
                    f"{milliseconds:.3f} | {flop / milliseconds / 1e9:.0f} |",
                    flush=True,
                )


def _median(call: Any, device: Any, count: int = 15) -> float:
    """Seconds of one call when several follow each other, so that launches are hidden: median of `count` rounds."""
    rounds = []
    for _ in range(count):
        device.synchronize()
        start = perf_counter()
        for _ in range(3):
            call()
        device.synchronize()
        rounds.append((perf_counter() - start) / 3)
    return sorted(rounds)[count // 2]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=registry.accelerators(), help="default: what is there")
    parser.add_argument("--shape", type=lambda text: tuple(map(int, text.split(","))), default=workload.SHAPE)
    parser.add_argument("--batches", type=lambda text: tuple(map(int, text.split(","))), default=(1, 2))
    parser.add_argument("--precisions", type=lambda text: tuple(text.split(",")), default=("fp16", "bf16"))
    parser.add_argument("--seconds", type=float, default=2.0, help="of each timing")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="variants whose name has this text")
    parser.add_argument("--layers", action="store_true", help="time single convolutions in each form")
    parser.add_argument("--output", type=Path, default=Path("output_gpu"), help="folder for gpu.json and gpu.md")
    options = parser.parse_args()
    kind = options.device or next(
        (kind for kind in registry.accelerators() if registry.device_class(kind).is_available()), "cuda"
    )
    device = registry.open_device(kind)
    from unet3d.network import reference

    loaded = weights.random_weights()
    network = reference.build(loaded.plans, loaded.state_dict)
    if options.layers:
        time_layers(options, device, network)
        return 0
    options.output.mkdir(parents=True, exist_ok=True)
    found = {
        "device": dataclasses.asdict(device.properties()),
        "versions": host.versions(),
        "hardware": host.hardware(),
        "shape": options.shape,
        "rows": [],
    }
    for precision in options.precisions:
        for variant in VARIANTS:
            if options.only not in variant[0]:
                continue
            for row in run_variant(variant, precision, options, device, network):
                found["rows"].append(row)
                print(table([row]).splitlines()[-1], flush=True)
                (options.output / "gpu.json").write_text(json.dumps(found, indent=1, default=str))
    versions = found["versions"]
    head = (
        f"{found['device']['name']}, driver {found['device']['driver']}, torch {versions.get('torch')}, "
        f"cuDNN {versions.get('cuDNN')}, triton {versions.get('triton')}; volumes of {options.shape}"
    )
    (options.output / "gpu.md").write_text(f"{head}\n\n{table(found['rows'])}\n")
    print(f"\n{head}\n\n{table(found['rows'])}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BenchmarkError as error:
        sys.exit(f"error: {error}")
