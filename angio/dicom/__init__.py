"""X-ray angiography files. Nothing outside this folder imports pydicom or counts frames from 1."""
