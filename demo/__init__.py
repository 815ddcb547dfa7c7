"""The whole loop on a laptop: the stand-in CVAT, a simulated expert and the script of the walk."""
