"""Patients into train, val and test by keyed hash, fixed for ever. Knows no images."""

import hashlib
import hmac

from casebook.cases import Split


def split_of(patient: str, key: bytes, *, val: float = 0.2, test: float = 0.2) -> Split:
    """The split of a patient; the same key always gives the same answer.

    Args:
        patient: the pseudonym.
        key: the installation's secret, so that nobody outside can predict a split.
        val: share of patients for validation, 0 to 1.
        test: share of patients for testing, 0 to 1.
    """
    digest = hmac.new(key, f"split:{patient}".encode(), hashlib.sha256).digest()
    position = int.from_bytes(digest[:8], "big") / 2**64
    if position < test:
        return Split.TEST
    return Split.VAL if position < test + val else Split.TRAIN
