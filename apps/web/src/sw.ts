/**
 * The service worker: after the first load the page works without a network.
 *
 * Files of the build are kept in one cache per version and served from it; the page itself comes from there as well, and
 * a new version takes over at the next start. Files of the bundle are asked for with their hash (`?v=`), so what is kept
 * is right for ever; the manifest is asked of the network first. Nothing else than this origin is ever fetched.
 */

declare const self: ServiceWorkerGlobalScope;

export {};

interface Build {
  version: string;
  files: string[];
}

const BUILD = "__FILES_OF_THIS_BUILD__" as unknown as Build; // replaced by the build
const APP = `app-${BUILD.version}`;
const BUNDLE = "bundle";

self.addEventListener("install", (event) => {
  event.waitUntil(
    (async () => {
      const cache = await caches.open(APP);
      await cache.addAll(BUILD.files.map((file) => new Request(file, { cache: "reload" })));
      await self.skipWaiting();
    })(),
  );
});

self.addEventListener("activate", (event) => {
  event.waitUntil(
    (async () => {
      for (const name of await caches.keys()) if (name.startsWith("app-") && name !== APP) await caches.delete(name);
      await self.clients.claim();
    })(),
  );
});

self.addEventListener("fetch", (event) => {
  const { request } = event;
  const url = new URL(request.url);
  if (request.method !== "GET" || url.origin !== self.location.origin) return;
  event.respondWith(answer(request, url));
});

async function answer(request: Request, url: URL): Promise<Response> {
  if (request.mode === "navigate") return isolated((await caches.match(new URL("./", self.registration.scope).href)) ?? (await fetch(request)));
  if (url.pathname.includes("/bundle/")) return isolated(await bundled(request, url));
  const app = await caches.open(APP);
  const kept = await app.match(request, { ignoreSearch: true });
  if (kept) return isolated(kept);
  const found = await fetch(request);
  // a part of the build that is only loaded where it was chosen; its name holds its hash
  if (found.ok && url.pathname.includes("/assets/")) await app.put(request, found.clone()).catch(() => undefined);
  return isolated(found);
}

async function bundled(request: Request, url: URL): Promise<Response> {
  const cache = await caches.open(BUNDLE);
  const hashed = url.searchParams.has("v");
  const kept = await cache.match(request);
  if (hashed && kept) return kept;
  try {
    const found = await fetch(request, { cache: "no-store" });
    // a full disk may refuse to keep it; the app works all the same while there is a network
    if (found.ok) await cache.put(request, found.clone()).catch(() => undefined);
    return found;
  } catch (error) {
    if (kept) return kept;
    throw error;
  }
}

/** With the headers that make threads available. */
function isolated(response: Response): Response {
  if (response.type === "opaque" || response.status === 0) return response;
  const headers = new Headers(response.headers);
  headers.set("Cross-Origin-Opener-Policy", "same-origin");
  headers.set("Cross-Origin-Embedder-Policy", "require-corp");
  headers.set("Cross-Origin-Resource-Policy", "same-origin");
  return new Response(response.body, { status: response.status, statusText: response.statusText, headers });
}
