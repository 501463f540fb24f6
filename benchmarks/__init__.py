"""Benchmarks: one thread, unless OMP_NUM_THREADS says otherwise, and no spinning; set before torch is imported."""

from lantern.environment import prepare

prepare(threads=1)
