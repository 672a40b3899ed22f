"""How full a device's memory is."""

import re
from pathlib import Path

import pytest

from trellect import estimate_gpu_memory_pressure


MEMINFO = Path("/proc/meminfo")
LIMITS = [Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes")]


def test_the_processors_is_a_share():
    assert 0 < estimate_gpu_memory_pressure("cpu") < 1


@pytest.mark.skipif(not MEMINFO.exists(), reason="only Linux tells what to compare with")
def test_the_processors_is_the_kernels_figure():
    def kilobytes(name):
        return int(re.search(rf"^{name}: +(\d+) kB$", MEMINFO.read_text(), re.MULTILINE)[1])

    def is_limited(path):
        text = path.read_text().strip() if path.exists() else "max"
        return text != "max" and int(text) < 1024 * kilobytes("MemTotal")

    if any(is_limited(path) for path in LIMITS):
        pytest.skip("this process has a limit of its own, which counts instead")
    pressure = estimate_gpu_memory_pressure("cpu")
    # Other processes allocate and free meanwhile.
    assert pressure == pytest.approx(1 - kilobytes("MemAvailable") / kilobytes("MemTotal"), abs=0.1)


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
