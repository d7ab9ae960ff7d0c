// node scripts/write_wgmma.mjs: writes native/cuda/wgmma_instructions.cuh, the instructions of wgmma.cuh with up to 132 operands.
import { writeFileSync } from 'node:fs';

const widths = [8, 16, 32, 64, 128, 256];
const list = (count, f) => Array.from({ length: count }, (_, i) => f(i));
const wrap = (words, indent) => {
  const lines = [''];
  for (const word of words) {
    if (lines.at(-1).length + word.length > 100) lines.push('');
    lines[lines.length - 1] += `${word}, `;
  }
  return lines.map((line) => line.trimEnd()).join(`\n${indent}`).replace(/,$/, '');
};

function instruction(n, aFromShared) {
  const sums = n / 2;
  const a = aFromShared ? 1 : 4;
  const at = (i) => `%${sums + i}`;
  const left = aFromShared ? at(0) : `{${list(4, at).join(', ')}}`;
  const [b, accumulate, transposed] = [at(a), at(a + 1), at(a + 2)];
  const sumNames = wrap(list(sums, (i) => `%${i}`), '').split('\n').map((line, i, all) => `      "${line}${i + 1 < all.length ? ' ' : ''}"`);
  return `template <bool B_TRANSPOSED>
__device__ __forceinline__ void wgmma(float (&sums)[${sums}], ${aFromShared ? 'uint64_t a' : 'const uint32_t (&a)[4]'}, uint64_t b, int accumulate) {
  asm volatile(
      "{\\n.reg .pred p;\\nsetp.ne.b32 p, ${accumulate}, 0;\\n"
      "wgmma.mma_async.sync.aligned.m64n${n}k16.f32.bf16.bf16 {"
${sumNames.join('\n')}
      "}, ${left}, ${b}, p, 1, 1, ${aFromShared ? '0, ' : ''}${transposed};\\n}"
      : ${wrap(list(sums, (i) => `"+f"(sums[${i}])`), '        ')}
      : ${aFromShared ? '"l"(a)' : list(4, (i) => `"r"(a[${i}])`).join(', ')}, "l"(b), "r"(accumulate), "n"(int(B_TRANSPOSED)));
}
`;
}

const text = `// Written by scripts/write_wgmma.mjs. What the instructions do: wgmma.cuh.
#pragma once
#include <cstdint>

// clang-format off
namespace galago::cuda {

${widths.flatMap((n) => [instruction(n, true), instruction(n, false)]).join('\n')}
}  // namespace galago::cuda
`;
writeFileSync(new URL('../native/cuda/wgmma_instructions.cuh', import.meta.url), text);
