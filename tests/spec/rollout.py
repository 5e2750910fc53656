from velora.buffer import Experience, RolloutBuffer
from velora.utils import set_device

import torch

device = set_device()
buffer = RolloutBuffer(capacity=1, device=device)

exp = Experience(
    state=torch.zeros((1, 4)),
    action=1.,
    reward=2.,
    next_state=torch.zeros((1, 4)),
    done=False,
)

buffer.push(exp)
# buffer.push(exp)  # BufferError

batch = buffer.sample()

len(buffer)  # 1

buffer.empty()
len(buffer)  # 0
# buffer.sample()  # BufferError
