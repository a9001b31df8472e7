/** What the page's tabs have in common. */

import type { Client } from "../client.ts";
import type { ModelInfo } from "../messages.ts";

export interface View {
  /** Of the tab. */
  title: string;
  panel: HTMLElement;
  /** The tab was opened or left. */
  shown?(on: boolean): void;
}

export interface Context {
  client: Client;
  info: ModelInfo;
  /** Shows what went wrong, with what can be done about it. */
  failed(error: unknown): void;
}
