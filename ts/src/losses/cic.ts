import { ArgumentError, ShapeError } from '../errors.js';
import { add, scaleBy } from '../ops/elementwise.js';
import { infoNce } from '../ops/info_nce.js';
import { normalize } from '../ops/normalize.js';
import { philoxBlocks, streamOf, uniform } from '../random.js';
import { type DeviceName, type Tensor, tensor } from '../tensor.js';

/** Options of `cic`. */
export interface CicOptions {
  /** Negatives of a row: `exact` draws `negatives` rows with replacement, its own possibly among them; `ctr` takes all other rows. */
  readonly mode: 'exact' | 'ctr';
  /** Divides the cosine similarities. */
  readonly temperature: number;
  /** `exact`: draws per row. Default 16. */
  readonly negatives?: number;
  /** `exact`: key of the draws. Default 0. */
  readonly seed?: number;
  readonly step?: number;
  /** `ctr`: (n) item numbers; rows of equal numbers are no negatives of each other. Default: all rows differ. */
  readonly ids?: Int32Array | null;
}

const stream = streamOf('cic.negatives');

/** (n, count) row numbers, uniform with replacement: draw i of (seed, step) is always the same. */
function draw(n: number, count: number, seed: number, step: number, device: DeviceName): Tensor {
  const total = n * count;
  const words = new Uint32Array(Math.ceil(total / 4) * 4);
  philoxBlocks([step >>> 0, 0, stream, 3], [seed >>> 0, Math.floor(seed / 4294967296) >>> 0], words);
  return tensor(
    Int32Array.from(words.subarray(0, total), (word) => Math.floor(uniform(word) * n)),
    [n, count],
    { device },
  );
}

/**
 * Content-ID contrast (EM3): row i of `content` and row i of `id`, both (n, D), describe one item. The mean over rows of
 * -log(e^(c_i.g_i / t) / (e^(c_i.g_i / t) + sum over negatives j of e^(c_i.g_j / t))) and of the same with the roles exchanged;
 * c, g are the rows scaled to length 1 (x / max(|x|, 1e-5)). Gradients flow to both sides. Result ().
 */
export function cic(
  content: Tensor,
  id: Tensor,
  { mode, temperature, negatives = 16, seed = 0, step = 0, ids = null }: CicOptions,
): Tensor {
  if (content.shape.join() !== id.shape.join())
    throw new ShapeError(
      `cic: expected id of shape (${content.shape.join(', ')}) like content but received (${id.shape.join(', ')})`,
      { op: 'cic', argument: 'id' },
    );
  if (!(temperature > 0))
    throw new ArgumentError(`cic: expected a positive temperature but received ${temperature}`, {
      op: 'cic',
      argument: 'temperature',
    });
  const n = content.shape[0] ?? 0;
  const c = normalize(content, { eps: 1e-5 });
  const g = normalize(id, { eps: 1e-5 });
  const scale = 1 / temperature;
  if (mode === 'ctr') {
    const groups = ids === null ? null : tensor(ids, [ids.length], { device: c.device });
    return infoNce(c, g, { scale, symmetric: true, rowGroups: groups, colGroups: groups });
  }
  if (!Number.isInteger(negatives) || negatives < 1)
    throw new ArgumentError(`cic: expected negatives to be a positive integer but received ${negatives}`, {
      op: 'cic',
      argument: 'negatives',
    });
  const drawn = draw(n, negatives, seed, step, c.device);
  return scaleBy(add(infoNce(c, g, { scale, negatives: drawn }), infoNce(g, c, { scale, negatives: drawn })), 0.5);
}
