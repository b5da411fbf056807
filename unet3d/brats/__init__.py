"""The workload: BraTS 2019's cases, their volumes, regions and weights."""
