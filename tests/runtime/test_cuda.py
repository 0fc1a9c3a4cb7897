"""The CUDA layer: both implementations through the same tests, over a fake driver and, where there is a GPU, a real."""

from __future__ import annotations

import enum
import inspect
import re
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bfsr_edge.errors import BackendError, UsageError
from bfsr_edge.runtime import cuda, cuda_pycuda, cuda_python, machine
from tests.runtime import fake_cuda

PACKAGES = {name: package for name, (_, package) in cuda.IMPLEMENTATIONS.items()}


def real(name: str) -> cuda.Cuda:
    if not machine.gpus():
        pytest.skip("no NVIDIA GPU here: the real CUDA layer is not run")
    pytest.importorskip(PACKAGES[name])
    return cuda.open_device(0, name)


@pytest.fixture
def device() -> fake_cuda.FakeDevice:
    return fake_cuda.FakeDevice()


@pytest.fixture(params=["cuda-python, fake", "pycuda, fake", "cuda-python, real", "pycuda, real"])
def gpu(request: pytest.FixtureRequest, device: fake_cuda.FakeDevice) -> Iterator[cuda.Cuda]:
    """An open device with its context current."""
    name, kind = request.param.split(", ")
    if kind == "real":
        opened = real(name)
    elif name == "pycuda":
        opened = cuda_pycuda.open_device(0, fake_cuda.pycuda(device))
    else:
        opened = cuda_python.open_device(0, fake_cuda.cuda_bindings(device))
    with opened.active():
        yield opened
    opened.close()
    opened.close()  # does nothing
    assert device.left() == {}


def round_trip(gpu: cuda.Cuda, values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """To the device and back, on two streams with an event between them."""
    first, second = gpu.stream(), gpu.stream()
    there, back = gpu.pinned(values.shape, values.dtype), gpu.pinned(values.shape, values.dtype)
    memory, copied = gpu.allocate(values.nbytes), gpu.event()
    there.array[...] = values
    gpu.copy_in(memory, there.array, first)
    gpu.record(copied, first)
    gpu.wait(second, copied)
    gpu.copy_out(back.array, memory, second)
    gpu.synchronize(second)
    result: np.ndarray[Any, Any] = back.array.copy()
    gpu.synchronize(first)
    gpu.destroy_event(copied)
    gpu.free(memory)
    gpu.free_pinned(there)
    gpu.free_pinned(back)
    gpu.destroy_stream(first)
    gpu.destroy_stream(second)
    return result


@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
def test_there_and_back(gpu: cuda.Cuda, dtype: Any) -> None:
    values = np.random.default_rng(0).integers(0, 255, (3, 5, 7)).astype(dtype)
    np.testing.assert_array_equal(round_trip(gpu, values), values)


def test_what_it_says(gpu: cuda.Cuda) -> None:
    assert gpu.name in cuda.IMPLEMENTATIONS
    assert gpu.graphs == (gpu.name == "cuda-python")
    assert gpu.index == 0
    assert gpu.gpu
    major, minor = map(int, gpu.sm.split("."))
    assert major >= 5
    assert minor >= 0
    free, total = gpu.free_memory()
    assert 0 < free <= total


def test_events(gpu: cuda.Cuda) -> None:
    stream, start, end = gpu.stream(), gpu.event(timing=True), gpu.event(timing=True)
    gpu.record(start, stream)
    gpu.record(end, stream)
    gpu.wait_for(end)
    assert gpu.elapsed(start, end) >= 0
    for event in (start, end):
        gpu.destroy_event(event)
    gpu.destroy_stream(stream)


def test_graphs(gpu: cuda.Cuda) -> None:
    stream, host, memory = gpu.stream(), gpu.pinned((4,), np.float32), gpu.allocate(16)
    back = gpu.pinned((4,), np.float32)
    if gpu.graphs:
        graph = gpu.capture(stream, lambda: gpu.copy_in(memory, host.array, stream))
        for value in (1.0, 2.0):  # a graph copies what is there when it is launched
            host.array[...] = value
            gpu.launch(graph, stream)
            gpu.copy_out(back.array, memory, stream)
            gpu.synchronize(stream)
            assert (back.array == value).all()
        gpu.destroy_graph(graph)
    else:
        with pytest.raises(BackendError, match="cannot capture CUDA graphs") as caught:
            gpu.capture(stream, lambda: None)
        assert "cuda12" in caught.value.fix
        del caught  # its traceback holds the stream
    gpu.free(memory)
    gpu.free_pinned(host)
    gpu.free_pinned(back)
    gpu.destroy_stream(stream)


def test_an_exception_ends_the_capture(gpu: cuda.Cuda) -> None:
    """Otherwise the stream would never run anything again."""
    if not gpu.graphs:
        pytest.skip("pycuda has no graphs")

    def fail() -> None:
        raise ZeroDivisionError("in between")

    stream = gpu.stream()
    with pytest.raises(ZeroDivisionError, match="in between"):
        gpu.capture(stream, fail)
    host, memory = gpu.pinned((4,), np.float32), gpu.allocate(16)
    gpu.copy_in(memory, host.array, stream)
    gpu.synchronize(stream)
    gpu.free(memory)
    gpu.free_pinned(host)
    gpu.destroy_stream(stream)


def test_synchronizing_while_capturing_is_an_error(gpu: cuda.Cuda) -> None:
    if not gpu.graphs:
        pytest.skip("pycuda has no graphs")
    stream = gpu.stream()
    with pytest.raises(BackendError, match="cuStreamSynchronize") as caught:
        gpu.capture(stream, lambda: gpu.synchronize(stream))
    assert "CAPTURE" in caught.value.why[0]
    gpu.synchronize(stream)
    gpu.destroy_stream(stream)


def test_copies_that_do_not_fit(gpu: cuda.Cuda) -> None:
    stream, memory, host = gpu.stream(), gpu.allocate(8), gpu.pinned((4, 4), np.float32)
    for array in (host.array, host.array.T):
        with pytest.raises(BackendError, match="cannot be copied"):
            gpu.copy_in(memory, array, stream)
        with pytest.raises(BackendError, match="cannot be copied"):
            gpu.copy_out(array, memory, stream)
    gpu.free(memory)
    gpu.free_pinned(host)
    gpu.destroy_stream(stream)


def test_more_memory_than_there_is(gpu: cuda.Cuda) -> None:
    with pytest.raises(BackendError) as caught:
        gpu.allocate(1 << 50)
    assert "memory" in str(caught.value).lower()
    assert "other programs" in str(caught.value)


def test_another_thread(gpu: cuda.Cuda) -> None:
    """The context is current where it was asked for, and nowhere else."""
    values = np.arange(24, dtype=np.float32)
    found: list[Any] = []

    def work() -> None:
        with gpu.active(), gpu.active():
            found.append(round_trip(gpu, values))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    np.testing.assert_array_equal(found[0], values)


@pytest.mark.parametrize("name", ["cuda-python", "pycuda"])
def test_no_context_is_an_error(device: fake_cuda.FakeDevice, name: str) -> None:
    opened = (
        cuda_python.open_device(0, fake_cuda.cuda_bindings(device))
        if name == "cuda-python"
        else cuda_pycuda.open_device(0, fake_cuda.pycuda(device))
    )
    with pytest.raises(BackendError) as caught:
        opened.allocate(4)
    assert "context" in str(caught.value).lower()


@pytest.mark.parametrize("name", ["cuda-python", "pycuda"])
def test_second_gpu_and_none(device: fake_cuda.FakeDevice, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    drivers = {"cuda-python": fake_cuda.cuda_bindings(device), "pycuda": fake_cuda.pycuda(device)}
    monkeypatch.setattr(cuda, "require", lambda *_: drivers[name])
    assert cuda.open_device(1, name).gpu == "Fake GPU 1"
    assert cuda.open_device(0, name).index == 0
    with pytest.raises(BackendError, match="no cuda:2") as caught:
        cuda.open_device(2, name)
    assert "cuda:0 to cuda:1" in str(caught.value)


@pytest.mark.parametrize("name", ["cuda-python", "pycuda"])
def test_integrated_gpus_say_their_size(
    device: fake_cuda.FakeDevice, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All modules of Jetson Orin have one name and one SM."""
    drivers = {"cuda-python": fake_cuda.cuda_bindings(device), "pycuda": fake_cuda.pycuda(device)}
    monkeypatch.setattr(cuda, "require", lambda *_: drivers[name])
    device.names[0], device.integrated, device.multiprocessors = "Orin", True, 16
    assert cuda.open_device(0, name).gpu == "Orin, 16 SMs"
    device.integrated = False
    assert cuda.open_device(0, name).gpu == "Orin"


@pytest.mark.parametrize(
    ("version", "fix"), [("12.6", "pip install 'cuda-python==12.6.*'"), ("", "cuda-python of JetPack's CUDA")]
)
def test_a_jetson_gets_no_extra(monkeypatch: pytest.MonkeyPatch, version: str, fix: str) -> None:
    """An extra brings opencv-python, which would come before JetPack's."""
    monkeypatch.setattr(machine, "tegra_release", lambda: "36.4.3")
    monkeypatch.setattr(machine, "cuda_version", lambda: version)
    assert cuda.install().startswith(fix)
    monkeypatch.setattr(machine, "tegra_release", str)
    monkeypatch.setattr(machine, "gpus", list)
    assert cuda.install() == cuda.INSTALL


class TestChoosing:
    def test_argument_and_environment(self, device: fake_cuda.FakeDevice, monkeypatch: pytest.MonkeyPatch) -> None:
        asked: list[str] = []

        def require(package: str, *_: str) -> Any:
            asked.append(package)
            return fake_cuda.pycuda(device) if "pycuda" in package else fake_cuda.cuda_bindings(device)

        monkeypatch.setattr(cuda, "require", require)
        monkeypatch.delenv(cuda.VARIABLE, raising=False)
        assert cuda.open_device(0, "pycuda").name == "pycuda"
        monkeypatch.setenv(cuda.VARIABLE, "pycuda")
        assert cuda.open_device(0).name == "pycuda"
        assert cuda.open_device(0, "cuda-python").name == "cuda-python"
        monkeypatch.setenv(cuda.VARIABLE, "nonsense")
        with pytest.raises(UsageError, match="no CUDA layer 'nonsense'"):
            cuda.open_device(0)

    @pytest.mark.parametrize(
        ("there", "taken"),
        [
            ({"cuda-python": "13.0", "pycuda": "2025.1"}, "cuda-python"),
            ({"cuda-python": "ImportError: no", "pycuda": "2025.1"}, "pycuda"),
            ({"cuda-python": "ImportError: no", "pycuda": "ImportError: no"}, "cuda-python"),
        ],
    )
    def test_what_is_installed(
        self, device: fake_cuda.FakeDevice, monkeypatch: pytest.MonkeyPatch, there: dict[str, str], taken: str
    ) -> None:
        monkeypatch.delenv(cuda.VARIABLE, raising=False)
        monkeypatch.setattr(cuda, "importable", lambda: there)
        drivers = {"cuda.bindings.driver": fake_cuda.cuda_bindings, "pycuda.driver": fake_cuda.pycuda}
        monkeypatch.setattr(cuda, "require", lambda package, *_: drivers[package](device))
        assert cuda.open_device(0).name == taken

    def test_nothing_installed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "pycuda", None)
        with pytest.raises(BackendError, match=r"importing pycuda\.driver failed") as caught:
            cuda.open_device(0, "pycuda")
        assert "pip install" in caught.value.fix

    def test_importable(self) -> None:
        found = cuda.importable()
        assert set(found) == set(cuda.IMPLEMENTATIONS)
        assert all(found.values())


def test_names_of_the_real_bindings(device: fake_cuda.FakeDevice) -> None:
    """The fake offers nothing that the real module lacks, and takes as many arguments."""
    driver = pytest.importorskip("cuda.bindings.driver")
    fake = vars(fake_cuda.cuda_bindings(device))
    assert len(fake) > 30
    for name, thing in fake.items():
        theirs = getattr(driver, name)
        if isinstance(thing, enum.EnumMeta):
            members: list[enum.IntEnum] = list(thing)
            for member in members:
                assert int(getattr(theirs, member.name)) == int(member), name
        else:  # their signature stands in the first line of the docstring
            told = theirs.__doc__.splitlines()[0]
            expected = [word for word in told[told.index("(") + 1 : told.rindex(")")].split(",") if word.strip()]
            assert len(inspect.signature(thing).parameters) == len(expected), told
    for member in fake_cuda.CUresult:
        assert int(getattr(driver.CUresult, member.name)) == int(member)


def test_calls_go_to_names_of_the_real_bindings() -> None:
    """Every function that cuda_python.py calls by name is in the real module."""
    driver = pytest.importorskip("cuda.bindings.driver")
    source = Path(cuda_python.__file__).read_text("utf-8")
    called = set(re.findall(r"\"(cu[A-Z]\w+)\"|_driver\.(cu\w+)", source))
    names = {one or other for one, other in called}
    assert len(names) > 25
    assert not [name for name in names if not hasattr(driver, name)]


@pytest.mark.skipif(bool(machine.gpus()), reason="there is a GPU")
def test_no_driver() -> None:
    """cuda-python imports without a driver; what it says then is passed on."""
    pytest.importorskip("cuda.bindings.driver")
    with pytest.raises(BackendError) as caught:
        cuda.open_device(0, "cuda-python")
    assert "driver" in str(caught.value)
    assert "bfsr-edge doctor" in caught.value.fix


def test_autoinit_is_never_imported() -> None:
    lines = inspect.getsource(cuda_pycuda).splitlines()
    assert not [line for line in lines if "import" in line and "autoinit" in line and "never" not in line]
