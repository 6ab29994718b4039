"""What can happen to a release on a device. Pure: no clock, no disk, no network."""
