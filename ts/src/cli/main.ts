#!/usr/bin/env node
import { DeviceLostError } from '../errors.js';
import { runCommand } from './commands.js';

const LOST = new DeviceLostError('').exitCode;

// a reader that went away (`galago inspect | head`) is no error
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code !== 'EPIPE') throw error;
});
const exitCode = await runCommand(process.argv.slice(2), process);
process.exitCode = exitCode;
// A device that hangs would keep the process.
if (exitCode === LOST) process.stdout.write('', () => process.exit());
