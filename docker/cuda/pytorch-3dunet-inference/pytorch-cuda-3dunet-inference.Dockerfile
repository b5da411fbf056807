# Image for NVIDIA GPUs. From the repository's root:
#   docker build --build-arg http_proxy --build-arg https_proxy --build-arg no_proxy \
#       -f docker/cuda/pytorch-3dunet-inference/pytorch-cuda-3dunet-inference.Dockerfile \
#       -t unet3d:cuda -t intel/image-recognition:pytorch-cuda-3dunet-inference .
# CUDA 13.0 needs driver 580 or newer on the host; pytorch/pytorch:2.13.0-cuda12.6-cudnn9-runtime takes older ones.
# Written by docker/bases.py from docker/bases.lock.
ARG BASE_IMAGE=pytorch/pytorch:2.13.0-cuda13.0-cudnn9-runtime
FROM ${BASE_IMAGE}

ARG PIP_INDEX_URL=https://pypi.org/simple
# Power, clocks and utilisation of the GPU.
ARG EXTRA_REQUIREMENTS=requirements-nvidia.txt
COPY requirements*.txt docker/common/install.sh /tmp/build/
RUN --mount=type=cache,target=/var/cache/apt,sharing=locked --mount=type=cache,target=/var/lib/apt,sharing=locked \
    --mount=type=cache,target=/root/.cache/pip,sharing=locked \
    /tmp/build/install.sh /tmp/build
ENV PATH=/opt/venv/bin:$PATH VIRTUAL_ENV=/opt/venv PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1

WORKDIR /opt/unet3d
COPY . .
ARG REQUIRE_WEIGHTS=0
ARG WEIGHTS_URL=
RUN docker/common/finish.sh

ARG UNET3D_COMMIT=
ENV PLATFORM=CUDA UNET3D_COMMIT=${UNET3D_COMMIT}
LABEL org.opencontainers.image.title="3D-UNet BraTS 2019 inference, NVIDIA GPU" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.revision="${UNET3D_COMMIT}"
ENTRYPOINT ["/usr/bin/tini", "-s", "--", "/opt/unet3d/docker/common/entrypoint.sh"]
CMD ["/bin/bash", "-c", "./run_model.sh"]
