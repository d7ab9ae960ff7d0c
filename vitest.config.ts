import { defineConfig } from 'vitest/config';

/** Where to write a JSON report beside the one on screen. */
const report = process.env.GALAGO_TEST_REPORT;

export default defineConfig({
  test: {
    include: ['ts/test/**/*.test.ts'],
    globalSetup: ['ts/test/announce_devices.ts'],
    setupFiles: ['ts/test/property_seed.ts'],
    testTimeout: 60_000,
    hookTimeout: 60_000,
    pool: 'forks',
    poolOptions: { forks: { maxForks: 2 } },
    reporters: report === undefined ? ['default'] : ['default', ['json', { outputFile: report }]],
  },
});
