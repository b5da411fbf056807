"""Environment variables that are no setting but nearly one, such as PRECISON: nothing else would notice them."""

from __future__ import annotations

import difflib
from collections.abc import Mapping

from unet3d.config.settings import SETTINGS

# Variables of the program that are no settings.
OTHERS = ("UNET3D_COMMIT", "UNET3D_KERNELS", "UNET3D_MARCH", "UNET3D_TRACEBACK")
# Share of letters in the same order. AWS_PROFILE and PROFILE share 0.82, NUM_THREADS and THREADS as much.
NEAR = 0.85
# Shorter names are near too many others.
SHORTEST = 4


def nearly_settings(environ: Mapping[str, str]) -> list[tuple[str, str]]:
    """(variable, the setting's that was meant) of all that are set and no setting's; case and underscores do not count."""
    known = {setting.variable for setting in SETTINGS} | set(OTHERS)
    meant = {_bare(name): name for name in known}
    near = []
    for name, text in environ.items():
        if name in known or not text.strip():
            continue
        bare = _bare(name)
        if bare in meant:
            near.append((name, meant[bare]))
        elif SHORTEST <= len(bare) <= 40 and (found := difflib.get_close_matches(bare, meant, n=1, cutoff=NEAR)):
            if len(found[0]) >= SHORTEST:
                near.append((name, meant[found[0]]))
    return near


def _bare(name: str) -> str:
    return name.casefold().replace("_", "").replace("-", "")
