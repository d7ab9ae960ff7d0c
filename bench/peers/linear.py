"""PyTorch, or NumPy where PyTorch is missing, on the cases of bench/linear.bench.ts. The protocol is in bench/measure.ts."""

import json
import os
import sys
import time

threads = int(os.environ.get("OMP_NUM_THREADS", "1"))


def libraries():
    """Which BLAS this process has loaded: a PyTorch with the reference BLAS is no peer."""
    with open("/proc/self/maps") as maps:
        names = {os.path.basename(line.split()[-1]) for line in maps if line.rstrip().endswith((".so", ".so.0", ".so.3"))}
    known = sorted(name for name in names if any(word in name.lower() for word in ("openblas", "mkl", "blis", "libblas")))
    return ",".join(known) or "built in"


def torch_calls():
    import torch
    import torch.nn.functional as F

    torch.set_num_threads(threads)

    def forward(f):
        def call():
            with torch.no_grad():
                f()

        return call

    def make(r):
        if r["op"] == "linear":
            x, w, b = torch.randn(r["M"], r["K"]), torch.randn(r["N"], r["K"]), torch.randn(r["N"])
            if r["pass"] == "forward":
                return forward(lambda: F.linear(x, w, b))
            if r["pass"] == "forward gelu":
                return forward(lambda: F.gelu(F.linear(x, w, b)))
            dout = torch.randn(r["M"], r["N"])
            for leaf in (x, w, b):
                leaf.requires_grad_()

            def step():
                F.linear(x, w, b).backward(dout)
                x.grad = w.grad = b.grad = None

            return step
        if r["op"] == "matmul":
            a, b = torch.randn(r["G"], r["M"], r["K"]), torch.randn(r["G"], r["N"], r["K"])
            return forward(lambda: a @ b.mT)
        if r["op"] == "loraLinear":
            x, w = torch.randn(r["M"], r["K"]), torch.randn(r["N"], r["K"])
            a, b = torch.randn(r["R"], r["K"]), torch.randn(r["N"], r["R"])
            return forward(lambda: F.linear(x, w) + 2 * F.linear(F.linear(x, a), b))
        if r["op"] == "patchEmbedding":
            images = torch.randint(0, 256, (r["B"], r["side"], r["side"], 3), dtype=torch.uint8)
            w, b = torch.randn(r["D"], 3, r["p"], r["p"]), torch.randn(r["D"])
            return forward(lambda: F.conv2d(images.permute(0, 3, 1, 2).float() / 127.5 - 1, w, b, stride=r["p"]))
        if r["op"] == "activation":
            x, f = torch.randn(*r["shape"]), {"relu": torch.relu, "gelu": F.gelu, "tanh": torch.tanh}[r["kind"]]
            return forward(lambda: f(x))
        return None

    torch.randn(8, 8) @ torch.randn(8, 8)
    return f"torch {torch.__version__} ({libraries()})", make


def numpy_calls():
    import numpy as np

    def random(*shape):
        return np.random.default_rng(1).standard_normal(shape, dtype=np.float32)

    def make(r):
        if r["op"] == "linear" and r["pass"] != "forward gelu":
            x, w, b, dout = random(r["M"], r["K"]), random(r["N"], r["K"]), random(r["N"]), random(r["M"], r["N"])
            if r["pass"] == "forward":
                return lambda: np.add(y := x @ w.T, b, out=y)

            def step():
                y = x @ w.T
                y += b
                return dout @ w, dout.T @ x, dout.sum(axis=0)

            return step
        if r["op"] == "matmul":
            a, b = random(r["G"], r["M"], r["K"]), random(r["G"], r["N"], r["K"])
            return lambda: a @ b.transpose(0, 2, 1)
        return None

    random(8, 8) @ random(8, 8)
    return f"numpy {np.__version__} ({libraries()})", make


try:
    name, make = torch_calls()
except ImportError:
    try:
        name, make = numpy_calls()
    except ImportError:
        sys.exit("neither torch nor numpy")

print(json.dumps({"impl": name}), flush=True)
made = {}
for line in sys.stdin:
    request = json.loads(line)
    key = (request["op"], request["pass"], request["case"])
    if key not in made:
        made = {key: make(request)}
        if made[key]:
            for _ in range(3):
                made[key]()
    call = made[key]
    if call is None:
        print(json.dumps({"impl": name, "us": None}), flush=True)
        continue
    start, cpu = time.perf_counter(), time.process_time()
    for _ in range(request["calls"]):
        call()
    us = (time.perf_counter() - start) * 1e6 / request["calls"]
    print(json.dumps({"impl": name, "us": us, "cpu_us": (time.process_time() - cpu) * 1e6 / request["calls"]}), flush=True)
