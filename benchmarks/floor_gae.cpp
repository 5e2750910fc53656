// Generalised advantage estimation as the textbook writes it, on arrays of (T, N), time first.

#include <cstddef>

extern "C" void gae(const float* rewards, const float* values, const float* next_values,
                    const float* dones, float* advantages, std::size_t num_steps,
                    std::size_t num_envs, float gamma, float lambda) {
  for (std::size_t t = num_steps; t-- > 0;) {
    for (std::size_t n = 0; n < num_envs; ++n) {
      const std::size_t i = t * num_envs + n;
      const float goes_on = gamma * (1.0f - dones[i]);
      const float after = t + 1 < num_steps ? advantages[i + num_envs] : 0.0f;
      advantages[i] = rewards[i] + goes_on * (next_values[i] + lambda * after) - values[i];
    }
  }
}
