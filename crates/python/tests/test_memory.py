"""How full a device's memory is."""

import os
import re

import pytest

from trellect import estimate_gpu_memory_pressure


def rises_with_what_is_allocated():
    """Whether the pressure rises by at least half of what is allocated: others may free memory."""
    bytes_ = 512 << 20
    before = estimate_gpu_memory_pressure("cpu")
    ballast = bytearray(bytes_)
    ballast[::4096] = b"x" * len(ballast[::4096])
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return estimate_gpu_memory_pressure("cpu") > before + bytes_ / 2 / machine


def test_the_processors_is_a_share_of_what_this_process_may_use():
    assert 0 < estimate_gpu_memory_pressure("cpu") < 1
    assert any(rises_with_what_is_allocated() for _ in range(5))


def test_without_a_device_the_one_that_is_there():
    assert 0 < estimate_gpu_memory_pressure() < 1
    assert 0 < estimate_gpu_memory_pressure(None) < 1


def has_gpu():
    try:
        return estimate_gpu_memory_pressure("cuda") >= 0
    except ValueError:
        return False


def test_a_gpu():
    if not has_gpu():
        with pytest.raises(ValueError, match="device is cuda: no "):
            estimate_gpu_memory_pressure("cuda")
        pytest.skip("no NVIDIA GPU")
    torch = pytest.importorskip("torch")
    before = estimate_gpu_memory_pressure("cuda:0")
    tensor = torch.ones(1 << 30, dtype=torch.uint8, device="cuda:0")
    total = torch.cuda.mem_get_info(0)[1]
    assert estimate_gpu_memory_pressure(tensor.device) >= before + 0.9 * tensor.nbytes / total
    free, total = torch.cuda.mem_get_info(0)
    assert estimate_gpu_memory_pressure() == pytest.approx(1 - free / total, abs=0.01)


def test_a_torch_device():
    torch = pytest.importorskip("torch")
    assert 0 < estimate_gpu_memory_pressure(torch.device("cpu")) < 1
    with pytest.raises(ValueError, match="device is device\\(type='mps'\\): expected cpu, cuda"):
        estimate_gpu_memory_pressure(torch.device("mps"))


@pytest.mark.parametrize("device", ["gpu", "", "cuda:", "cuda:x", "cuda:-1", "cpu:0", "CPU", 3])
def test_other_devices_are_refused(device):
    with pytest.raises(ValueError, match=f"device is {re.escape(repr(device))}: expected cpu, cuda"):
        estimate_gpu_memory_pressure(device)


def test_a_gpu_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="device is cuda:99: no "):
        estimate_gpu_memory_pressure("cuda:99")
