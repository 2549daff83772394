"""Classifies a node's exception by the messages of drivers and libraries: out of memory, device error, or other."""

from __future__ import annotations

import re
from typing import Final

from app.domain.errors import AttemptFailed, DeviceFailed, NodeFailed, OutOfMemory

_KINDS_OF_MEMORY: Final = ("MemoryError", "OutOfMemory", "OutOfMemoryException", "ResourceExhaustedError")
"""Endings of exception names: `torch.OutOfMemoryError`, Python's own, numpy's `_ArrayMemoryError`, TensorFlow's."""
_DEVICES: Final = r"CUDA|HIP|ROCm|MPS|XPU|NPU|MLU|MUSA|GPU|VRAM|DirectML|Vulkan|OpenCL|TensorRT|cuBLAS|cuDNN"
_OUT_OF_MEMORY: Final = re.compile(
    # PyTorch: "HIP out of memory. Tried to allocate …", "CUDA error: out of memory"; TensorRT: "Cuda Runtime (out of
    # memory)"; ONNX: "CUDA failure 2: out of memory". Not ComfyUI's own "you ran out of memory on your GPU": where
    # PyTorch has no such error it says that of every one.
    rf"\b(?:{_DEVICES})\b[^\n.;\"']{{0,40}}?\bout of memory\b"
    r"|(?:^|[:(\[] ?)out of memory\b|\bout of memory (?:allocating|while trying to allocate)"
    r"|\btried to allocate [\d.]+ ?(?:bytes|[KMGT]i?B)|\bAllocation on device\b|RESOURCE_EXHAUSTED|OOM when allocating"
    # Libraries and drivers name their status: CUBLAS_STATUS_ALLOC_FAILED, UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY.
    r"|[A-Z]_ALLOC(?:ATION)?_FAIL(?:ED|URE)\b|miopenStatusAllocFailed|rocblas_status_memory_error"
    r"|[A-Z]_OUT_?OF_(?:\w+_)?MEMORY\b|(?:cuda|hip)Error(?:MemoryAllocation|OutOfMemory)|ErrorOutOfMemory"
    r"|NVML_SUCCESS == r\b"
    # The machine's own memory.
    r"|DefaultCPUAllocator: \w+'?\w* (?:enough|allocate) memory|enforce fail at [^\]\n]*(?:alloc_cpu|CPUAllocator)\.cpp"
    r"|can(?:no|')t allocate memory(?! in static TLS)|\bENOMEM\b|\[Errno 12\]|\[WinError (?:8|14|1455)\]"
    r"|paging file is too small|not enough memory resources|std::bad_alloc|\bbad allocation\b"
    # Numpy, ONNX, TensorRT, DirectML, Apple's Metal, OpenCV, ggml.
    r"|\bunable to allocate [\d.]+ ?(?:bytes|[KMGTPE]i?B)|failed to allocate memory for requested buffer"
    r"|available memory of \d+ is smaller than requested|requested amount of GPU memory .{0,40}could not be allocated"
    r"|not enough (?:GPU|video)(?: video)? memory|\binvalid buffer size: [\d.]+ ?[KMGT]i?B"
    r"|\binsufficient (?:GPU )?memory\b"
    r"|greater than the maximum allowed buffer size|(?:failed|unable) to allocate \w+ buffer\b",
    re.IGNORECASE,
)
_DEVICE: Final = re.compile(
    r"\b(?:CUDA|HIP|XPU|SYCL|MPS|NCCL|cuDNN|cuBLAS|MIOpen)(?: \w+)? (?:error|failure)\b|device-side assert"
    r"|\b(?:CUBLAS|CUDNN|CUSOLVER|CUSPARSE|CUFFT|HIPBLAS|ROCBLAS|MIOPEN)_STATUS_(?!SUCCESS)"
    r"|\bcuda(?:Error|Get|Runtime)\w*"
    r"|\bhipError\w+|miopenStatus|no kernel image is available|Found no NVIDIA driver|No (?:CUDA|HIP) GPUs are avail"
    r"|Torch not compiled with CUDA|GPU has fallen off the bus|\bMPS backend\b.{0,60}(?:error|failed)|UR_RESULT_ERROR"
    r"|command buffer exited with error status",
    re.IGNORECASE,
)
"""Errors of the device, its driver or its libraries, for example the status names of cuBLAS."""


def failure_of(kind: str, message: str) -> type[AttemptFailed]:
    """Return the error class for a node's exception; `kind` is the exception's full name, from ComfyUI."""
    if kind.endswith(_KINDS_OF_MEMORY) or _OUT_OF_MEMORY.search(message):
        return OutOfMemory
    return DeviceFailed if kind.endswith("AcceleratorError") or _DEVICE.search(message) else NodeFailed
