/**
 * Colours of classes and of distances, the same as `mobileclip/dense/colours.py` makes: chosen in Oklab, where equal steps
 * look equal (Ottosson, 2020).
 */

import { percentile } from "./statistics.ts";

const GOLDEN = (3 - Math.sqrt(5)) * Math.PI; // the angle that keeps any number of hues apart
const LIGHTNESS = [0.7, 0.52, 0.84, 0.61, 0.77]; // of classes one after the other, so that near hues differ
const CHROMA = [0.15, 0.13, 0.11, 0.17, 0.09];
const TO_CONES = [
  [1.0, 0.3963377774, 0.2158037573],
  [1.0, -0.1055613458, -0.0638541728],
  [1.0, -0.0894841775, -1.291485548],
];
const TO_RGB = [
  [4.0767416621, -3.3077115913, 0.2309699292],
  [-1.2684380046, 2.6097574011, -0.3413193965],
  [-0.0041960863, -0.7034186147, 1.7076147010],
];
const PARTS = 40;

function times(matrix: number[][], vector: number[]): number[] {
  return matrix.map((row) => row[0] * vector[0] + row[1] * vector[1] + row[2] * vector[2]);
}

function halfEven(value: number): number {
  const low = Math.floor(value);
  return value - low !== 0.5 ? Math.round(value) : low % 2 ? low + 1 : low;
}

/** Oklab's cylinder form -> sRGB bytes; chroma is reduced where a screen has no such colour. */
function rgb(lightness: number, chroma: number, hue: number): number[] {
  let linear = [0, 0, 0];
  for (let part = PARTS; part >= 0; part--) {
    const share = (chroma * part) / PARTS;
    const cones = times(TO_CONES, [lightness, share * Math.cos(hue), share * Math.sin(hue)]);
    const found = times(TO_RGB, cones.map((value) => value ** 3));
    if (found.every((value) => value >= -1e-6 && value <= 1 + 1e-6)) {
      linear = found;
      break;
    }
  }
  return linear.map((value) => {
    const x = Math.min(Math.max(value, 0), 1);
    return halfEven((x <= 0.0031308 ? 12.92 * x : 1.055 * x ** (1 / 2.4) - 0.055) * 255);
  });
}

/** [count, 3] RGB, a colour a class; the first ones are the same for every count. */
export function palette(count: number): Uint8Array {
  const colours = Array.from({ length: count }, (_, place) =>
    rgb(LIGHTNESS[place % 5], CHROMA[Math.floor(place / 2) % 5], 0.5 + place * GOLDEN),
  );
  return Uint8Array.from(colours.flat());
}

/** [256, 3] RGB from near to far: light yellow, red, violet, dark blue. Lightness falls evenly. */
export function distances(): Uint8Array {
  const colours = Array.from({ length: 256 }, (_, place) => {
    const share = place / 255;
    const chroma = 0.05 + 0.13 * Math.sin(Math.PI * share) ** 0.8;
    return rgb(0.95 - 0.73 * share, Number.isNaN(chroma) ? 0.05 : chroma, Math.PI * (0.58 - 1.1 * share));
  });
  return Uint8Array.from(colours.flat());
}

/** Metres -> RGB and the distances at the ends of the colours: the 2nd and 98th hundredth of what is known. */
export function depthColours(
  metres: Float32Array,
  ends?: { low: number; high: number },
): { rgb: Uint8Array; low: number; high: number } {
  const known = metres.filter((value) => Number.isFinite(value) && value > 0);
  const { low, high } = ends ?? {
    low: known.length ? percentile(known, 2) : 0,
    high: known.length ? percentile(known, 98) : 1,
  };
  const table = distances();
  const out = new Uint8Array(metres.length * 3);
  for (let i = 0; i < metres.length; i++) {
    if (!(Number.isFinite(metres[i]) && metres[i] > 0)) continue;
    const share = Math.min(Math.max((metres[i] - low) / Math.max(high - low, 1e-6), 0), 1);
    const place = 3 * halfEven(share * 255);
    out.set(table.subarray(place, place + 3), 3 * i);
  }
  return { rgb: out, low, high };
}
