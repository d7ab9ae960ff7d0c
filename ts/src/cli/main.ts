#!/usr/bin/env node
import { runCommand } from './commands.js';

// a reader that went away (`galago inspect | head`) is no error
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code !== 'EPIPE') throw error;
});
process.exitCode = await runCommand(process.argv.slice(2), process);
