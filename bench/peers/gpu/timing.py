"""How the peers of `galago bench` are measured, as galago itself: batches of calls, inputs rotated beyond the cache, P10 and median.

A peer reads cases from standard input (`galago bench <op> --list --json`), measures every implementation it has of them and prints the JSON
line of `galago bench`, `impl` naming implementation and version. What cannot run is named on standard error and left out.
Options: --device cuda|cpu, --rounds n.
"""

import argparse
import json
import math
import sys
import time

try:
    import torch
except ImportError:
    sys.exit("no torch")

arguments = argparse.ArgumentParser()
arguments.add_argument("--device", default="cuda")
arguments.add_argument("--rounds", type=int, default=50)
options = arguments.parse_args()
device = options.device
on_gpu = device.startswith("cuda")
if on_gpu and not torch.cuda.is_available():
    sys.exit("torch sees no GPU")
device_name = torch.cuda.get_device_name() if on_gpu else "cpu"
version = f"torch {torch.__version__}"
dtypes = {"float32": torch.float32, "bfloat16": torch.bfloat16}
torch.manual_seed(1)


def normal(*shape, dtype=torch.float32, factor=1.0, leaf=False):
    x = (torch.randn(shape, device=device) * factor).to(dtype)
    return x.requires_grad_() if leaf else x


def compiled(function):
    """torch.compile with static shapes; None where this version has none."""
    if not on_gpu or not hasattr(torch, "compile"):
        return None
    torch._dynamo.config.cache_size_limit = 256  # one version per shape; past the limit it would quietly run eagerly
    return torch.compile(function, dynamic=False)


def wait():
    if on_gpu:
        torch.cuda.synchronize()


class Stopwatch:
    """Microseconds between two points of the device's queue."""

    def __enter__(self):
        wait()
        if on_gpu:
            self.begin, self.end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            self.begin.record()
        else:
            self.start = time.perf_counter()
        return self

    def __exit__(self, *_):
        if on_gpu:
            self.end.record()
            self.end.synchronize()
            self.us = self.begin.elapsed_time(self.end) * 1e3
        else:
            self.us = (time.perf_counter() - self.start) * 1e6


class Call:
    """One set of inputs: `forward` for the passes forward and backward, `call` for others, `step` after a backward."""

    def __init__(self, forward=None, leaves=(), dout=None, call=None, step=None):
        self.forward, self.leaves, self.dout, self.call, self.step = forward, leaves, dout, call, step

    def run(self, name, recorded):
        if self.call:
            self.call()
        elif name == "forward":
            self.forward()
        else:
            recorded.backward(self.dout)
            if name == "step":
                self.step()
            for leaf in self.leaves:
                leaf.grad = None


def batch(sets, name, calls):
    """Microseconds per call."""
    record = name in ("backward", "step") and sets[0].forward is not None
    graphs = [sets[i % len(sets)].forward() if record else None for i in range(calls)]
    with Stopwatch() as watch:
        for i in range(calls):
            sets[i % len(sets)].run(name, graphs[i])
    return watch.us / calls


def measure(case, impl, make):
    count = 1 if options.rounds == 1 else min(16, max(1, math.ceil(240e6 / case["bytes"])))
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    sets = [make() for _ in range(count)]
    name = case["pass"]
    once = min(batch(sets, name, 1) for _ in range(1 if options.rounds == 1 else 3))
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    batch(sets, name, 1)
    peak = torch.cuda.max_memory_allocated() if on_gpu else 0
    room = max(1, int(4e9 // case["bytes"]))
    calls = max(1, min(500, room, round(5e3 / once)))
    samples, begun = [], time.perf_counter()
    while len(samples) < options.rounds and (len(samples) < 5 or time.perf_counter() - begun < 1):
        samples.append(batch(sets, name, calls))
    samples.sort()
    median, p10 = (samples[int(q * (len(samples) - 1))] for q in (0.5, 0.1))
    floor = case["floor_us"]
    line = {
        "op": case["op"],
        "pass": name,
        "case": case["case"],
        "impl": f"{impl}, {version}",
        "variant": impl,
        "dtype": case["dtype"],
        "device": device_name,
        "us_p10": round(p10, 3),
        "us_median": round(median, 3),
        "bytes": case["bytes"],
        "flops": case["flops"],
        "floor_us": floor,
        "share": None if floor is None else round(floor / median, 4),
        "peak_mb": round(peak / 1e6, 3),
    }
    print(json.dumps(line), flush=True)


def main(implementations):
    """`implementations(case, sizes, dtype)` gives pairs of a name and a function that makes a Call, None for what there is not."""
    for text in sys.stdin:
        case = json.loads(text)
        if "sizes" not in case:
            continue
        for impl, make in implementations(case, case["sizes"], dtypes[case["dtype"]]):
            if make is None:
                continue
            try:
                measure(case, impl, make)
            except Exception as error:  # out of memory, a backend that refuses the shape, ...
                first = (str(error) or type(error).__name__).splitlines()[0]
                print(f"{case['op']} {case['case']} {case['pass']}: {impl} left out: {first}", file=sys.stderr)
            if on_gpu:
                torch.cuda.empty_cache()
