/**
 * The generated shop: items with titles, tags and pictures, users, search sessions and clicks drawn from a known formula, so
 * that the best possible AUC is known. Every number is Philox4x32-10 with key (seed, 0) and counter (index, block, stream, 0):
 * the same options give the same shop on every machine. Definition: models.md, section 12.
 */
import { setImmediate } from 'node:timers/promises';
import { ArgumentError } from '../../errors.js';
import { philoxBlocks, uniform } from '../../random.js';
import { drawPicture, pictureNumbers } from './shop_pictures.js';
import { Pools } from './shop_pools.js';
import {
  COLOURS,
  FILLERS,
  joined,
  LONG_DOCUMENT_NUMBERS,
  type LongDocument,
  longDocument,
  MATERIALS,
  NOUNS,
  QUALITY_WORDS,
  SYLLABLES,
  TAGS,
} from './shop_words.js';

export interface ShopOptions {
  seed?: number;
  items?: number;
  users?: number;
  sessions?: number;
  /** `long`: the material word moves from `tags` into a long text of meaningless words. Clicks and ceilings stay. Default `short`. */
  documents?: 'short' | 'long';
  /** `long`: 40 users instead of 1,000 where `users` is not given, each with about as many clicks as a history of 1,000 holds. Default `short`. */
  histories?: 'short' | 'long';
}

/** What a model may read of an item. Item ids are 0 .. count. */
export interface ShopItems {
  readonly count: number;
  readonly title: string[];
  /** Three words (two with long documents), '' where tags are missing. */
  readonly tags: string[];
  /** One per item with `documents: 'long'`, else null. */
  readonly documents: LongDocument[] | null;
  readonly price: Float64Array;
  /** uint8 (count, 32, 32, 3), row-major; all zero where the picture is missing. */
  readonly pictures: Uint8Array;
  readonly pictureMissing: Uint8Array;
  /** First session that can show the item. */
  readonly launch: Int32Array;
  /** 1: launched after training ended, hence in no training row. */
  readonly cold: Uint8Array;
}

/** Causes of clicks, for ceilings and tests: never features. */
export interface ShopItemFactors {
  readonly category: Uint8Array;
  /** Hue angle in [0, 2 pi). */
  readonly hue: Float64Array;
  readonly shape: Uint8Array;
  readonly material: Uint8Array;
  /** -1, 0 or 1. */
  readonly quality: Int8Array;
  readonly effect: Float64Array;
}

/** Causes of clicks, for ceilings and tests: never features. */
export interface ShopUserFactors {
  readonly hue: Float64Array;
  readonly shape: Uint8Array;
  readonly material: Uint8Array;
  readonly category1: Uint8Array;
  readonly category2: Uint8Array;
  readonly effect: Float64Array;
}

/** A session is one search request: six events. */
export interface ShopSessions {
  readonly count: number;
  readonly user: Int32Array;
  readonly query: string[];
  readonly queryId: Int32Array;
  /** Seconds since 1970. */
  readonly time: Float64Array;
  /** Factors of the query: word -1 is no such word in the query. */
  readonly category: Uint8Array;
  readonly colour: Int8Array;
  readonly material: Int8Array;
}

export const PART_TRAIN = 0;
export const PART_VALID = 1;
export const PART_TEST = 2;

/** Impressions, six per session, ordered by (session, slot). */
export interface ShopEvents {
  readonly count: number;
  readonly user: Int32Array;
  readonly item: Int32Array;
  readonly session: Int32Array;
  /** 0 .. 5; no feature. */
  readonly slot: Uint8Array;
  /** Seconds since 1970. */
  readonly time: Float64Array;
  /** 0 or 1. */
  readonly click: Uint8Array;
  readonly buy: Uint8Array;
  /** True click probability; no feature. */
  readonly probability: Float64Array;
  /** PART_TRAIN, PART_VALID or PART_TEST, by session. */
  readonly part: Uint8Array;
  /** 1: the item is cold. */
  readonly cold: Uint8Array;
}

/** Logits of an observer who knows only some causes: what AUC is possible without the others. Length: events. */
export interface ShopKnownScores {
  readonly user: Float64Array;
  readonly userItem: Float64Array;
  /** Category, quality and material; missing tags as unknown material. */
  readonly text: Float64Array;
  /** Colour and shape; missing pictures as unknown. */
  readonly picture: Float64Array;
  /** Text and picture: the ceiling for new items. */
  readonly content: Float64Array;
  /** All of it: nothing can be better. */
  readonly everything: Float64Array;
}

export interface Shop {
  readonly seed: number;
  /** First session of validation (V0) and of test (T0). */
  readonly validFrom: number;
  readonly testFrom: number;
  readonly items: ShopItems;
  readonly users: { readonly count: number };
  readonly sessions: ShopSessions;
  readonly events: ShopEvents;
  readonly itemFactors: ShopItemFactors;
  readonly userFactors: ShopUserFactors;
}

export const SLOTS = 6;
const START_TIME = 1_700_000_000;
const SECONDS_PER_SESSION = 100;

const STREAM_ITEM = 1;
const STREAM_PIXEL = 2;
const STREAM_USER = 3;
const STREAM_SESSION = 4;
const STREAM_SLOT = 5;
const STREAM_CLICK = 6;
const STREAM_ORDER = 7;
const STREAM_DOCUMENT = 8;

/** The first `count` raw words of (stream, index): word n is raw(stream, index, n). Writes into `out`. */
function draw(seed: number, stream: number, index: number, out: Uint32Array, count = out.length): Uint32Array {
  return philoxBlocks([index, 0, stream, 0], [seed, 0], out, count);
}

function pick(choices: number, word: number): number {
  return Math.floor(choices * uniform(word));
}

/** Sum of twelve uniforms minus 6: mean 0, variance 1, and no logarithm. */
function normal(words: Uint32Array, first: number): number {
  let sum = 0;
  for (let n = first; n < first + 12; n++) sum += uniform(words[n]!);
  return sum - 6;
}

/** Item ids ascending by raw(7, item, n): a permutation. */
function shuffledItems(seed: number, count: number, n: number): Int32Array {
  const words = new Uint32Array(4);
  const keys = Uint32Array.from({ length: count }, (_, item) => draw(seed, STREAM_ORDER, item, words)[n]!);
  return Int32Array.from({ length: count }, (_, item) => item).sort((a, b) => keys[a]! - keys[b]! || a - b);
}

function launchSession(position: number, count: number, validFrom: number, testFrom: number): number {
  // 5 * position, not position / count: exact for every count.
  if (5 * position < 3 * count) return 0;
  if (5 * position < 4 * count)
    return Math.floor(((position - Math.floor(0.6 * count) + 1) * validFrom) / (Math.floor(0.2 * count) + 1));
  return 20 * position < 17 * count ? validFrom : testFrom;
}

function* generateItems(
  seed: number,
  count: number,
  validFrom: number,
  testFrom: number,
  long: boolean,
): Generator<void, { items: ShopItems; itemFactors: ShopItemFactors }> {
  const factors: ShopItemFactors = {
    category: new Uint8Array(count),
    hue: new Float64Array(count),
    shape: new Uint8Array(count),
    material: new Uint8Array(count),
    quality: new Int8Array(count),
    effect: new Float64Array(count),
  };
  const items: ShopItems = {
    count,
    title: [],
    tags: [],
    documents: long ? [] : null,
    price: new Float64Array(count),
    pictures: new Uint8Array(count * 32 * 32 * 3),
    pictureMissing: new Uint8Array(count),
    launch: new Int32Array(count),
    cold: new Uint8Array(count),
  };
  const words = new Uint32Array(40);
  const noise = new Uint32Array(32 * 32 * 3);
  const text = new Uint32Array(LONG_DOCUMENT_NUMBERS);
  for (let item = 0; item < count; item++) {
    if (item % 16 === 0) yield;
    draw(seed, STREAM_ITEM, item, words);
    const u = (n: number) => uniform(words[n]!);
    const choose = (choices: number, n: number) => pick(choices, words[n]!);
    const category = choose(12, 0);
    const material = choose(4, 3);
    const quality = u(4) < 0.25 ? -1 : u(4) < 0.75 ? 0 : 1;
    factors.category[item] = category;
    factors.hue[item] = 2 * Math.PI * u(1);
    factors.shape[item] = choose(4, 2);
    factors.material[item] = material;
    factors.quality[item] = quality;
    factors.effect[item] = 0.8 * normal(words, 12);

    const brand = SYLLABLES[choose(8, 6)]! + SYLLABLES[choose(8, 7)]!;
    const qualityWord = QUALITY_WORDS[quality + 1]![quality === 0 ? 0 : choose(2, 9)]!;
    items.title.push(joined(brand, qualityWord, NOUNS[category]![choose(2, 5)]!, FILLERS[choose(6, 8)]!));
    const tagsMissing = u(25) < 0.04;
    const tags = joined(TAGS[choose(10, 10)]!, long ? '' : MATERIALS[material]!, TAGS[choose(10, 11)]!);
    items.tags.push(tagsMissing ? '' : tags);
    if (items.documents) {
      draw(seed, STREAM_DOCUMENT, item, text);
      const document = longDocument(text, items.title[item]!, tagsMissing ? null : MATERIALS[material]!);
      items.title[item] = document.title;
      items.documents.push(document);
    }
    items.price[item] = 5 + choose(95, 37);

    if (u(24) < 0.04) {
      items.pictureMissing[item] = 1;
    } else {
      draw(seed, STREAM_PIXEL, item, noise);
      const picture = items.pictures.subarray(item * noise.length, (item + 1) * noise.length);
      drawPicture(pictureNumbers(words, factors.hue[item]!, factors.shape[item]!), noise, picture);
    }
  }
  shuffledItems(seed, count, 0).forEach((item, position) => {
    items.launch[item] = launchSession(position, count, validFrom, testFrom);
    items.cold[item] = items.launch[item]! >= validFrom ? 1 : 0;
  });
  return { items, itemFactors: factors };
}

function generateUsers(seed: number, count: number): ShopUserFactors {
  const factors: ShopUserFactors = {
    hue: new Float64Array(count),
    shape: new Uint8Array(count),
    material: new Uint8Array(count),
    category1: new Uint8Array(count),
    category2: new Uint8Array(count),
    effect: new Float64Array(count),
  };
  const words = new Uint32Array(24);
  for (let user = 0; user < count; user++) {
    draw(seed, STREAM_USER, user, words);
    factors.hue[user] = 2 * Math.PI * uniform(words[0]!);
    factors.shape[user] = pick(4, words[1]!);
    factors.material[user] = pick(4, words[2]!);
    factors.category1[user] = pick(12, words[3]!);
    factors.category2[user] = (factors.category1[user]! + 1 + pick(11, words[4]!)) % 12;
    factors.effect[user] = 0.3 * normal(words, 12);
  }
  return factors;
}

function* generateSessions(
  seed: number,
  count: number,
  users: number,
  factors: ShopUserFactors,
): Generator<void, ShopSessions> {
  const sessions: ShopSessions = {
    count,
    user: new Int32Array(count),
    query: [],
    queryId: new Int32Array(count),
    time: new Float64Array(count),
    category: new Uint8Array(count),
    colour: new Int8Array(count),
    material: new Int8Array(count),
  };
  const words = new Uint32Array(8);
  for (let session = 0; session < count; session++) {
    if (session % 1024 === 0) yield;
    draw(seed, STREAM_SESSION, session, words);
    const u0 = uniform(words[0]!);
    const u1 = uniform(words[1]!);
    const user = Math.floor(users * u0 * Math.sqrt(u0));
    const category = u1 < 0.45 ? factors.category1[user]! : u1 < 0.8 ? factors.category2[user]! : pick(12, words[2]!);
    const noun = pick(2, words[3]!);
    const colour = uniform(words[4]!) < 0.5 ? pick(8, words[5]!) : -1;
    const material = uniform(words[6]!) < 0.25 ? pick(4, words[7]!) : -1;
    sessions.user[session] = user;
    sessions.query.push(joined(COLOURS[colour] ?? '', MATERIALS[material] ?? '', NOUNS[category]![noun]!));
    sessions.queryId[session] = ((category * 2 + noun) * 9 + colour + 1) * 5 + material + 1;
    sessions.time[session] = START_TIME + SECONDS_PER_SESSION * session;
    sessions.category[session] = category;
    sessions.colour[session] = colour;
    sessions.material[session] = material;
  }
  return sessions;
}

const DRAWS = 50;

/** Six different items per session (sessions * 6), from the pools that have launched by then. */
function* generateImpressions(
  seed: number,
  items: ShopItems,
  { category }: ShopItemFactors,
  sessions: ShopSessions,
  validFrom: number,
): Generator<void, Int32Array> {
  const weights = new Float64Array(items.count);
  shuffledItems(seed, items.count, 1).forEach((item, rank) => {
    weights[item] = Math.floor(100000 / (20 + rank));
  });
  const byLaunch = Int32Array.from({ length: items.count }, (_, item) => item);
  byLaunch.sort((a, b) => items.launch[a]! - items.launch[b]!);
  const training = new Pools(NOUNS.length, weights);
  const fresh = new Pools(NOUNS.length, weights);
  const impressions = new Int32Array(sessions.count * SLOTS);
  const words = new Uint32Array(SLOTS * 2 * DRAWS);
  let launched = 0;
  for (let session = 0; session < sessions.count; session++) {
    if (session % 512 === 0) yield;
    for (; launched < items.count && items.launch[byLaunch[launched]!]! <= session; launched++) {
      const item = byLaunch[launched]!;
      (items.cold[item] ? fresh : training).add(item, category[item]!);
    }
    const shown = impressions.subarray(session * SLOTS, (session + 1) * SLOTS);
    const wanted = sessions.category[session]!;
    let ready = 0;
    let n = 0;
    const nextUniform = () => {
      if (n === ready) {
        ready = ready === 0 ? 8 : words.length; // eight are nearly always enough
        draw(seed, STREAM_SLOT, session, words, ready);
      }
      return uniform(words[n++]!);
    };
    for (let slot = 0; slot < SLOTS; slot++) {
      const pools = slot >= 4 && session >= validFrom ? fresh : training;
      let pool = slot === 5 ? pools.all : pools.of(wanted);
      let item = -1;
      for (let attempt = 0; attempt < 2 * DRAWS && item < 0; attempt++) {
        if (attempt === DRAWS) pool = pools.all;
        const drawn = pool.pick(nextUniform());
        if (drawn >= 0 && shown.subarray(0, slot).indexOf(drawn) < 0) item = drawn;
      }
      if (item < 0)
        throw new ArgumentError(`generateShop: session ${session} finds no item for slot ${slot}; use more items`);
      shown[slot] = item;
    }
  }
  return impressions;
}

function sigmoid(x: number): number {
  return 1 / (1 + Math.exp(-x));
}

/** kappa of the definition: 1 if equal, else -1/3, so that its mean over four equally likely values is 0. */
function match(a: number, b: number): number {
  return a === b ? 1 : -1 / 3;
}

interface LogitTerms {
  relevance: number;
  quality: number;
  material: number;
  picture: number;
}

/** The terms of one event's click logit that depend on content. */
function contentTerms(shop: Omit<Shop, 'events'>, session: number, item: number, out: LogitTerms): void {
  const { itemFactors: of, userFactors: likes, sessions } = shop;
  const user = sessions.user[session]!;
  const hue = of.hue[item]!;
  const material = of.material[item]!;
  const colourWord = sessions.colour[session]!;
  const materialWord = sessions.material[session]!;
  out.relevance = of.category[item] === sessions.category[session] ? 1 : -1;
  out.quality = 0.6 * of.quality[item]!;
  out.material = 0.8 * match(material, likes.material[user]!);
  if (materialWord >= 0) out.material += 0.8 * match(material, materialWord);
  out.picture = 2 * Math.cos(hue - likes.hue[user]!) + 0.8 * match(of.shape[item]!, likes.shape[user]!);
  if (colourWord >= 0) out.picture += 2 * Math.cos(hue - (2 * Math.PI * colourWord) / 8);
}

const BIAS = -2.2;

function* generateEvents(shop: Omit<Shop, 'events'>, impressions: Int32Array): Generator<void, ShopEvents> {
  const count = impressions.length;
  const { items, itemFactors, userFactors, sessions } = shop;
  const events: ShopEvents = {
    count,
    user: new Int32Array(count),
    item: impressions,
    session: new Int32Array(count),
    slot: new Uint8Array(count),
    time: new Float64Array(count),
    click: new Uint8Array(count),
    buy: new Uint8Array(count),
    probability: new Float64Array(count),
    part: new Uint8Array(count),
    cold: new Uint8Array(count),
  };
  const words = new Uint32Array(16);
  const terms = { relevance: 0, quality: 0, material: 0, picture: 0 };
  for (let session = 0; session < sessions.count; session++) {
    if (session % 512 === 0) yield;
    draw(shop.seed, STREAM_CLICK, session, words);
    const user = sessions.user[session]!;
    const part = session < shop.validFrom ? PART_TRAIN : session < shop.testFrom ? PART_VALID : PART_TEST;
    for (let slot = 0; slot < SLOTS; slot++) {
      const event = session * SLOTS + slot;
      const item = impressions[event]!;
      const effect = itemFactors.effect[item]!;
      contentTerms(shop, session, item, terms);
      const content = terms.relevance + terms.quality + terms.material + terms.picture;
      const probability = sigmoid(BIAS + userFactors.effect[user]! + effect + content);
      const buyProbability = sigmoid(-1 + 0.8 * itemFactors.quality[item]! + 0.8 * effect);
      events.user[event] = user;
      events.session[event] = session;
      events.slot[event] = slot;
      events.time[event] = sessions.time[session]!;
      events.click[event] = uniform(words[slot]!) < probability ? 1 : 0;
      events.buy[event] = events.click[event] && uniform(words[8 + slot]!) < buyProbability ? 1 : 0;
      events.probability[event] = probability;
      events.part[event] = part;
      events.cold[event] = items.cold[item]!;
    }
  }
  return events;
}

function positiveInteger(name: string, value: number, atLeast: number): number {
  if (Number.isSafeInteger(value) && value >= atLeast) return value;
  throw new ArgumentError(`generateShop: ${name} must be an integer of at least ${atLeast}, got ${value}`, {
    op: 'generateShop',
    argument: name,
  });
}

/** The shop of these options, in memory. 75 % of the sessions are train, 10 % valid, 15 % test; a fifth of the items is new after train. */
export function generateShop(options: ShopOptions = {}): Shop {
  const steps = shopInSteps(options);
  for (;;) {
    const { done, value } = steps.next();
    if (done === true) return value;
  }
}

/** `generateShop`, a few milliseconds per turn of the event loop. */
export async function generateShopAside(options: ShopOptions = {}, signal?: AbortSignal): Promise<Shop> {
  const steps = shopInSteps(options);
  for (;;) {
    const { done, value } = steps.next();
    if (done === true) return value;
    await setImmediate();
    signal?.throwIfAborted();
  }
}

function* shopInSteps(options: ShopOptions): Generator<void, Shop> {
  const seed = positiveInteger('seed', options.seed ?? 1, 0);
  const itemCount = positiveInteger('items', options.items ?? 2000, 40);
  const { documents = 'short', histories = 'short' } = options;
  for (const [argument, length] of Object.entries({ documents, histories }))
    if (length !== 'short' && length !== 'long')
      throw new ArgumentError(`generateShop: ${argument} must be short or long, got ${String(length)}`, {
        op: 'generateShop',
        argument,
      });
  const userCount = positiveInteger('users', options.users ?? (histories === 'long' ? 40 : 1000), 1);
  const sessionCount = positiveInteger('sessions', options.sessions ?? 24000, 20);
  const validFrom = Math.floor(0.75 * sessionCount);
  const testFrom = Math.floor(0.85 * sessionCount);
  const { items, itemFactors } = yield* generateItems(seed, itemCount, validFrom, testFrom, documents === 'long');
  const userFactors = generateUsers(seed, userCount);
  const sessions = yield* generateSessions(seed, sessionCount, userCount, userFactors);
  const users = { count: userCount };
  const shop = { seed, validFrom, testFrom, items, users, sessions, itemFactors, userFactors };
  const impressions = yield* generateImpressions(seed, items, itemFactors, sessions, validFrom);
  return { ...shop, events: yield* generateEvents(shop, impressions) };
}

/** What observers with partial knowledge would score, per event. Unknown terms count as their mean, which is 0. */
export function knownScores(shop: Shop): ShopKnownScores {
  const { events, items, itemFactors, userFactors } = shop;
  const column = () => new Float64Array(events.count);
  const scores = {
    user: column(),
    userItem: column(),
    text: column(),
    picture: column(),
    content: column(),
    everything: column(),
  };
  const terms = { relevance: 0, quality: 0, material: 0, picture: 0 };
  for (let event = 0; event < events.count; event++) {
    const item = events.item[event]!;
    const userEffect = userFactors.effect[events.user[event]!]!;
    const itemEffect = itemFactors.effect[item]!;
    contentTerms(shop, events.session[event]!, item, terms);
    const text = terms.relevance + terms.quality + (items.tags[item] === '' ? 0 : terms.material);
    const picture = items.pictureMissing[item] ? 0 : terms.picture;
    const base = BIAS + userEffect;
    scores.user[event] = base;
    scores.userItem[event] = base + itemEffect;
    scores.text[event] = base + text;
    scores.picture[event] = base + picture;
    scores.content[event] = base + text + picture;
    scores.everything[event] = base + itemEffect + terms.relevance + terms.quality + terms.material + terms.picture;
  }
  return scores;
}
