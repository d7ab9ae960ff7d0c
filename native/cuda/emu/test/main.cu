// galago_emulator_test [sound | faults | runtime ...]: runs these groups of cases, or all, in the order of GALAGO_EMU_ORDER.
#include <algorithm>
#include <cstdio>
#include <stdexcept>

#include "cases.h"

namespace galago::cuda {

cudaStream_t stream() { return nullptr; }
void allow_shared_memory(const void*, size_t) {}

void cuda_failed(cudaError_t status, const char* statement, const char*, int) {
  throw std::runtime_error(std::string(statement) + ": " + cudaGetErrorString(status));
}

}  // namespace galago::cuda

int main(int count, char** words) {
  using namespace galago::cuda;
  const std::vector<std::string> groups(words + 1, words + count);
  const auto asked = [&](const char* group) { return groups.empty() || std::count(groups.begin(), groups.end(), group); };
  for (const auto& [group, cases] : {std::pair{"sound", sound_cases()},
                                     {"faults", fault_cases()},
                                     {"runtime", runtime_cases()},
                                     {"sound", hopper_cases()},
                                     {"faults", hopper_fault_cases()}}) {
    for (const Case& c : cases) {
      if (!asked(group)) continue;
      std::string result;
      try {
        result = c.run();
      } catch (const std::exception& error) {
        result = std::string("threw ") + error.what();
        emu::reset();
      }
      std::printf("%s\t%s\n", c.name.c_str(), result.c_str());
    }
  }
}
