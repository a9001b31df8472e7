/**
 * Files and camera frames -> upright pixels, a strip of rows at a time: a picture of 12,000 x 9,000 would be 432 MB as
 * numbers. Orientation (EXIF), CMYK and 16 bits are the browser's; colour profiles are left out, as Python does.
 *
 * Alpha is dropped, not blended. A 2D canvas keeps colours multiplied by alpha and so loses those beneath what is
 * transparent; such pictures are read through WebGL where it is there.
 */

import { PictureError } from "../kit/errors.ts";
import { placed, resampler, type Rule } from "../kit/preprocess.ts";
import type { Pixels } from "../kit/resample.ts";

/** Pillow's limit, which Python's preprocessing has as well. */
const MOST_PIXELS = 178_956_970;
/** Longest side that a picture is made smaller to where the browser cannot decode it whole. */
const REDUCED = 4096;
const STRIP = 1 << 20; // pixels of a strip

export interface Picture {
  bitmap: ImageBitmap;
  /** Whether the browser made it smaller. */
  reduced: boolean;
}

/** What the browser makes of a file. */
export async function opened(source: Blob | ImageBitmap, name: string): Promise<Picture> {
  if (!(source instanceof Blob)) return { bitmap: source, reduced: false };
  const options: ImageBitmapOptions = {
    imageOrientation: "from-image",
    premultiplyAlpha: "none",
    colorSpaceConversion: "none",
  };
  let bitmap = await createImageBitmap(source, options).catch(() => null);
  const reduced = !bitmap;
  // decoded, but too large to be held: smaller is better than not at all
  bitmap ??= await createImageBitmap(source, { ...options, resizeWidth: REDUCED, resizeQuality: "high" }).catch(() => null);
  if (!bitmap) {
    throw new PictureError(
      `${name} is not a picture that this browser can read, or it is damaged. JPEG, PNG, WebP and GIF are read.`,
    );
  }
  if (bitmap.width * bitmap.height > MOST_PIXELS) {
    const { width, height } = bitmap;
    bitmap.close();
    throw new PictureError(`${name} is ${width} x ${height}: at most 178 megapixels are read. Make it smaller first.`);
  }
  return { bitmap, reduced };
}

/** A picture by a rule -> RGB bytes of a graph's input. */
export function fitted(bitmap: ImageBitmap, rule: Rule): Uint8Array {
  const taking = resampler(rule, bitmap.width, bitmap.height);
  const rows = Math.max(1, Math.min(bitmap.height, Math.floor(STRIP / bitmap.width)));
  const canvas = new OffscreenCanvas(bitmap.width, rows);
  const context = canvas.getContext("2d", { willReadFrequently: true, alpha: true });
  if (!context) throw new PictureError("This browser gives no canvas to read pictures with.");
  for (let top = Math.floor(taking.top / rows) * rows; top < taking.bottom; top += rows) {
    const height = Math.min(rows, bitmap.height - top);
    context.clearRect(0, 0, bitmap.width, rows);
    context.drawImage(bitmap, 0, -top);
    const { data } = context.getImageData(0, 0, bitmap.width, height);
    if (transparent(data)) {
      const whole = straight(bitmap);
      if (whole) {
        const again = resampler(rule, bitmap.width, bitmap.height);
        again.push(whole, 0);
        return placed(rule, again.finish());
      }
    }
    taking.push({ width: bitmap.width, height, channels: 4, data }, top);
  }
  return placed(rule, taking.finish());
}

function transparent(data: Uint8ClampedArray): boolean {
  for (let at = 3; at < data.length; at += 4) if (data[at] !== 255) return true;
  return false;
}

/** All pixels with their colours beneath alpha; null where there is no WebGL, or the picture is too large for it. */
function straight(bitmap: ImageBitmap): Pixels | null {
  const { width, height } = bitmap;
  if (width * height > 4096 * 4096) return null;
  const gl = new OffscreenCanvas(1, 1).getContext("webgl2");
  if (!gl || Math.max(width, height) > gl.getParameter(gl.MAX_TEXTURE_SIZE)) return null;
  const texture = gl.createTexture();
  gl.bindTexture(gl.TEXTURE_2D, texture);
  gl.pixelStorei(gl.UNPACK_PREMULTIPLY_ALPHA_WEBGL, false);
  gl.pixelStorei(gl.UNPACK_COLORSPACE_CONVERSION_WEBGL, gl.NONE);
  gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, gl.RGBA, gl.UNSIGNED_BYTE, bitmap);
  gl.bindFramebuffer(gl.FRAMEBUFFER, gl.createFramebuffer());
  gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.TEXTURE_2D, texture, 0);
  const data = new Uint8Array(width * height * 4);
  const complete = gl.checkFramebufferStatus(gl.FRAMEBUFFER) === gl.FRAMEBUFFER_COMPLETE;
  if (complete) gl.readPixels(0, 0, width, height, gl.RGBA, gl.UNSIGNED_BYTE, data);
  const right = complete && gl.getError() === gl.NO_ERROR;
  gl.getExtension("WEBGL_lose_context")?.loseContext();
  return right ? { width, height, channels: 4, data } : null;
}

/** A picture so large that its longest side is at most `side`, drawn by the browser. */
export function smaller(bitmap: ImageBitmap, side: number): OffscreenCanvas {
  const scale = Math.min(1, side / Math.max(bitmap.width, bitmap.height));
  const canvas = new OffscreenCanvas(
    Math.max(1, Math.round(bitmap.width * scale)),
    Math.max(1, Math.round(bitmap.height * scale)),
  );
  const context = canvas.getContext("2d");
  if (!context) throw new PictureError("This browser gives no canvas to draw pictures with.");
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  return canvas;
}
