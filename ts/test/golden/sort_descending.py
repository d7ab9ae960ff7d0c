import torch
from golden import leaf, save

save(__file__, [("rows", {"x": leaf(4, 9)}, {}, lambda x: torch.sort(x, dim=1, descending=True, stable=True).values)])
