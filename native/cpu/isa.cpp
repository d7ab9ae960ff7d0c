#include "isa.h"

#include <cstdlib>
#include <stdexcept>
#include <string>

namespace galago::cpu {

static Isa best_isa() {
#if GALAGO_X86
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl")) {
    return Isa::avx512;
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return Isa::avx2;
#endif
  return Isa::portable;
}

static Isa choose_isa() {
  const Isa best = best_isa();
  const char* variable = std::getenv("GALAGO_CPU_ISA");
  if (!variable || !*variable) return best;
  const std::string name = variable;
  Isa asked;
  if (name == "portable") {
    asked = Isa::portable;
  } else if (name == "avx2") {
    asked = Isa::avx2;
  } else if (name == "avx512") {
    asked = Isa::avx512;
  } else {
    throw std::invalid_argument("GALAGO_CPU_ISA: expected portable, avx2 or avx512 but received " + name);
  }
  if (asked > best) throw std::invalid_argument("GALAGO_CPU_ISA: this processor does not have " + name);
  return asked;
}

Isa isa() {
  static const Isa chosen = choose_isa();
  return chosen;
}

}  // namespace galago::cpu
