"""Package ppsd. The bounds are tested: minimum and maximum are the oldest and newest versions the tests were run on."""

from pathlib import Path

from setuptools import find_packages, setup

setup(
    name="ppsd",
    version="0.1.0",
    description="Train Stable Diffusion on PaddlePaddle",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.9,<3.13",
    packages=find_packages(include=["ppsd", "ppsd.*"]),
    package_data={"ppsd": ["py.typed"]},
    install_requires=[
        "paddlenlp==2.8.1",  # the one release that runs on both paddle 2.6 and 3.x
        "ppdiffusers==0.29.0",
        "huggingface_hub>=0.23.0,<0.24",  # later: no repo_type_and_id_from_hf_id
        "aistudio_sdk>=0.2.6,<0.3",  # later: no hub.download
        "numpy>=1.26.4,<2",
        "pandas>=2.2.3,<2.3",
        "pyarrow>=19.0.1,<20",  # later: numpy 2 only
        "opencv-python<4.12",  # later: numpy 2 only
        "protobuf>=4.25.8,<5",  # later: VisualDL cannot write hyper-parameters
        "setuptools<80",  # later: paddle 2.6 does not import
        "visualdl>=2.5.3,<2.6",
        "safetensors>=0.4.5,<0.7",  # later: needs paddle 3
        "Pillow>=10,<14",
        "pyyaml>=6,<7",
        "tqdm>=4.60",
        "isal>=1.6,<2",
        "pybase64>=1.3,<2",
        "simplejpeg>=1.7,<2",
        "fsspec>=2024.3,<2024.10",  # what datasets, of paddlenlp, allows
    ],
    extras_require={
        "cpu": ["paddlepaddle>=2.6.2,<3.4"],
        "gpu": ["paddlepaddle-gpu>=2.6.2,<3.4"],
        "simd": ["cykooz.resizer>=3,<5"],
        "s3": ["s3fs>=2024.3,<2024.10"],
        "test": [
            "pytest>=8,<10",
            "pytest-xdist>=3,<4",
            "pytest-timeout>=2,<3",
            "ruff==0.17.5",
            "mypy>=1.15,<3",
            "scikit-image>=0.24,<0.27",
            "scikit-learn>=1.5,<2",
            "cykooz.resizer>=3,<5",
            "s3fs>=2024.3,<2024.10",
            "moto[server,s3]>=5,<6",
            "hypothesis>=6.100,<7",
            "webdataset>=0.2.100,<1.1",
        ],
    },
)
