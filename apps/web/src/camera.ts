/** The camera as frames, one at a time: the next is taken when the last was seen. */

import { el } from "./dom.ts";

/** Why there is no camera, in words. */
export class CameraError extends Error {
  override name = "CameraError";
}

export class Camera {
  readonly video = el("video", { playsInline: true, muted: true, attrs: { "aria-label": "What the camera sees" } });
  private stream: MediaStream | null = null;
  private facing: "environment" | "user" = "environment";

  get on(): boolean {
    return this.stream !== null;
  }

  /** @throws CameraError not allowed, none there, in use, or the page is not safe enough to ask. */
  async start(): Promise<void> {
    if (!navigator.mediaDevices?.getUserMedia) {
      throw new CameraError("The camera can only be used where this page comes over https or from this very device. Choose a picture instead.");
    }
    try {
      const video = { facingMode: this.facing, width: { ideal: 1280 }, height: { ideal: 720 } };
      this.stream = await navigator.mediaDevices.getUserMedia({ video, audio: false });
      this.video.srcObject = this.stream;
      await this.video.play();
    } catch (error) {
      this.stop();
      throw explained(error);
    }
  }

  stop(): void {
    for (const track of this.stream?.getTracks() ?? []) track.stop();
    this.stream = null;
    this.video.srcObject = null;
  }

  async turn(): Promise<void> {
    this.stop();
    this.facing = this.facing === "environment" ? "user" : "environment";
    await this.start();
  }

  /** What it sees now; null while there is nothing yet. */
  async frame(): Promise<ImageBitmap | null> {
    if (!this.on || this.video.readyState < HTMLMediaElement.HAVE_CURRENT_DATA || !this.video.videoWidth) return null;
    return createImageBitmap(this.video);
  }
}

function explained(error: unknown): CameraError {
  const name = error instanceof Error ? error.name : "";
  if (name === "NotAllowedError" || name === "SecurityError") {
    return new CameraError("The camera is not allowed for this page. Allow it in the browser's settings of this page, or choose a picture instead.");
  }
  if (name === "NotFoundError" || name === "OverconstrainedError") {
    return new CameraError("There is no camera on this device. Choose a picture instead.");
  }
  return new CameraError("The camera cannot be used now; another app may be using it. Close that, or choose a picture instead.");
}
