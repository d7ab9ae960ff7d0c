// The name of a kernel from its address, for messages. Kernels are hidden or static, so dladdr knows only the file that holds them;
// its symbol table knows the name, unless it was stripped.
#include <cxxabi.h>
#include <dlfcn.h>
#include <elf.h>

#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <vector>

#include "block.h"

namespace emu {

static std::string symbol_in(const std::vector<char>& file, uintptr_t address) {
  const auto at = [&](size_t offset) { return file.data() + offset; };
  Elf64_Ehdr header;
  if (file.size() < sizeof header) return "";
  std::memcpy(&header, at(0), sizeof header);
  std::vector<Elf64_Shdr> sections(header.e_shnum);
  if (header.e_shoff + sections.size() * sizeof(Elf64_Shdr) > file.size()) return "";
  std::memcpy(sections.data(), at(header.e_shoff), sections.size() * sizeof(Elf64_Shdr));
  for (const Elf64_Shdr& section : sections) {
    if (section.sh_type != SHT_SYMTAB) continue;
    const size_t names = sections[section.sh_link].sh_offset;
    for (size_t i = 0; i < section.sh_size / sizeof(Elf64_Sym); i++) {
      Elf64_Sym symbol;
      std::memcpy(&symbol, at(section.sh_offset + i * sizeof symbol), sizeof symbol);
      if (symbol.st_value == address && ELF64_ST_TYPE(symbol.st_info) == STT_FUNC) return at(names + symbol.st_name);
    }
  }
  return "";
}

std::string symbol_name(const void* function) {
  Dl_info info;
  if (!function || !dladdr(function, &info) || !info.dli_fname) return "a kernel";
  std::ifstream stream(info.dli_fname, std::ios::binary);
  const std::vector<char> file{std::istreambuf_iterator<char>(stream), {}};
  const uintptr_t base = reinterpret_cast<uintptr_t>(info.dli_fbase), address = reinterpret_cast<uintptr_t>(function);
  std::string name = symbol_in(file, address - base);
  if (name.empty()) name = symbol_in(file, address);  // an executable at a fixed address
  if (name.empty()) return "a kernel without symbol";
  int status;
  char* readable = abi::__cxa_demangle(name.c_str(), nullptr, nullptr, &status);
  if (status == 0) name = readable;
  std::free(readable);
  return name;
}

}  // namespace emu
