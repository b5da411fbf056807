"""The workload: MLPerf's 3D-UNet on BraTS 2019. Its facts stand here and nowhere else; what is done with them is in brats/.

Axes are z, y, x. Labels in memory are nnU-Net's: 0 background, 1 edema, 2 necrotic core and non-enhancing tumour,
3 enhancing tumour.
"""

from __future__ import annotations

from collections.abc import Sequence

# A preprocessed volume, which is nnU-Net's patch: the whole volume goes through the network in one pass.
SHAPE = (224, 224, 160)
# The network's input channels in their order, as the files' names end and as nnU-Net's plans call them.
MODALITIES = ("t1", "t1ce", "t2", "flair")
MODALITY_TITLES = ("T1", "T1ce", "T2", "FLAIR")
# BraTS numbers its classes with a gap; nnU-Net renumbers them.
BRATS_TO_NNUNET = {0: 0, 1: 2, 2: 1, 4: 3}
NNUNET_TO_BRATS = {nnunet: brats for brats, nnunet in BRATS_TO_NNUNET.items()}
# Labels of the background and of the three kinds of tissue: the network's outputs.
CLASSES = tuple(sorted(NNUNET_TO_BRATS))
# Labels of whole tumour, tumour core and enhancing tumour, which are what Dice is reported of.
REGIONS = {"WT": (1, 2, 3), "TC": (2, 3), "ET": (3,)}


def input_shape(batch: int = 1, extent: Sequence[int] = SHAPE) -> tuple[int, ...]:
    """[N, modality, z, y, x] of what the network reads for a batch of volumes."""
    return (batch, len(MODALITIES), *extent)
