"""Frozen densities and gradients of many calibrations: what a change of the likelihood's inside must not change."""
