"""The separability kernels give the CPU's bits."""

import pytest
from emulator.launcher import EmulatedLauncher
from helpers import random_moments, same

from actprune_gpu.backends.cpu import CpuBackend
from actprune_gpu.backends.cuda import CudaBackend
from actprune_gpu.separability import class_statistics


def assert_same_bits(launcher, n_channels, n_classes):
    moments = random_moments(n_channels, n_classes, seed=n_channels)
    moments.count[0, 1:2] = 1  # one sample is too few for channel 1, if there is one
    statistics, _, _ = class_statistics(moments)
    got = CudaBackend(launcher).jeffries_matusita(statistics)
    assert launcher.launches["jeffries_matusita"] == 1
    assert same(got, CpuBackend().jeffries_matusita(statistics))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("n_channels", "n_classes"), [(1, 2), (7, 3), (67, 24), (130, 5)])
def test_jeffries_matusita_has_the_bits_of_the_cpu(n_channels, n_classes, seed):
    assert_same_bits(EmulatedLauncher(seed=seed), n_channels, n_classes)


def test_jeffries_matusita_has_no_races():
    assert_same_bits(EmulatedLauncher(race=True, seed=1), n_channels=5, n_classes=9)
