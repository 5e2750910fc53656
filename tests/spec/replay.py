from velora.buffer import Experience, ReplayBuffer
from velora.utils import set_device

import torch

device = set_device()
buffer = ReplayBuffer(capacity=100_000, device=device)

exp = Experience(
    state=torch.zeros((1, 4)),
    action=1.,
    reward=2.,
    next_state=torch.zeros((1, 4)),
    done=False,
)

buffer.push(exp)

batch = buffer.sample(batch_size=1)

len(buffer)  # 1
