"""The grouped GEMM of libepfgemm.so for torch tensors, for benches: arguments as src/cuda/epf_gemm_cuda.h has them."""
import ctypes
import pathlib

import torch

from epfuse_library import read_headers

DTYPES = {torch.bfloat16: 2, torch.float16: 3}
HEADER = pathlib.Path(__file__).resolve().parents[2] / "src" / "cuda" / "epf_gemm_cuda.h"
Args = read_headers([HEADER])[0]["epf_gemm_cuda_args"]


class Library:
    def __init__(self, path):
        self.lib = ctypes.CDLL(path)
        self.queue = torch.zeros(2, dtype=torch.int32, device="cuda")
        self.lib.epf_error_text.restype = ctypes.c_char_p
        self.lib.epf_gemm_cuda.argtypes = [ctypes.POINTER(Args), ctypes.c_void_p]

    def prepare(self, a, b, c, rows, **more):
        """A closure that launches; `more` holds fields of Args, tensors as they are."""
        grad = more.get("weight_grad", 0)
        args = Args(dtype=DTYPES[a.dtype], num_experts=rows.numel(), a_rows=more.pop("a_rows", a.shape[0]))
        args.n = b.shape[-2] if not grad and not more.get("b_n_major") else b.shape[-1]
        args.k = 0 if grad else a.shape[1]
        args.m = a.shape[1] if grad else 0
        for name, tensor in dict(a=a, b=b, c=c, rows=rows).items():
            setattr(args, name, tensor.data_ptr())
        if more.pop("dynamic", 1):
            args.queue = self.queue.data_ptr()
        kept = [a, b, c, rows]
        for name, value in more.items():
            if isinstance(value, torch.Tensor):
                kept.append(value)
                value = value.data_ptr()
            setattr(args, name, value)

        def launch(args=args, kept=kept):
            status = self.lib.epf_gemm_cuda(ctypes.byref(args), torch.cuda.current_stream().cuda_stream)
            if status != 0:
                raise RuntimeError(self.lib.epf_error_text().decode())
        return launch
