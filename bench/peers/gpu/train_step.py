"""The step of bench/gpu/train_step.ts in PyTorch, eager and compiled, in float32 and bfloat16 (autocast), from the same weights and batches.

train_step.py <folder> [--device cuda|cpu] [--rounds n]: <folder>/<sessions> as that program wrote it. The model is bench/peers/train_step.py's.
"""

import importlib.util
import json
import os
import sys

import torch

folder = sys.argv.pop(1)
from timing import Stopwatch, compiled, device, device_name, on_gpu, options, version  # noqa: E402

path = os.path.join(os.path.dirname(__file__), "..", "train_step.py")
spec = importlib.util.spec_from_file_location("model_step", path)
model_step = importlib.util.module_from_spec(spec)
spec.loader.exec_module(model_step)


def to_device(batch):
    for name, value in vars(batch).items():
        if torch.is_tensor(value):
            setattr(batch, name, value.to(device))
        elif isinstance(value, tuple):
            setattr(batch, name, tuple(x.to(device) for x in value))
        elif isinstance(value, dict):
            setattr(batch, name, {key: x.to(device) for key, x in value.items()})


class Step(model_step.Step):
    def __init__(self, folder, dtype, compile):
        super().__init__(folder)
        self.model.to(device)
        for batch in self.batches:
            to_device(batch)
        if on_gpu:  # the optimizers know the parameters, which are the same objects on the device now
            groups = self.optimizers[0].param_groups[0]
            self.optimizers[0] = torch.optim.AdamW(self.dense, groups["lr"], weight_decay=groups["weight_decay"], fused=True)
            torch.set_default_device(device)  # what the model makes on its way is made there
        module, run = self.model, compiled(self.model) if compile else self.model

        class Run:
            """The model as the step calls it."""

            table, stored = property(lambda _: module.table), property(lambda _: module.stored)

            def __call__(self, batch):
                if dtype == "float32":
                    return run(batch)
                with torch.autocast(device, torch.bfloat16):
                    return run(batch)

        self.model = Run()


for sessions in sorted(os.listdir(folder), key=int):
    for dtype in ("float32", "bfloat16"):
        for compile in (False, True) if on_gpu else (False,):
            impl = "compiled" if compile else "eager"
            if on_gpu:
                torch.set_default_device("cpu")
            try:
                step = Step(os.path.join(folder, sessions), dtype, compile)
                for _ in range(min(len(step.batches), options.rounds) + 1):
                    step()
                if on_gpu:
                    torch.cuda.reset_peak_memory_stats()
                samples = []
                calls = 8 if options.rounds > 1 else 1
                for _ in range(options.rounds):
                    with Stopwatch() as watch:
                        for _ in range(calls):
                            step()
                    samples.append(watch.us / calls)
            except Exception as error:  # bfloat16 of sparse gradients, a graph that does not compile, ...
                first = (str(error) or type(error).__name__).splitlines()[0]
                print(f"trainStep {sessions} {dtype}: {impl} left out: {first}", file=sys.stderr)
                continue
            samples.sort()
            line = {
                "op": "trainStep",
                "pass": "whole step",
                "case": f"EM3 of the demo, {sessions} sessions",
                "impl": f"{impl}, {version}",
                "variant": impl,
                "dtype": dtype,
                "device": device_name,
                "us_p10": round(samples[(len(samples) - 1) // 10], 1),
                "us_median": round(samples[(len(samples) - 1) // 2], 1),
                "bytes": 0,
                "flops": 0,
                "floor_us": None,
                "share": None,
                "peak_mb": round(torch.cuda.max_memory_allocated() / 1e6, 1) if on_gpu else 0,
                "check": round(step.check, 4),
            }
            print(json.dumps(line), flush=True)
