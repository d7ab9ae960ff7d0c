import torch
import torch.nn.functional as F
from golden import leaf, save

save(__file__, [("repeats", {"table": leaf(6, 4), "indices": torch.tensor([[5, 0, 5], [1, 5, 2]])}, {}, lambda table, indices: F.embedding(indices, table))])
