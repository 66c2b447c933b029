"""libepfuse.so for Python benches: structs and constants are read from the headers in include/epfuse."""
import ctypes
import os
import pathlib
import re
import threading

HEADERS = [pathlib.Path(__file__).resolve().parents[2] / "include" / "epfuse" / name
           for name in ("epfuse_group.h", "epfuse.h", "epfuse_layer.h")]
PLAIN = {"uint32_t": ctypes.c_uint32, "int32_t": ctypes.c_int32, "uint64_t": ctypes.c_uint64,
         "int64_t": ctypes.c_int64, "bool": ctypes.c_bool, "double": ctypes.c_double,
         "epf_all_gather_fn": ctypes.c_void_p}
F32, BF16, F16, I32 = 1, 2, 3, 5


def read_headers(paths):
    """(structs by name, enum constants) of headers that hold only what epfuse.h and its parts do."""
    text = "\n".join(path.read_text() for path in paths)
    text = re.sub(r"/\*.*?\*/|^\s*#.*?$", "", text, flags=re.S | re.M)
    constants = {}
    for body in re.findall(r"\benum\s*\w*\s*\{(.*?)\}", text, re.S):
        for name, value in re.findall(r"(\w+)\s*=\s*(-?\d+)", body):
            constants[name] = int(value)
    structs = {}
    for body, name in re.findall(r"typedef struct \w+ \{(.*?)\}\s*(\w+);", text, re.S):
        fields = []
        for line in body.split(";"):
            line = " ".join(line.replace("const", " ").split())
            if not line:
                continue
            kind, rest = line.split(" ", 1)
            for field in rest.split(","):
                field = field.strip()
                count = re.search(r"\[(\w+)\]", field)
                c_type = ctypes.c_void_p if "*" in field else structs.get(kind) or PLAIN[kind]
                if kind == "char" and "*" in field:
                    c_type = ctypes.c_char_p
                if count:
                    c_type = c_type * constants[count[1]]
                fields.append((re.sub(r"[*\s]|\[\w+\]", "", field), c_type))
        structs[name] = type(name, (ctypes.Structure,), {"_fields_": fields})
    return structs, constants


class Error(RuntimeError):
    pass


class Library:
    def __init__(self, path):
        self.lib = ctypes.CDLL(str(path))
        self.structs, self.constants = read_headers(HEADERS)
        self.lib.epf_last_error.restype = ctypes.c_char_p
        self.lib.epf_version.restype = ctypes.c_char_p

    def call(self, name, *args):
        status = getattr(self.lib, name)(*args)
        if status != 0:
            raise Error(f"{name}: {status}: {self.lib.epf_last_error().decode()}")

    def make(self, name, **fields):
        """A struct after its _init function, with these fields."""
        made = self.structs[name]()
        if hasattr(made, "struct_size"):
            self.call(name + "_init_sized", ctypes.byref(made), ctypes.c_size_t(ctypes.sizeof(made)))
        for field, value in fields.items():
            if field not in dict(made._fields_):
                raise AttributeError(f"{name} has no {field}")
            setattr(made, field, value)
        return made

    def tensor(self, pointer, dtype, *shape):
        made = self.structs["epf_tensor"]()
        sizes = (ctypes.c_int64 * len(shape))(*shape)
        self.call("epf_tensor_make", ctypes.byref(made), ctypes.c_void_p(pointer), dtype, len(shape), sizes)
        return made

    def threads_group(self, num_ranks, timeout_s=20.0):
        config = self.make("epf_group_config", timeout_ns=int(timeout_s * 1e9))
        groups = (ctypes.c_void_p * num_ranks)()
        self.call("epf_group_create_threads", num_ranks, ctypes.byref(config), groups)
        return [ctypes.c_void_p(group) for group in groups]

    def process_group(self, rank, num_ranks, rendezvous, timeout_s=20.0):
        """This process's rank of a group of processes that name the same rendezvous."""
        os.environ.update(EPFUSE_RANK=str(rank), EPFUSE_NUM_RANKS=str(num_ranks), EPFUSE_RENDEZVOUS=rendezvous)
        config = self.make("epf_group_config", timeout_ns=int(timeout_s * 1e9))
        group = ctypes.c_void_p()
        self.call("epf_group_create", ctypes.byref(config), ctypes.byref(group))
        return group


def on_all(ranks, function):
    """function(rank) on a thread each, as collective calls want it; results in order."""
    results, errors = [None] * len(ranks), []

    def run(i):
        try:
            results[i] = function(ranks[i])
        except Exception as error:  # shown by the caller's thread
            errors.append(error)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(ranks))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return results


class Rank:
    """One rank's operator; tensors are made by the caller with Library.tensor()."""

    def __init__(self, library, group, rank, **config):
        self.api, self.group, self.rank = library, group, rank
        self.op, self.layout, self.context = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_void_p()
        self.config = config

    def open(self):
        config = self.api.make("epf_op_config", **self.config)
        self.api.call("epf_op_create", self.group, ctypes.byref(config), ctypes.byref(self.op))
        self.api.call("epf_layer_context_create", self.op, ctypes.byref(self.context))

    def preprocess(self, args):
        self.api.call("epf_preprocess", self.op, ctypes.byref(args), ctypes.byref(self.layout))

    def view(self):
        view = self.api.structs["epf_layout_view"]()
        self.api.call("epf_layout_get", self.layout, ctypes.byref(view))
        return view

    def dispatch(self, args):
        self.api.call("epf_dispatch_group_gemm", self.op, ctypes.byref(args), None)

    def combine(self, args):
        self.api.call("epf_group_gemm_combine", self.op, ctypes.byref(args), None)

    def forward(self, args):
        self.api.call("epf_layer_forward", self.op, self.context, ctypes.byref(args))

    def backward(self, args):
        self.api.call("epf_layer_backward", self.op, self.context, ctypes.byref(args))

    def synchronize(self):
        self.api.call("epf_op_synchronize", self.op)

    def close(self):
        self.api.lib.epf_layout_destroy(self.layout)
        self.api.lib.epf_layer_context_destroy(self.context)
        self.api.lib.epf_op_destroy(self.op)
