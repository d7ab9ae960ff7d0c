// Errors that cross from native code to TypeScript: `code` selects the class in ts/src/errors.ts.
#pragma once
#include <cstdint>
#include <stdexcept>
#include <string>

namespace galago {

struct Error : std::runtime_error {
  Error(std::string code, const std::string& message) : std::runtime_error(message), code(std::move(code)) {}
  std::string code;
};

// A broken promise between TypeScript and a kernel: always a bug, never user input.
#define CHECK(condition, message)                                                                       \
  do {                                                                                                  \
    if (!(condition)) throw ::galago::Error("DEVICE_LOST", std::string(message) + " (" #condition ")"); \
  } while (0)

// Notes an index outside [0, bound) met by the running kernel: the next wait on this device rejects with an IndexError, and the
// kernel carries on with a clamped or skipped row. The first one wins. Any thread of the running kernel may call it.
void index_error(const char* op, const char* argument, int64_t position, int64_t value, int64_t bound);

}  // namespace galago
