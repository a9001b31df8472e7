/** Measures away from the page's own thread, which stays free to show and to stop it. */

import { measure, message, type Listener } from "./measure";
import { watchMemories } from "./sessions";
import type { FromWorker, ToWorker } from "./types";

const post = (sent: FromWorker): void => self.postMessage(sent);

let answer: (bytes: number | null) => void = () => undefined;

const listener: Listener = {
  progress: (text, share) => post({ kind: "progress", text, share }),
  snapshot: (result) => post({ kind: "snapshot", result }),
  memory: () =>
    new Promise((resolve) => {
      answer = resolve;
      post({ kind: "memory" });
    }),
};

watchMemories();

self.onmessage = ({ data }: MessageEvent<ToWorker>): void => {
  if (data.kind === "memory") answer(data.bytes);
  else
    measure(data.job, data.device, listener).then(
      (result) => post({ kind: "done", result }),
      (error: unknown) => post({ kind: "failed", message: message(error) }),
    );
};
