// Writes ts/src/native_kernels.ts from the addon's own list of kernels, so that TypeScript checks every call of one.
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';

const { declarations, enumerations } = createRequire(import.meta.url)('../build/Release/galago.node');
const file = new URL('../ts/src/native_kernels.ts', import.meta.url);
const text = `// Written by scripts/write_declarations.mjs from native/table.inl at every build. Not edited by hand.
type Handle = number;
type HandleList = Float64Array;
${enumerations}
/** Kernel entry points of native/kernels.inl. */
export interface Kernels {
${declarations}}
`;
if (!existsSync(file) || readFileSync(file, 'utf8') !== text) writeFileSync(file, text);
