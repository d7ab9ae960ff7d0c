// Prints one line from vitest's JSON reports together: `N passed, N failed`, and `, N skipped` where tests were left out.
import { existsSync, readFileSync } from 'node:fs';

const total = { passed: 0, failed: 0, skipped: 0 };
for (const file of process.argv.slice(2)) {
  if (!existsSync(file)) {
    // nothing ran: the build or the start of the tests failed
    total.failed++;
    continue;
  }
  const report = JSON.parse(readFileSync(file, 'utf8'));
  // a file that failed before its first test holds no failed test, yet failed
  const brokenFiles = report.testResults.filter(
    ({ status, assertionResults }) => status === 'failed' && !assertionResults.some((test) => test.status === 'failed'),
  ).length;
  total.passed += report.numPassedTests;
  total.failed += report.numFailedTests + brokenFiles;
  total.skipped += report.numPendingTests + report.numTodoTests;
}
console.log(`${total.passed} passed, ${total.failed} failed${total.skipped > 0 ? `, ${total.skipped} skipped` : ''}`);
