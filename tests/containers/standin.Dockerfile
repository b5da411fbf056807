# Stands in for a vendor's image that brings PyTorch: it has PyTorch for the CPU in the system's Python.
ARG BASE_IMAGE=python:3.11-slim-bookworm
FROM ${BASE_IMAGE}
ARG TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu
ARG TORCH
# TORCH holds the pinned version.
# hadolint ignore=DL3013
RUN python3 -m pip install --break-system-packages --no-cache-dir --index-url "${TORCH_INDEX_URL}" "${TORCH}"
