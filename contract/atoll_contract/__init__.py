"""What crosses a wire or a disk: topics, messages, bundles, errors.

This package has no clock, no disk, no network and no threads. Every role reads and writes
through it, so that two of them can never disagree about a byte.
"""
