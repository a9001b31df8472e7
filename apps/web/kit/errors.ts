/** What can be put right by whoever uses the app: each message is a sentence for that person. */

/** A bundle that is missing, incomplete, changed, of another version, or made for something else. */
export class BundleError extends Error {
  override name = "BundleError";
}

/** A picture that cannot be read or used. */
export class PictureError extends Error {
  override name = "PictureError";
}
