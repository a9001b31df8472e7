/** What a browser tells of itself and its machine. */

import type { DeviceInfo } from "./types";

interface UserAgentData {
  brands: { brand: string; version: string }[];
  getHighEntropyValues(hints: string[]): Promise<Record<string, string>>;
}

export async function thisDevice(): Promise<DeviceInfo> {
  const own = navigator as Navigator & { userAgentData?: UserAgentData; deviceMemory?: number };
  const hints = ["architecture", "bitness", "model", "platform", "platformVersion", "uaFullVersion"];
  const told = await own.userAgentData?.getHighEntropyValues(hints).catch(() => undefined);
  const browser = browserOf(own.userAgent, told?.uaFullVersion);
  const system = told ? `${told.platform} ${told.platformVersion}`.trim() : systemOf(own.userAgent);
  return {
    kind: "browser",
    name: [browser, told?.model || system.split(" ")[0]].filter(Boolean).join(", "),
    model: told?.model || own.userAgent,
    soc: null,
    os: system || null,
    cores: own.hardwareConcurrency || null,
    memory_bytes: null,
    details: {
      user_agent: own.userAgent,
      architecture: told ? `${told.architecture} ${told.bitness}` : null,
      device_memory_gib: own.deviceMemory ?? null, // rounded by the browser, and never more than it cares to tell
      secure_context: globalThis.isSecureContext,
      cross_origin_isolated: globalThis.crossOriginIsolated,
      screen: [screen.width, screen.height, devicePixelRatio],
    },
  };
}

/** `Chromium 156`, from a user agent; the first that fits, since all claim to be Safari. */
export function browserOf(agent: string, full?: string): string {
  const known: [string, RegExp][] = [
    ["Edge", /Edg[A-Z]*\/(\d+)/],
    ["Firefox", /(?:Firefox|FxiOS)\/(\d+)/],
    ["Chrome", /(?:Chrome|CriOS)\/(\d+)/],
    ["Safari", /Version\/(\d+(?:\.\d+)?).*Safari/],
  ];
  for (const [name, pattern] of known) {
    const found = pattern.exec(agent);
    if (found) return `${name} ${full?.split(".")[0] || found[1]}`;
  }
  return "browser";
}

/** The system's name and version, as far as a user agent has them. */
export function systemOf(agent: string): string {
  const ios = /(?:iPhone|CPU) OS (\d+)_(\d+)/.exec(agent);
  if (ios) return `${/iPad/.test(agent) ? "iPadOS" : "iOS"} ${ios[1]}.${ios[2]}`;
  const android = /Android (\d+)/.exec(agent);
  if (android) return `Android ${android[1]}`;
  for (const [pattern, name] of [[/Mac OS X/, "macOS"], [/Windows/, "Windows"], [/Linux/, "Linux"]] as const)
    if (pattern.test(agent)) return name;
  return "";
}

/** Memory of all of this page, in bytes, when the browser next collects garbage; null where it does not tell. */
export async function pageMemory(): Promise<number | null> {
  const own = performance as Performance & { measureUserAgentSpecificMemory?: () => Promise<{ bytes: number }> };
  if (!globalThis.crossOriginIsolated || !own.measureUserAgentSpecificMemory) return null;
  return own.measureUserAgentSpecificMemory().then(
    ({ bytes }) => bytes,
    () => null,
  );
}
