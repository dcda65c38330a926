"""Files on disks and stores, and how what is written gets into place."""
