import fc from 'fast-check';

/** Property tests draw the same cases in every run, unless GALAGO_PROPERTY_SEED names another seed: `random` draws a new one each time. */
const asked = process.env.GALAGO_PROPERTY_SEED ?? '20261121';
if (asked !== 'random') fc.configureGlobal({ seed: Number(asked) });
