"""What the makers' libraries say when the device of a server has broken, in the types and words of PyTorch."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from worker.standin.nodes import NodeError


class GpuFault(StrEnum):
    """Whose words they are: the values of `Fault.gpu`."""

    CUDA = "cuda"
    ACCELERATOR = "accelerator"
    HIP = "hip"
    MPS = "mps"
    CUBLAS = "cublas"
    CUDNN = "cudnn"


_ADVICE: Final = (
    "{0} kernel errors might be asynchronously reported at some other API call, so the stacktrace below might be "
    "incorrect.\nFor debugging consider passing {1}\nCompile with `TORCH_USE_{0}_DSA` to enable device-side "
    "assertions.\n"
)
_ILLEGAL: Final = "{} error: an illegal memory access was encountered\n"
_CUDA: Final = _ILLEGAL.format("CUDA") + _ADVICE.format("CUDA", "CUDA_LAUNCH_BLOCKING=1")
_METAL: Final = (
    "MPS error: command buffer exited with error status.\n"
    "\tThe Metal Performance Shaders operations encoded on it may not have completed."
)
_SAID: Final[Mapping[GpuFault, tuple[str, str]]] = {
    GpuFault.CUDA: ("RuntimeError", _CUDA),
    GpuFault.ACCELERATOR: ("torch.AcceleratorError", _CUDA),
    GpuFault.HIP: (
        "torch.AcceleratorError",
        _ILLEGAL.format("HIP") + _ADVICE.format("HIP", "AMD_SERIALIZE_KERNEL=3"),
    ),
    GpuFault.MPS: ("RuntimeError", _METAL),
    GpuFault.CUBLAS: (
        "RuntimeError",
        "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx( handle, opa, opb, m, n, k)`",
    ),
    GpuFault.CUDNN: ("RuntimeError", "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
}


def broken(fault: GpuFault) -> NodeError:
    """Return what a node raises on such a device."""
    exception_type, message = _SAID[fault]
    return NodeError(message, exception_type)
