/** Benches run from source; `using` is lowered for the Node versions that lack it. */
export default { esbuild: { target: 'node20' } };
