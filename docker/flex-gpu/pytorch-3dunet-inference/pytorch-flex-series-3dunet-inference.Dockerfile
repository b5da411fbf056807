# Image for Intel Data Center GPU Flex Series. From the repository's root:
#   docker build --build-arg http_proxy --build-arg https_proxy --build-arg no_proxy \
#       -f docker/flex-gpu/pytorch-3dunet-inference/pytorch-flex-series-3dunet-inference.Dockerfile \
#       -t unet3d:flex -t intel/image-recognition:pytorch-flex-gpu-3dunet-inference .
# The last stack made for Flex: PyTorch 2.6.0, Intel Extension for PyTorch 2.6.10+xpu and their GPU driver (user space).
# Written by docker/bases.py from docker/bases.lock.
ARG BASE_IMAGE=intel/intel-extension-for-pytorch:2.6.10-xpu-pip-base
FROM ${BASE_IMAGE}

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
ENV PLATFORM=Flex UNET3D_COMMIT=${UNET3D_COMMIT}
LABEL org.opencontainers.image.title="3D-UNet BraTS 2019 inference, Intel Data Center GPU Flex Series" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.revision="${UNET3D_COMMIT}"
ENTRYPOINT ["/usr/bin/tini", "-s", "--", "/opt/unet3d/docker/common/entrypoint.sh"]
CMD ["/bin/bash", "-c", "./run_model.sh"]
