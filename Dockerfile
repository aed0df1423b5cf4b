# The environment at the versions of launch/constraints.txt, with the compilers that it needs, as an image.
#
#   docker build --tag inception .                              with all extras; --build-arg SETUP=--cpu: torch without CUDA alone
#   docker run --rm --gpus all --shm-size 8g --volume /data:/data inception torchrun --nproc_per_node=8 engine/train.py ...
#
# What it takes from outside, and how a cluster uses it: docs/install.md, docs/cluster.md.
FROM debian:13-slim

ARG SETUP=--all
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*

# Outside of the repository, so that a newer clone may be mounted over it.
ENV INCEPTION_VENV=/opt/venv PATH=/opt/venv/bin:$PATH PIP_NO_CACHE_DIR=1
WORKDIR /opt/inception
COPY . .
RUN apt-get update && bash launch/setup.sh $SETUP && rm -rf /var/lib/apt/lists/*
ENV INCEPTION_PYTHON=/opt/venv/bin/python
CMD ["bash", "launch/quickstart.sh"]
