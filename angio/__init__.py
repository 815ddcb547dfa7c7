"""The coronary domain: angiograms, vessels and what is measured on them. Knows no torch."""
