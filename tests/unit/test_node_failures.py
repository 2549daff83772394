"""What a node raised is told from its words: of PyTorch, drivers, libraries and systems, as people report them."""

from __future__ import annotations

import pytest

from app.domain.errors import DeviceFailed, NodeFailed, OutOfMemory
from worker.comfyui.answers import read_ending
from worker.comfyui.node_failures import failure_of

RUNTIME = "RuntimeError"
TIPS = (
    "\nThis error means you ran out of memory on your GPU.\n\n"
    "TIPS: If the workflow worked before you might have accidentally set the batch_size to a large number."
)


@pytest.mark.parametrize(
    "message",
    [
        "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 23.64 GiB of which 1 is free.",
        "HIP out of memory. Tried to allocate 24.00 GiB (GPU 0; 15.98 GiB total capacity; 7.11 GiB already allocated)",
        "XPU out of memory. Tried to allocate 5.12 GiB (GPU 0; 15.11 GiB total capacity)",
        "NPU out of memory. Tried to allocate 20.00 MiB",
        "MPS backend out of memory (MPS allocated: 15.72 GiB, other allocations: 2.41 MiB, max allowed: 18.13 GiB).",
        "Allocation on device ",
        "Allocation on device 0 would exceed allowed memory. (out of memory)\nCurrently allocated     : 599.22 MiB",
        "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported at some other API call",
        "HIP error: out of memory\nHIP kernel errors might be asynchronously reported",
        "CUDA driver error: out of memory",
        "cuda runtime error (2) : out of memory at /pytorch/aten/src/THC/THCCachingHostAllocator.cpp:278",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "CUDA error: HIPBLAS_STATUS_ALLOC_FAILED when calling `hipblasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
        "cuFFT error: CUFFT_ALLOC_FAILED",
        "miopenStatusAllocFailed",
        "CUDA_ERROR_OUT_OF_MEMORY: out of memory",
        "CUDA failure 2: out of memory ; GPU=0 ; hostname=box ; file=cuda_allocator.cc ; line=47 ; expr=cudaMalloc",
        "[defaultAllocator.cpp::allocate::19] Error Code 1: Cuda Runtime (out of memory)",
        "../rtSafe/safeRuntime.cpp (25) - Cuda Error in allocate: 2 (out of memory)",
        "Requested amount of GPU memory (8589934592 bytes) could not be allocated.",
        "hipErrorOutOfMemory",
        "cudaErrorMemoryAllocation: out of memory",
        "level_zero backend failed with error: 39 (UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY)",
        "vkAllocateMemory failed: VK_ERROR_OUT_OF_DEVICE_MEMORY",
        "[enforce fail at alloc_cpu.cpp:115] data. DefaultCPUAllocator: not enough memory: you tried to allocate 9",
        r"[enforce fail at ..\c10\core\impl\alloc_cpu.cpp:72] data. DefaultCPUAllocator: not enough memory",
        "DefaultCPUAllocator: can't allocate memory: you tried to allocate 65536 bytes. Error code 12",
        "[enforce fail at CPUAllocator.cpp:68] . DefaultCPUAllocator: can't allocate memory",
        "[Errno 12] Cannot allocate memory",
        "[WinError 1455] The paging file is too small for this operation to complete",
        "std::bad_alloc",
        "bad allocation",
        "Unable to allocate 5.00 GiB for an array with shape (1, 20000, 20000, 3) and data type float32",
        "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Failed to allocate memory for requested buffer of size 458549052",
        "onnxruntime::BFCArena::AllocateRawInternal Available memory of 0 is smaller than requested bytes of 6912",
        "Could not allocate tensor with 4915840 bytes. There is not enough GPU video memory available!",
        "Invalid buffer size: 16.00 GB",
        "Insufficient Memory (00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory)",
        "OpenCV(4.9.0) alloc.cpp:73: error: (-4:Insufficient memory) Failed to allocate 3981312000 bytes",
        "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 17179869184 bytes.",
        "Out of memory allocating 4,294,967,296 bytes (allocated so far: 2,147,483,648 bytes).",
        "The model could not be loaded: CUDA out of memory",
        "ggml_gallocr_reserve_n: failed to allocate CUDA0 buffer of size 4294967296",
    ],
)
def test_out_of_memory_has_many_names(message: str) -> None:
    assert failure_of(RUNTIME, message) is OutOfMemory
    assert failure_of("torch.AcceleratorError", message) is OutOfMemory


@pytest.mark.parametrize(
    "kind",
    [
        "torch.OutOfMemoryError",
        "torch.cuda.OutOfMemoryError",
        "cupy.cuda.memory.OutOfMemoryError",
        "MemoryError",
        "numpy.core._exceptions._ArrayMemoryError",
        "numpy._core._exceptions._ArrayMemoryError",
        "tensorflow.python.framework.errors_impl.ResourceExhaustedError",
        "my_nodes.loader.ModelOutOfMemoryError",
    ],
)
def test_the_name_of_the_exception_is_enough(kind: str) -> None:
    assert failure_of(kind, "") is OutOfMemory


@pytest.mark.parametrize(
    "message",
    [
        "CUDA error: an illegal memory access was encountered",
        "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`",
        "level_zero backend failed with error: 20 (UR_RESULT_ERROR_DEVICE_LOST)",
        "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED",
        "MPS backend: command buffer exited with error status",
        "CUDA error: device-side assert triggered" + TIPS,
    ],
)
def test_an_error_of_the_device_is_no_lack_of_memory(message: str) -> None:
    assert failure_of(RUNTIME, message) is DeviceFailed


@pytest.mark.parametrize(
    "message",
    [
        "mat1 and mat2 shapes cannot be multiplied (77x2048 and 768x320)",
        # Where PyTorch has no error of its own for it, ComfyUI says so of each error.
        "'NoneType' object is not subscriptable" + TIPS,
        "The prompt 'a robot that runs out of memory' has no subject.",
        "libgomp.so.1: cannot allocate memory in static TLS block",
        "memory_efficient_attention is not available",
        "Failed to allocate a port",
        "tried to allocate a slot twice",
        "out of resource: shared memory, Required: 131072, Hardware limit: 101376",
        "Value -5 smaller than min of 1",
    ],
)
def test_what_only_speaks_of_memory_is_the_nodes_own_error(message: str) -> None:
    assert failure_of("ValueError", message) is NodeFailed


def test_a_history_that_ends_with_such_an_error_is_read_so() -> None:
    told = {"node_id": "3", "node_type": "VAEDecode", "exception_type": RUNTIME}
    told["exception_message"] = r"[enforce fail at ..\c10\core\impl\alloc_cpu.cpp:72] data. DefaultCPUAllocator: x"
    status = {"status_str": "error", "messages": [["execution_error", told]]}
    assert isinstance(read_ending({"status": status}).failure, OutOfMemory)
