/** SIGINT and SIGTERM: the first stops at a step boundary with a checkpoint, the second leaves at once. */

/** Exit codes of the second signal: that of a shell for SIGINT, "try again later" for SIGTERM. */
const leaveWith: Partial<Record<NodeJS.Signals, number>> = { SIGINT: 130, SIGTERM: 75 };

/** Runs `work` with a signal that aborts when the process is told to stop. */
export async function interruptible<T>(
  stderr: NodeJS.WritableStream,
  work: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  const controller = new AbortController();
  const onSignal = (name: NodeJS.Signals): void => {
    if (controller.signal.aborted) process.exit(leaveWith[name] ?? 1);
    stderr.write(`\n${name}: stopping after this step; once more leaves at once\n`);
    controller.abort();
  };
  for (const name of ['SIGINT', 'SIGTERM'] as const) process.on(name, onSignal);
  try {
    return await work(controller.signal);
  } finally {
    for (const name of ['SIGINT', 'SIGTERM'] as const) process.off(name, onSignal);
  }
}
