import random
from typing import List, Tuple

from velora.buffer import Experience

batch: List[Experience] = random.sample(buffer, batch_size)
states, actions, rewards, next_states, dones = zip(*batch)
