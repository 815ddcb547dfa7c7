"""A stand-in for a CVAT server, for demos and tests on one machine.

It is not CVAT. It answers the part of CVAT 2.73's REST API that cvat-sdk 2.80 uses in this
project, over real HTTP, and keeps the server's surprising habits on purpose, so that what passes
here has met them. It knows nothing of angiograms, models or rounds.
"""

from demo.standin.app import Settings, create_app

__all__ = ["Settings", "create_app"]
