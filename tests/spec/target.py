target_q = batch.rewards + (1 - batch.dones) * gamma * target_q
