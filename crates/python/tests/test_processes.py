"""Threads, forks and other interpreters."""

import os
import sys
import threading

import pytest

from trellect import MixedKernelSelector, get_mixed_kernel

BASE = "moe_trellis_swiglu"


def test_threads_lose_nothing():
    selector = MixedKernelSelector(exploration_rate=0.1, seed=1)
    threads, calls = 8, 500
    start = threading.Barrier(threads)
    failures = []

    def work(number):
        try:
            start.wait()
            for call in range(calls):
                name, _ = selector.select_kernel(1 + call % 40, [2, 4])
                selector.record_timing(name, 1 + call % 40, 1.0 + number, f"thread {number}")
                if call % 100 == 0:
                    selector.get_statistics()
                    selector.set_exploration_rate(0.1)
                    selector.explain(8, [4])
        except BaseException as failure:
            failures.append(failure)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    switch_interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(60)
    finally:
        sys.setswitchinterval(switch_interval)
    assert failures == []
    statistics = selector.get_statistics()
    assert statistics["total_selections"] == statistics["total_records"] == threads * calls
    assert statistics["records_by_selector"] == {f"thread {n}": calls for n in range(threads)}
    assert sum(statistics["selections_by_reason"].values()) == threads * calls


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_has_a_selector_of_its_own():
    selector = MixedKernelSelector(exploration_rate=0)
    stop = threading.Event()

    def work():
        while not stop.is_set():
            selector.select_kernel(8, [4])
            selector.record_timing(BASE, 8, 1.0)

    worker = threading.Thread(target=work)
    worker.start()
    try:
        for _ in range(20):
            child = os.fork()
            if child == 0:
                # Whatever happens, the child may not go on with the tests.
                status = 1
                try:
                    before = selector.get_statistics()["total_selections"]
                    for _ in range(10):
                        selector.select_kernel(8, [4])
                        get_mixed_kernel(8, [4])
                    after = selector.get_statistics()["total_selections"]
                    status = 0 if after == before + 10 else 2
                finally:
                    os._exit(status)
            _, status = os.waitpid(child, 0)
            assert os.waitstatus_to_exitcode(status) == 0
    finally:
        stop.set()
        worker.join()


def test_a_second_interpreter_is_refused():
    """By an ImportError, not by a crash: the module's state is one for the process."""
    interpreters = pytest.importorskip("_xxsubinterpreters" if sys.version_info < (3, 13) else "_interpreters")
    path = os.path.dirname(os.path.dirname(sys.modules["trellect"].__file__))
    code = f"""
import sys
sys.path.insert(0, {path!r})
try:
    import trellect
except ImportError as error:
    refused = "interpreter" in str(error)
else:
    refused = False
if not refused:
    raise AssertionError("a second interpreter has imported it")
"""
    interpreter = interpreters.create()
    try:
        failure = interpreters.run_string(interpreter, code)
        assert failure is None, failure
    finally:
        interpreters.destroy(interpreter)
    assert get_mixed_kernel(64, [4])
