"""The control plane: releases, status, health. One event loop, named tasks, off the lane."""
