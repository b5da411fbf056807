"""The one declaration of every setting: name, values, default and meaning.

The command line, the environment variables, `--help`, the banner, the documents' tables and `results.json`
all come from `SETTINGS`. The flag of `batch_size` is `--batch-size`, its variable is `BATCH_SIZE`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from unet3d import workload
from unet3d.config import kinds
from unet3d.config.names import ENGINES, ONNX_PROVIDERS, PLATFORMS
from unet3d.config.precisions import PRECISIONS

# Groups of --help.
PERFORMANCE, MEASURING, SEVERAL = "What runs", "How it is measured", "Several devices, processes and machines"
DATA, OUTPUT = "Volumes and weights", "Output"


@dataclass(frozen=True)
class Setting:
    """One setting; `parse(text)` returns its value or raises ValueError with what is allowed."""

    name: str
    group: str
    parse: Callable[[str], object]
    values: str
    help: str
    default: object = None
    default_text: str = ""
    bare: str | None = None  # what the flag means when it is given without a value

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        return self.name.upper()

    @property
    def shown_default(self) -> str:
        return self.default_text or kinds.show(self.default)


SETTINGS: tuple[Setting, ...] = (
    Setting(
        "platform",
        PERFORMANCE,
        kinds.choice(*PLATFORMS),
        ", ".join(PLATFORMS),
        "Hardware to run on",
        default_text="detected",
    ),
    Setting(
        "precision",
        PERFORMANCE,
        kinds.choice(*PRECISIONS),
        ", ".join(PRECISIONS),
        "Data type of the convolutions; int8 needs ENGINE=openvino, a CPU with AMX, or an H100 or H200",
        default_text="fp16 on GPUs; on a CPU bf16 with AMX or AVX512-BF16, else fp32; ENGINE=onnxruntime has fp32 there",
    ),
    Setting(
        "engine",
        PERFORMANCE,
        kinds.choice(*ENGINES),
        ", ".join(ENGINES),
        "Software that runs the network",
        default="torch",
    ),
    Setting(
        "onnx_provider",
        PERFORMANCE,
        kinds.choice(*ONNX_PROVIDERS),
        ", ".join(ONNX_PROVIDERS),
        "What ENGINE=onnxruntime runs on with PLATFORM=CUDA: cuDNN's kernels, or TensorRT",
        default_text="cuda with ENGINE=onnxruntime and PLATFORM=CUDA, else none",
    ),
    Setting(
        "jit",
        PERFORMANCE,
        kinds.choice("none", "trace", "compile"),
        "none, trace, compile",
        "How PyTorch compiles the network: not at all, torch.jit.trace, torch.compile",
        default="trace",
        default_text="trace with ENGINE=torch, else none",
    ),
    Setting(
        "network",
        PERFORMANCE,
        kinds.choice("fast", "reference"),
        "fast, reference",
        "Form of the network: ours for inference, or nnU-Net's own; same weights and output",
        default="fast",
    ),
    Setting(
        "tune",
        PERFORMANCE,
        kinds.yes_no,
        "yes, no",
        "On a GPU: before timing, find the fastest form of each convolution on this card; later runs use it",
        default=False,
        bare="yes",
    ),
    Setting(
        "ipex",
        PERFORMANCE,
        kinds.yes_no,
        "yes, no",
        "Use Intel Extension for PyTorch",
        default_text="yes on Flex and Max where it is installed, else no",
    ),
    Setting(
        "amp",
        PERFORMANCE,
        kinds.yes_no,
        "yes, no",
        "yes: autocast; no: the whole network is cast to the precision",
        default=True,
    ),
    Setting(
        "multi_tile",
        SEVERAL,
        kinds.yes_no,
        "True, False",
        "Use every tile or device of the machine",
        default=False,
        default_text="False",
        bare="True",
    ),
    Setting(
        "devices",
        SEVERAL,
        kinds.count_or_all,
        "1, 2, …, all",
        "GPUs or tiles to use, one process each",
        default_text="1; all with MULTI_TILE=True",
    ),
    Setting(
        "instances",
        SEVERAL,
        kinds.whole_number(1),
        "1, 2, …",
        "Processes on a CPU, each pinned to its share of the cores and to their memory",
        default_text="one, not pinned; with MULTI_TILE=True one for each NUMA node",
    ),
    Setting("nnodes", SEVERAL, kinds.whole_number(1), "1, 2, …", "Machines that measure together", default=1),
    Setting(
        "node_rank",
        SEVERAL,
        kinds.whole_number(0),
        "0, 1, …",
        "Which of the machines this is; 0 writes the results",
        default_text="none",
    ),
    Setting(
        "rdzv_endpoint",
        SEVERAL,
        kinds.endpoint,
        "host:port",
        "Where the machines meet: an address of node 0 and a free port, for torchrun's rendezvous",
        default_text="none",
    ),
    Setting(
        "rank_timeout",
        SEVERAL,
        kinds.whole_number(1),
        "1, 2, …",
        "Seconds in which a process of many must get on with compiling, an inference or a case; the run ends when it does not",
        default=1800,
    ),
    Setting(
        "scaling",
        SEVERAL,
        kinds.counts,
        "1,2,4, …",
        "Measure with so many devices or instances one after the other, and how throughput grows",
        default_text="none",
    ),
    Setting("batch_size", PERFORMANCE, kinds.whole_number(1), "1, 2, …", "Volumes in one inference call", default=1),
    Setting(
        "num_iterations",
        MEASURING,
        kinds.whole_number(1),
        "1, 2, …",
        "Timed inference calls",
        default=10,
        default_text="10; with SCENARIO as many as MLPerf asks for",
    ),
    Setting(
        "warm_up",
        MEASURING,
        kinds.whole_number(0),
        "0, 1, …",
        "Untimed calls before the timed ones",
        default_text="until two calls in a row agree within 3%, 2 to 8 calls",
    ),
    Setting(
        "streams",
        PERFORMANCE,
        kinds.whole_number(1),
        "1, 2, …",
        "Inference calls in flight at the same time; CPU threads are shared out among them",
        default=1,
    ),
    Setting(
        "threads",
        PERFORMANCE,
        kinds.whole_number(1),
        "1, 2, …",
        "CPU threads in all",
        default_text="the physical cores that this process may use",
    ),
    Setting(
        "scenario",
        MEASURING,
        kinds.choice("Default", "SingleStream", "Offline"),
        "Default, SingleStream, Offline",
        "Default: our own loop; SingleStream, Offline: MLPerf LoadGen sends the volumes (see LoadGen)",
        default="Default",
    ),
    Setting(
        "min_duration",
        MEASURING,
        kinds.whole_number(0),
        "0, 1, …",
        "Seconds that a LoadGen run lasts at least",
        default_text="600, as MLPerf asks for; 0 where NUM_ITERATIONS is set",
    ),
    Setting(
        "compliance",
        MEASURING,
        kinds.yes_no,
        "yes, no",
        "After the timed calls, MLPerf's checks: outputs of timed calls are right, none is cached, other seeds are as fast",
        default=False,
        bare="yes",
    ),
    Setting(
        "full_size_check",
        MEASURING,
        kinds.yes_no,
        "yes, no",
        "Before timing, compare one inference of a whole volume with fp32, which is computed once for each weights and shape",
        default=True,
        bare="yes",
    ),
    Setting(
        "telemetry",
        MEASURING,
        kinds.yes_no,
        "yes, no",
        "Sample utilisation, clocks, power, temperature and memory while measuring",
        default=True,
        bare="yes",
    ),
    Setting(
        "profile",
        MEASURING,
        kinds.yes_no,
        "yes, no",
        "After the timed calls, one more layer by layer: time, FLOP, bytes, shares of the machine's ceilings",
        default=False,
        bare="yes",
    ),
    Setting(
        "input_on_device",
        MEASURING,
        kinds.yes_no,
        "yes, no",
        "Place volumes on the device before timing starts, as MLPerf allows",
        default=False,
        bare="yes",
    ),
    Setting(
        "dummy",
        DATA,
        kinds.yes_no,
        "yes, no",
        "yes: random volumes, speed only; no: the data set's volumes, speed and Dice",
        default=True,
        bare="yes",
    ),
    Setting("dataset_dir", DATA, kinds.folder, "folder", "BraTS 2019 training data (holds HGG and LGG)", default_text="none"),
    Setting(
        "preprocessed_dir",
        DATA,
        kinds.folder,
        "folder",
        "Where preprocessed volumes are kept",
        default_text="DATASET_DIR/build/preprocessed_data; OUTPUT_DIR/preprocessed_data where that cannot be written",
    ),
    Setting("fold", DATA, kinds.whole_number(0, 4), "0-4", "Validation fold whose cases are predicted", default=1),
    Setting("num_images", DATA, kinds.count_or_all, "1, 2, …, all", "Cases of the fold to predict", default="all"),
    Setting(
        "weights",
        DATA,
        kinds.text,
        "a fold_1.zip, its unpacked folder, sample, random",
        "Trained weights",
        default_text="what setup.sh put in place, else random",
    ),
    Setting("seed", DATA, kinds.whole_number(0), "0, 1, …", "Seed of random volumes and random weights", default=0),
    Setting(
        "volume_shape",
        DATA,
        kinds.shape,
        "D,H,W",
        "Voxels of a random volume, multiples of 32; other than the default is not this benchmark and is labelled so",
        default=workload.SHAPE,
    ),
    Setting(
        "output_dir",
        OUTPUT,
        kinds.folder,
        "folder",
        "Where results are written",
        default=Path("output"),
        default_text="./output",
    ),
    Setting(
        "save_segmentations",
        OUTPUT,
        kinds.yes_no,
        "yes, no",
        "Write each predicted case as NIfTI with BraTS labels",
        default=False,
        bare="yes",
    ),
    Setting("status_prints", OUTPUT, kinds.whole_number(1), "1, 2, …", "PERF_STATUS lines in a run", default=10),
    Setting(
        "verbose",
        OUTPUT,
        kinds.yes_no,
        "yes, no",
        "Print every setting with where its value came from; output_raw.log always has them",
        default=False,
        bare="yes",
    ),
)

BY_NAME = {setting.name: setting for setting in SETTINGS}
