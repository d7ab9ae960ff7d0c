// Prints the size of the addon, which ts/test/package.test.ts limits.
import { statSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const { size } = statSync(fileURLToPath(new URL('../build/Release/galago.node', import.meta.url)));
console.log(`build/Release/galago.node: ${size} bytes, ${((100 * size) / 2 ** 20).toFixed(0)} % of 1 MiB`);
