"""Phantom angiograms: cines drawn from known anatomy, in the lab's own format, truth beside.

Version 1 is fixed: models are tuned on it, so a change of any pixel is a new version.
"""

PHANTOM_VERSION = 1
