"""The grouped GEMM of libepfgemm.so for torch tensors: a mirror of src/cuda/epf_gemm_cuda.h for benches."""
import ctypes

import torch

DTYPES = {torch.bfloat16: 2, torch.float16: 3}


class Args(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int32) for name in (
        "dtype", "weight_grad", "b_n_major", "epilogue", "num_experts", "n", "k", "m")] + [
        ("a_rows", ctypes.c_int64)] + [(name, ctypes.c_void_p) for name in (
            "a", "b", "c", "raw", "row_ptr", "row_weight", "gather", "rows", "row_offset", "queue")] + [
        ("expected_rows", ctypes.c_int64)] + [(name, ctypes.c_int32) for name in (
            "sm_margin", "block_n", "cluster_m", "cluster_n", "group_m", "short_last",
            "row_weight_dtype")] + [(name, ctypes.c_int64) for name in (
                "a_stride", "b_stride", "c_stride", "raw_stride")]


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
