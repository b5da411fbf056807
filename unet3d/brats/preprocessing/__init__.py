"""From a case's four NIfTI files to the network's input, as nnU-Net 1.7.1 prepares it for this model, and back.

Crop to the non-zero region, resample if the spacing is not 1 mm, z-score each modality inside the non-zero mask, pad
centred to [4, 224, 224, 160]. Axes are SimpleITK's: z, y, x.
"""

from unet3d.brats.dataset import default_store
from unet3d.brats.preprocessing.place import choose as choose_store
from unet3d.brats.preprocessing.run import Report, preprocess
from unet3d.brats.preprocessing.store import Store
from unet3d.brats.preprocessing.volume import PADDED_SHAPE, Volume, pad, restore

__all__ = ["PADDED_SHAPE", "Report", "Store", "Volume", "choose_store", "default_store", "pad", "preprocess", "restore"]
