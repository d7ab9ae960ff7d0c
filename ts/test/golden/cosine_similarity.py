import torch
import torch.nn.functional as F
from golden import leaf, save

offsets = torch.tensor([0, 3, 3, 8], dtype=torch.int32)
mask = torch.tensor([0, -1, 4, 0, 0, -7, 2, 1], dtype=torch.int32)


def run(d, h, offsets, mask=None):
    rows = d.repeat_interleave((offsets[1:] - offsets[:-1]).long(), 0)
    out = F.cosine_similarity(rows, h, dim=-1, eps=1e-12)
    return out if mask is None else out * (mask >= 0)


inputs = {"d": leaf(3, 5), "h": leaf(8, 5), "offsets": offsets}
save(__file__, [("all rows", inputs, {}, run), ("masked", {**inputs, "mask": mask}, {}, run)])
