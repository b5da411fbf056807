// Text of refusals. It is made without a stream: with torch 2.11 on one machine a refusal crashed the process where
// TORCH_CHECK's own stream had to write a number.
#pragma once

#include <cstdint>
#include <string>

namespace unet3d {

inline void append(std::string& text, const char* part) { text += part; }
inline void append(std::string& text, int64_t number) { text += std::to_string(number); }

// Strings and whole numbers, one after the other.
template <class... Parts>
std::string message(const Parts&... parts) {
  std::string text;
  (append(text, parts), ...);
  return text;
}

}  // namespace unet3d
