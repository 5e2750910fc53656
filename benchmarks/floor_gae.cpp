// Generalised advantage estimation as the textbook writes it, on arrays of (T, N), time first.

#include <cstddef>
#include <vector>

extern "C" void gae(const float* rewards, const float* values, const float* next_values,
                    const float* dones, float* __restrict advantages, std::size_t num_steps,
                    std::size_t num_envs, float gamma, float lambda) {
  std::vector<float> later(num_envs, 0.0f);
  float* __restrict advantage = later.data();
  for (std::size_t t = num_steps; t-- > 0;) {
    for (std::size_t n = 0; n < num_envs; ++n) {
      const std::size_t i = t * num_envs + n;
      const float goes_on = gamma * (1.0f - dones[i]);
      const float delta = rewards[i] + goes_on * next_values[i] - values[i];
      advantage[n] = delta + goes_on * lambda * advantage[n];
      advantages[i] = advantage[n];
    }
  }
}
