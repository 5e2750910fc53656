import gymnasium as gym
import torch
import numpy as np

from velora.buffer import ReplayBuffer, Experience
from velora.gym import add_core_env_wrappers


env = gym.make("InvertedPendulum-v5")
env = add_core_env_wrappers(env, device="cpu")
buffer = ReplayBuffer(capacity=100_000)

n_episodes = 10
max_steps = 1000
batch_size = 10
training_started = False
episode_rewards = []

print(f"{batch_size=}, getting buffer samples.")
for i_ep in range(n_episodes):
    state, _ = env.reset()
    episode_reward = 0

    for i_step in range(max_steps):
        # Add network action prediction here...
        action = torch.tensor(env.action_space.sample())  # random action

        # Get a timestep of experience
        next_state, reward, terminated, truncated, info = env.step(action)
        done = terminated or truncated

        # Add it to the buffer
        buffer.push(
            Experience(state, action.item(), reward, next_state, done),
        )

        # Check buffer is warmed
        if len(buffer) >= batch_size:
            if not training_started:
                print("Buffer warmed. Starting training...")
                training_started = True

            batch = buffer.sample(batch_size)

            # Network training code
            # ...

        # Reset state
        state = next_state
        episode_reward += reward


        # Terminate episode if done
        if done:
            break

    episode_rewards.append(reward)

    if training_started:
        avg_reward = np.mean(episode_rewards)

        print(
            f"Episode: {i_ep + 1}/{n_episodes}, "
            f"Reward: {avg_reward:.2f}"
        )

env.close()
