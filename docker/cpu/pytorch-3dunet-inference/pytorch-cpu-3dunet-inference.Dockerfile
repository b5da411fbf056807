# CPU image. From the repository's root:
#   docker build --build-arg http_proxy --build-arg https_proxy --build-arg no_proxy \
#       -f docker/cpu/pytorch-3dunet-inference/pytorch-cpu-3dunet-inference.Dockerfile \
#       -t unet3d:cpu -t intel/image-recognition:pytorch-cpu-3dunet-inference .
# Written by docker/bases.py from docker/bases.lock.
ARG BASE_IMAGE=python:3.11-slim-bookworm
FROM ${BASE_IMAGE}

ARG TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu
ARG PIP_INDEX_URL=https://pypi.org/simple
# Engines besides PyTorch; requirements-onnxruntime.txt is left out for its size.
ARG EXTRA_REQUIREMENTS=requirements-openvino.txt
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
ENV PLATFORM=CPU UNET3D_COMMIT=${UNET3D_COMMIT}
LABEL org.opencontainers.image.title="3D-UNet BraTS 2019 inference, CPU" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.revision="${UNET3D_COMMIT}"
ENTRYPOINT ["/usr/bin/tini", "-s", "--", "/opt/unet3d/docker/common/entrypoint.sh"]
CMD ["/bin/bash", "-c", "./run_model.sh"]
