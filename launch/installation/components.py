"""Which of the libraries this package builds on work in this Python: each is imported and made to do one small thing,
in a process of its own, so that one that crashes is a line in the table and not the end of it.

    python -m launch.installation.components        exit status 1 if a required one does not work
"""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec

TIMEOUT_SECONDS = 300

# Each probe ends by printing VERSION|REMARK.
TORCH = """
import shutil, subprocess, torch
assert (torch.ones(2, 2) @ torch.ones(2, 2)).sum() == 8
gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
smi = shutil.which("nvidia-smi")
driven = bool(smi) and subprocess.run([smi, "-L"], capture_output=True).returncode == 0
built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU-only build"
if gpus:
    seen = f"{len(gpus)} x {gpus[0]}"
elif driven:
    seen = "a GPU is here, but its driver is too old for this build: name an older torch's Python in INCEPTION_PYTHON"
else:
    seen = "no GPU here"
print(f"{torch.__version__}|{built}, {seen}")
"""

TORCHVISION = """
import torch, torchvision
from torchvision.io import decode_jpeg, encode_jpeg
assert decode_jpeg(encode_jpeg(torch.full((3, 16, 16), 128, dtype=torch.uint8))).shape == (3, 16, 16)
print(f"{torchvision.__version__}|decodes JPEG")
"""

TIMM = """
import timm
print(f"{timm.__version__}|{len(timm.list_models())} networks to compare with")
"""

DALI = """
import nvidia.dali as dali
@dali.pipeline_def(batch_size=2, num_threads=1, device_id=None)
def twos():
    return dali.fn.constant(idata=[1, 2], shape=[2]) * 2
assert twos().run()[0].as_array().sum() == 12
print(f"{dali.__version__}|ran a pipeline")
"""

FFCV = """
import importlib.metadata, tempfile, numpy, ffcv, ffcv.libffcv
from ffcv.fields import IntField
from ffcv.fields.decoders import IntDecoder
with tempfile.NamedTemporaryFile(suffix=".beton") as file:
    ffcv.DatasetWriter(file.name, {"n": IntField()}, num_workers=1).from_indexed_dataset([(1,), (2,)])
    loader = ffcv.Loader(file.name, batch_size=2, num_workers=1, pipelines={"n": [IntDecoder()]})
    assert sorted(int(n) for (batch,) in loader for n in batch[:, 0]) == [1, 2]
print(f"{importlib.metadata.version('ffcv')}|wrote and read a file")
"""

DEEPSPEED = """
import deepspeed
print(f"{deepspeed.__version__}|imports")
"""

MPI = """
import mpi4py
from mpi4py import MPI
assert MPI.COMM_WORLD.allreduce(1) == MPI.COMM_WORLD.size
print(f"{mpi4py.__version__}|{MPI.Get_library_version().split(',')[0]}")
"""

ONNX = """
import onnx, onnxruntime, onnxscript
print(f"{onnx.__version__}|runtime {onnxruntime.__version__}, script {onnxscript.__version__}")
"""

OPENVINO = """
import openvino
print(f"{openvino.__version__.partition('-')[0]}|{', '.join(openvino.Core().available_devices)}")
"""


# What a library does when Python ends is not asked: numba's threads (FFCV) may wait there for one another for ever.
_END = """
import os, sys
sys.stdout.flush()
os._exit(0)
"""


@dataclass(frozen=True)
class Component:
    name: str
    probe: str
    module: str
    extra: str = ""  # the extra that installs it; required when empty

    def installed(self) -> bool:
        """Whether there is something to try."""
        try:
            return find_spec(self.module) is not None
        except ModuleNotFoundError:  # of the package that the module would lie in
            return False


COMPONENTS = (
    Component("torch", TORCH, "torch"),
    Component("torchvision", TORCHVISION, "torchvision"),
    Component("timm", TIMM, "timm"),
    Component("DALI", DALI, "nvidia.dali", "dali"),
    Component("FFCV", FFCV, "ffcv", "ffcv"),
    Component("DeepSpeed", DEEPSPEED, "deepspeed", "deepspeed"),
    Component("MPI", MPI, "mpi4py", "mpi"),
    Component("ONNX", ONNX, "onnx", "export"),
    Component("OpenVINO", OPENVINO, "openvino", "openvino"),
)


@dataclass(frozen=True)
class Result:
    component: Component
    works: bool
    version: str
    remark: str

    @property
    def word(self) -> str:
        if self.works:
            return "works"
        return "BROKEN" if self.component.installed() else "MISSING" if not self.component.extra else "not here"


def check(component: Component) -> Result:
    """Runs one probe in a new process and reads its last line, or what it died of."""
    if component.extra and not component.installed():
        return Result(component, False, "", f"extra {component.extra}, of bash launch/setup.sh --all")
    try:
        done = subprocess.run(
            [sys.executable, "-c", component.probe + _END], capture_output=True, text=True, timeout=TIMEOUT_SECONDS
        )
    except subprocess.TimeoutExpired:
        return Result(component, False, "", f"no answer within {TIMEOUT_SECONDS} s")
    lines = done.stdout.strip().splitlines()
    if done.returncode == 0 and lines and "|" in lines[-1]:
        version, _, remark = lines[-1].partition("|")
        return Result(component, True, version, remark)
    errors = done.stderr.strip().splitlines() or [f"ended with status {done.returncode}"]
    return Result(component, False, "", errors[-1][:160])


def table(results: list[Result]) -> str:
    """One line a component: name, version, whether it works, and what it said."""
    return "\n".join(
        f"  {result.component.name:<12} {result.version or '-':<14} {result.word:<8} {result.remark}".rstrip()
        for result in results
    )


def main() -> int:
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(check, COMPONENTS))
    print(table(results))
    return int(any(not result.works and not result.component.extra for result in results))


if __name__ == "__main__":
    sys.exit(main())
