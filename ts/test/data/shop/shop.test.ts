import { createHash } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import { datasetFromShop } from '../../../src/data/load_dataset.js';
import { featuresOf } from '../../../src/data/schema.js';
import { generateShop, knownScores, PART_TEST, PART_TRAIN, SLOTS } from '../../../src/data/shop/shop.js';
import { ArgumentError } from '../../../src/errors.js';
import { evaluateSlices } from '../../../src/metrics/slices.js';

const shop = generateShop();
const { events, items, sessions } = shop;

function sum(values: ArrayLike<number>): number {
  let total = 0;
  for (let i = 0; i < values.length; i++) total += values[i]!;
  return total;
}

describe('golden values of seed 1', () => {
  it('counts', () => {
    expect(events.count).toBe(144_000);
    expect(sum(events.click)).toBe(42_603);
    expect(sum(events.buy)).toBe(15_005);
    expect(new Set(sessions.query).size).toBe(1065);
    expect(new Set(sessions.queryId).size).toBe(1065);
    expect(sum(items.pictureMissing)).toBe(80);
    expect(items.tags.filter((tags) => tags === '').length).toBe(76);
    expect(sum(events.probability)).toBeCloseTo(42_492.61, 2);
  });

  it('first item and first session', () => {
    expect([items.title[0], items.tags[0]]).toEqual(['kido basic light for home', 'modern wood outdoor']);
    expect([sessions.user[0], sessions.query[0], sessions.time[0]]).toEqual([
      625,
      'purple wood sneaker',
      1_700_000_000,
    ]);
    expect([...events.item.subarray(0, SLOTS)]).toEqual([1739, 1724, 1265, 1171, 135, 605]);
    expect([...events.click.subarray(0, SLOTS)]).toEqual([1, 1, 0, 1, 0, 0]);
    expect(events.probability[0]).toBeCloseTo(0.974675, 6);
  });

  it('every picture byte', () => {
    const digest = createHash('sha256').update(items.pictures).digest('hex');
    expect(digest.slice(0, 16)).toBe('88c9939f90be3b87');
  });

  it('training items', () => {
    const shown = new Set(events.item.filter((_, event) => events.part[event] === PART_TRAIN));
    expect(shown.size).toBe(1586);
    expect(items.count - sum(items.cold)).toBe(1600);
    expect([...shown].some((item) => items.cold[item])).toBe(false);
  });

  it('clicks of seeds 2 and 3', () => {
    expect(sum(generateShop({ seed: 2 }).events.click)).toBe(42_974);
    expect(sum(generateShop({ seed: 3 }).events.click)).toBe(42_943);
  });
});

describe('long documents', () => {
  const options = { seed: 3, items: 200, users: 30, sessions: 300 };
  const short = generateShop(options);
  const long = generateShop({ ...options, documents: 'long' });
  const materials = ['wool', 'wood', 'metal', 'glass'];

  it('change texts alone', () => {
    long.items.title.forEach((title, item) => expect(title.startsWith(`${short.items.title[item]!} `)).toBe(true));
    expect(long.events.click).toEqual(short.events.click);
    expect(knownScores(long).content).toEqual(knownScores(short).content);
    expect(short.items.documents).toBeNull();
  });

  it('hold the material once, where tags are not missing', () => {
    for (let item = 0; item < 200; item++) {
      const { ocr, asr, cover } = long.items.documents![item]!;
      const missing = short.items.tags[item] === '';
      const found = ocr.split(' ').filter((word) => materials.includes(word));
      expect(found).toEqual(missing ? [] : [materials[long.itemFactors.material[item]!]]);
      expect(long.items.tags[item]!.split(' ').length).toBe(missing ? 1 : 2);
      expect(`${asr} ${cover}`).toMatch(/^( ?[a-z]{6})* ?$/);
    }
  });

  it('have the lengths of the published fields: maxima 31, 124, 12, 12 and means 22, 81, 2, 6', () => {
    const { documents } = generateShop({ seed: 1, items: 2000, users: 40, sessions: 20, documents: 'long' }).items;
    const words = (text: string): number => (text === '' ? 0 : text.split(' ').length);
    for (const [field, most, mean] of [
      ['title', 31, 22],
      ['ocr', 124, 81],
      ['asr', 12, 2],
      ['cover', 12, 6],
    ] as const) {
      const lengths = documents!.map((document) => words(document[field]));
      expect(Math.max(...lengths)).toBe(most);
      expect(Math.abs(sum(lengths) / 2000 - mean)).toBeLessThan(field === 'ocr' ? 1.5 : 0.3);
    }
  });

  it('are the same bytes everywhere', () => {
    const digest = createHash('sha256')
      .update(JSON.stringify([long.items.documents, long.items.tags]))
      .digest('hex');
    expect(digest.slice(0, 16)).toBe('cd5b9809842bc929');
  });

  it('are read by the loader with all their fields', async () => {
    await using data = await datasetFromShop(long);
    const text = featuresOf(data.schema, 'text').find(({ source }) => source === 'item')!;
    expect(text).toMatchObject({ maxTokens: 183, types: 4 });
  });
});

describe('long histories', () => {
  const made = generateShop({ seed: 1, histories: 'long', items: 400 });

  it('belong to few users, with the same click formula', () => {
    expect(made.users.count).toBe(40);
    expect(generateShop({ items: 40, users: 50, sessions: 20, histories: 'long' }).users.count).toBe(50);
    const clicks = new Float64Array(40);
    made.events.user.forEach((user, event) => {
      clicks[user]! += made.events.click[event]!;
    });
    expect(Math.max(...clicks)).toBeGreaterThan(1000);
    expect(sum(clicks) / 40).toBeGreaterThan(800);
    const wanted = sum(made.events.probability);
    expect(Math.abs(sum(clicks) - wanted)).toBeLessThan(4 * Math.sqrt(wanted));
    const digest = createHash('sha256').update(made.events.item).update(made.events.click).digest('hex');
    expect(digest.slice(0, 16)).toBe('85cbc641e337a1cf');
  });
});

describe('without options', () => {
  it('has the bytes that it always had', () => {
    const hash = createHash('sha256').update(JSON.stringify([items.title, items.tags, sessions.query]));
    hash.update(events.user).update(events.item).update(events.click).update(events.buy);
    expect(hash.digest('hex').slice(0, 16)).toBe('e8c170a66f871061');
  });
});

describe('protocol', () => {
  it('shows items after their launch, never twice in a session, cold ones only in slots 4 and 5 after training', () => {
    let tooEarly = 0;
    let wrongSlot = 0;
    let repeated = 0;
    for (let event = 0; event < events.count; event++) {
      const session = events.session[event]!;
      const slot = events.slot[event]!;
      if (items.launch[events.item[event]!]! > session) tooEarly++;
      if (events.cold[event] !== (session >= shop.validFrom && slot >= 4 ? 1 : 0)) wrongSlot++;
      if (slot === 0) repeated += SLOTS - new Set(events.item.subarray(event, event + SLOTS)).size;
    }
    expect({ tooEarly, wrongSlot, repeated }).toEqual({ tooEarly: 0, wrongSlot: 0, repeated: 0 });
  });

  it('is a function of its options alone', () => {
    const digest = (seed: number) => {
      const made = generateShop({ seed, items: 300, users: 40, sessions: 200 });
      const hash = createHash('sha256').update(made.items.pictures).update(made.items.title.join());
      return hash.update(made.events.item).update(made.events.click).update(made.events.probability).digest('hex');
    };
    expect(digest(5)).toBe(digest(5));
    expect(digest(6)).not.toBe(digest(5));
  });

  it('refuses what it cannot make', () => {
    expect(() => generateShop({ items: 0 })).toThrow(ArgumentError);
    expect(() => generateShop({ sessions: 1.5 })).toThrow(/sessions must be an integer of at least 20, got 1.5/);
    expect(() => generateShop({ seed: -1 })).toThrow(ArgumentError);
  });
});

describe('ceilings', () => {
  const test = Array.from(events.part.keys()).filter((event) => events.part[event] === PART_TEST);
  const take = (column: ArrayLike<number>) => Float64Array.from(test, (event) => column[event]!);
  const [labels, user, session, cold] = [events.click, events.user, events.session, events.cold].map(take) as [
    Float64Array,
    Float64Array,
    Float64Array,
    Float64Array,
  ];
  const known = knownScores(shop);
  const expected = {
    user: { warm: [0.5556, 0.5, 0.5], cold: [0.5567, 0.5, 0.5] },
    userItem: { warm: [0.6517, 0.6445, 0.6434] },
    text: { warm: [0.6297, 0.6179, 0.6192], cold: [0.6982, 0.6968, 0.7568] },
    picture: { warm: [0.8138, 0.8045, 0.7968], cold: [0.8058, 0.799, 0.7734] },
    content: { warm: [0.838, 0.8315, 0.8303], cold: [0.8591, 0.8634, 0.8732] },
    everything: { warm: [0.8766, 0.8719, 0.8679], cold: [0.8949, 0.8918, 0.9182] },
  };

  it.each(Object.entries(expected))('of an observer who knows %s', (name, slices) => {
    const result = evaluateSlices({ logits: take(known[name as keyof typeof known]), labels, user, session, cold });
    expect([result['warm']!.rows, result['cold']!.rows]).toEqual([14_400, 7200]);
    for (const [slice, [auc, gauc, qauc]] of Object.entries(slices)) {
      const metrics = result[slice]!;
      expect(Math.abs(metrics.AUC! - auc!)).toBeLessThan(0.0005);
      expect(Math.abs(metrics.gAUC! - gauc!)).toBeLessThan(0.0005);
      expect(Math.abs(metrics.QAUC! - qauc!)).toBeLessThan(0.0005);
    }
  });

  it('logloss and calibration of the truth', () => {
    const { warm, cold: fresh } = evaluateSlices({ logits: take(known.everything), labels, user, session, cold });
    expect(warm!.logloss).toBeCloseTo(0.4058, 4);
    expect(fresh!.logloss).toBeCloseTo(0.3347, 4);
    expect(Math.abs(warm!.calibration! - 1)).toBeLessThan(0.02);
  });
});
