"""Use each way across the border to torch once; `make abi` runs it under several torch releases."""

import pickle

import torch

import velora
from velora.buffer import Experience, ReplayBuffer, RolloutBuffer
from velora.returns import gae


def main() -> None:
    """Push, sample, pickle, and compute advantages by the torch operator."""
    buffer = ReplayBuffer(capacity=100, seed=1)
    for i in range(150):
        state = torch.full((4,), float(i))
        buffer.push(Experience(state, i, float(i), state + 1, i % 10 == 9))
    copy = pickle.loads(pickle.dumps(buffer))
    batch, again = buffer.sample(32), copy.sample(32)
    assert torch.equal(batch.next_states, batch.states + 1)
    assert torch.equal(batch.rewards, batch.states[:, :1])
    assert torch.equal(batch.states, again.states)

    rollout = RolloutBuffer(capacity=2)
    for reward in (1.0, 2.0):
        rollout.push(Experience(torch.zeros(4), 0, reward, torch.zeros(4), reward == 2.0))
    rollouts = rollout.sample()
    zeros = torch.zeros_like(rollouts.rewards)
    advantages, _ = gae(rollouts.rewards, zeros, zeros, rollouts.dones, gamma=0.5, lam=1.0)
    assert torch.equal(advantages, torch.tensor([[2.0], [2.0]])), advantages
    print(f"velora {velora.__version__} works with torch {torch.__version__}")


if __name__ == "__main__":
    main()
