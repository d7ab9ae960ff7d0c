// Serves an export over HTTP on loopback with nothing but Node: POST /score, GET /stats, and a background pass for new items.
//   npx galago export --run runs/<run> --out exports/1
//   node examples/serve.ts exports/1 8080      (Node 22.18 or newer reads TypeScript as it is)
//   curl -d '{"user": "7", "query": "red lamp", "history": ["3"], "candidates": ["1", "2"]}' localhost:8080/score
import { createServer, type IncomingMessage } from 'node:http';
import { GalagoError, IdError, ItemEncoder, type NewItem, Predictor, type PredictRequest } from 'galago';

const [folder = 'exports/1', port = '8080'] = process.argv.slice(2);
const maxBody = 1024 * 1024;
const predictor = await Predictor.open(folder);

/** What your catalogue knows of these items: texts and features by column name, the bytes of a picture. */
async function catalogue(ids: readonly string[]): Promise<readonly NewItem[]> {
  return ids.map((id) => ({ id }));
}

async function body(request: IncomingMessage): Promise<string> {
  const parts: Buffer[] = [];
  let bytes = 0;
  for await (const part of request as AsyncIterable<Buffer>) {
    bytes += part.length;
    if (bytes > maxBody) throw new RangeError(`body: expected at most ${maxBody} bytes`);
    parts.push(part);
  }
  return Buffer.concat(parts).toString('utf8');
}

/** The answer to a path: status and JSON. */
async function answer(request: IncomingMessage): Promise<[number, unknown]> {
  if (request.url === '/stats') return [200, predictor.stats()];
  if (request.url !== '/score' || request.method !== 'POST') return [404, { error: 'POST /score or GET /stats' }];
  try {
    const { scores, found, step } = await predictor.predict(JSON.parse(await body(request)) as PredictRequest);
    return [200, { scores: [...scores], found: [...found], step }];
  } catch (error) {
    if (error instanceof GalagoError) return [error.code === 'QUEUE_FULL' ? 429 : 400, { error: error.message }];
    const wrong = error instanceof SyntaxError || error instanceof RangeError || error instanceof IdError;
    return wrong ? [400, { error: error.message }] : [500, { error: 'internal error' }];
  }
}

const server = createServer((request, response) => {
  void answer(request).then(([status, value]) => {
    response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(value));
  });
});
server.requestTimeout = 10_000;
server.listen(Number(port), '127.0.0.1', () => console.log(`http://127.0.0.1:${port}`));

// New items: encoded beside the requests, a few at a time. A service with much traffic runs the encoder in another process.
const encoder = await ItemEncoder.open(folder).catch(() => null); // without its file, new items stay without content
const timer = setInterval(() => {
  if (encoder !== null) void predictor.encodePending(encoder, catalogue, { limit: 64 }).catch(console.error);
}, 1000);

for (const signal of ['SIGINT', 'SIGTERM'] as const)
  process.once(signal, () => {
    clearInterval(timer);
    server.close(() => void predictor[Symbol.asyncDispose]());
    server.closeIdleConnections();
  });
