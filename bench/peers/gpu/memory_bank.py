"""Rows by key: index_select by position (no keys at all), searchsorted in sorted keys and index_select; unique and index_copy_ to write."""

import torch
from timing import Call, device, main, normal


def implementations(case, s, dtype):
    size, lookups, width, written = s["bank"], s["lookups"], s["width"], s["written"]

    def bank():
        return normal(int(1.2 * size), width, dtype=dtype), torch.arange(size, device=device) * 1_000_003

    def by_position():
        rows, _ = bank()
        index = torch.randint(size, (lookups,), device=device)
        return Call(call=lambda: rows.index_select(0, index))

    def by_key():
        rows, keys = bank()
        wanted = keys[torch.randint(size, (lookups,), device=device)]
        return Call(call=lambda: rows.index_select(0, torch.searchsorted(keys, wanted)))

    def write():
        rows, keys = bank()
        wanted, values = keys[torch.randint(size, (written,), device=device)], normal(written, width, dtype=dtype)

        def call():
            unique, inverse = torch.unique(wanted, return_inverse=True)
            # the newest of equal keys: the largest position
            newest = torch.zeros_like(unique).scatter_reduce_(0, inverse, torch.arange(written, device=device), "amax")
            rows.index_copy_(0, torch.searchsorted(keys, unique), values[newest])

        return Call(call=call)

    yield "index_select", by_position if case["pass"] == "gather" else None
    yield "searchsorted + index_select", by_key if case["pass"] == "gather" else None
    yield "unique + index_copy_", write if case["pass"] == "upsert" else None


main(implementations)
