"""The exchange with CVAT: push a round, pull its corrections, see what changed.

Knows nothing of models; work for them is asked for by task name (dispatch.py).
"""
