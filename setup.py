"""What the package is called, what it needs, and the optional extras: ``pip install -e '.[all]' -c
launch/constraints.txt`` is what launch/setup.sh does. Lower bounds here say what can work; the constraints file holds
the exact versions that the tests passed with.
"""

from setuptools import find_packages, setup

ROOMS = ["inception", "pipelines", "engine", "launch", "benchmarks"]

EXTRAS = {
    # DALI brings its own CUDA 12 libraries and runs on newer drivers, whatever CUDA torch was built for.
    "dali": ["nvidia-dali-cuda120>=2.2"],
    "dali-cuda13": ["nvidia-dali-cuda130>=2.2"],
    # Built from source against OpenCV and libjpeg-turbo; launch/setup.sh installs them where it may.
    "ffcv": ["ffcv>=1.0.2", "numba>=0.60"],
    "deepspeed": ["deepspeed>=0.17"],
    "mpi": ["mpi4py>=4.1", "openmpi>=5.0"],
    "export": ["onnx>=1.17", "onnxruntime>=1.20", "onnxscript>=0.6"],
    "openvino": ["openvino>=2025.0"],  # runs exported ONNX files: the check of an export asks it too
    "parquet": ["pyarrow>=18"],  # predictions as Parquet
    "wandb": ["wandb>=0.19"],
    "mlflow": ["mlflow>=3.1"],
    "trackio": ["trackio>=0.10"],
    "dev": [
        "pytest>=8.3",
        "pytest-timeout>=2.3",
        "pytest-xdist>=3.6",
        "ruff>=0.9",
        "mypy>=1.14",
        "types-PyYAML",
        "setuptools>=77",  # the tests of set-up make a wheel of it
        "pytorchcv>=0.0.73",  # reference networks for the tests of inception/
        "scikit-image>=0.24",
        "scikit-learn>=1.5",
        "selenium>=4.20",  # drives a browser over the live page
        "torchcodec>=0.16",  # what decodes where torchvision no longer does: the tests hold both to equal pixels
        "webdataset>=0.2.100",
        "uv>=0.5",  # the tests install with it and with pip
    ],
}
# The two builds of DALI hold the same module, so "all" takes the one that more drivers can run.
EXTRAS["all"] = [need for extra, needs in EXTRAS.items() if extra != "dali-cuda13" for need in needs]

setup(
    name="inception-training",
    version="0.1.0",
    description="Trains the Inception family of networks at high throughput, from one machine to a cluster",
    license="MIT",
    python_requires=">=3.11",
    packages=find_packages(include=[name for room in ROOMS for name in (room, f"{room}.*")]),
    # Naming the root makes an editable install one path entry: modules added later are found without a new install.
    package_dir={"": "."},
    package_data={
        "": ["*.c", "*.h", "*.html", "*.css", "*.js", "*.sh", "constraints.txt"],
        "pipelines": ["sample/*.tar", "sample/*.md"],
        "engine": ["recipes/*.yaml"],
    },
    entry_points={
        "console_scripts": [
            f"inception-{program} = {room}.{program}:command"
            for room, programs in (
                ("engine", ["train", "evaluate", "predict", "export", "watch", "report", "completion"]),
                ("pipelines", ["prepare", "doctor"]),
            )
            for program in programs
        ]
    },
    install_requires=[
        "torch>=2.11",
        "torchvision>=0.26",
        "timm>=1.0.20",
        "numpy>=1.26",
        "pillow>=10.4",
        "pyyaml>=6.0",
        "jsonargparse[signatures]>=4.49",
        "shtab>=1.7",
        "rich>=13.7",
        "tensorboard>=2.17",
        "matplotlib>=3.9",
        "jinja2>=3.1",
        "werkzeug>=3.0",
        "psutil>=6.0",
        "nvidia-ml-py>=12.560",
        "safetensors>=0.4.5",
        "torchmetrics>=1.4",
        "scipy>=1.14",
        "simplejpeg>=1.8",
        "xxhash>=3.4",
    ],
    extras_require=EXTRAS,
)
