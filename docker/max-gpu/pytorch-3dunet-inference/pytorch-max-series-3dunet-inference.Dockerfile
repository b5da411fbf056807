# Image for Intel Data Center GPU Max Series, with PyTorch's own XPU wheels. From the repository's root:
#   docker build --build-arg http_proxy --build-arg https_proxy --build-arg no_proxy \
#       -f docker/max-gpu/pytorch-3dunet-inference/pytorch-max-series-3dunet-inference.Dockerfile \
#       -t unet3d:max -t intel/image-recognition:pytorch-max-gpu-3dunet-inference .
# Written by docker/bases.py from docker/bases.lock.
ARG BASE_IMAGE=ubuntu:24.04
FROM ${BASE_IMAGE}

# The wheels bring oneAPI's runtime, but not the Level Zero driver. Set the repository to "" if the base image has it.
ARG GPU_DRIVER_REPOSITORY="https://repositories.intel.com/gpu/ubuntu noble unified"
ARG GPU_DRIVER_KEY=https://repositories.intel.com/gpu/intel-graphics.key
ARG GPU_DRIVER_PACKAGES="libze1 libze-intel-gpu1"
ARG TORCH_INDEX_URL=https://download.pytorch.org/whl/xpu
ARG PIP_INDEX_URL=https://pypi.org/simple
# Further requirements files, such as requirements-openvino.txt for ENGINE=openvino on the CPU.
ARG EXTRA_REQUIREMENTS=
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
ENV PLATFORM=Max UNET3D_COMMIT=${UNET3D_COMMIT}
LABEL org.opencontainers.image.title="3D-UNet BraTS 2019 inference, Intel Data Center GPU Max Series" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.revision="${UNET3D_COMMIT}"
ENTRYPOINT ["/usr/bin/tini", "-s", "--", "/opt/unet3d/docker/common/entrypoint.sh"]
CMD ["/bin/bash", "-c", "./run_model.sh"]
