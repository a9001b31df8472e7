/**
 * The built app in a real Chromium: `node tests/browser.mjs SCENARIO JSON`, one JSON object on the last line. It serves
 * `folder` on the loopback interface itself, so that it can take the network away; every address that the page asked
 * for is in the answer.
 */

import { createReadStream, existsSync, statSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { extname, join, normalize } from "node:path";
import { chromium } from "playwright-core";

const TYPES = {
  ".html": "text/html", ".js": "text/javascript", ".mjs": "text/javascript", ".css": "text/css", ".json": "application/json",
  ".wasm": "application/wasm", ".svg": "image/svg+xml", ".webmanifest": "application/manifest+json",
};
const READY = 120_000;
const PHONE = { viewport: { width: 400, height: 800 }, deviceScaleFactor: 2, hasTouch: true };

async function serve(folder) {
  const served = { folder };
  const server = createServer((request, response) => {
    const path = normalize(decodeURIComponent(new URL(request.url, "http://x").pathname));
    let file = join(served.folder, path);
    if (existsSync(file) && statSync(file).isDirectory()) file = join(file, "index.html");
    if (path.includes("..") || !existsSync(file)) {
      response.writeHead(404).end("none");
      return;
    }
    response.writeHead(200, { "Content-Type": TYPES[extname(file)] ?? "application/octet-stream" });
    createReadStream(file).pipe(response);
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  const close = () => {
    server.closeAllConnections();
    return new Promise((resolve) => server.close(resolve));
  };
  return Object.assign(served, { url: `http://127.0.0.1:${server.address().port}/`, close });
}

/** A page of a phone's size, with what it asked for, what it said, and what broke. */
async function phone(browser, { labels, memory, ...more } = {}) {
  const context = await browser.newContext({ ...PHONE, ...more });
  await context.addInitScript(
    ([labels, memory]) => {
      if (labels && !localStorage.getItem("mobileclip.labels")) localStorage.setItem("mobileclip.labels", JSON.stringify(labels));
      if (memory) Object.defineProperty(Navigator.prototype, "deviceMemory", { get: () => memory });
    },
    [labels ?? null, memory ?? null],
  );
  const page = await context.newPage();
  const seen = { asked: [], errors: [] };
  context.on("request", (request) => seen.asked.push(request.url()));
  page.on("pageerror", (error) => seen.errors.push(error.message));
  page.on("console", (message) => {
    if (message.type() === "error" && !/Failed to load resource/.test(message.text())) seen.errors.push(message.text());
  });
  return { context, page, seen };
}

async function ready(page, url) {
  await (url ? page.goto(url) : page.reload());
  await page.waitForSelector("body[data-state]", { timeout: READY });
  return page.evaluate(() => ({
    state: document.body.dataset.state,
    isolated: crossOriginIsolated,
    notice: document.getElementById("notice").innerText,
    tabs: [...document.querySelectorAll("[role=tab]")].map((tab) => tab.textContent),
  }));
}

/** Gives a file to the tab that is shown, and waits for results or for what went wrong. */
async function classify(page, picture) {
  await page.evaluate(() => document.getElementById("notice").replaceChildren());
  await page.locator("[role=tabpanel]:visible input[type=file]").first().setInputFiles(picture);
  await page.waitForFunction(
    () => document.querySelector(".results li") || document.getElementById("notice").textContent,
    null,
    { timeout: READY },
  );
  return page.evaluate(() => ({
    shares: Object.fromEntries([...document.querySelectorAll(".results li")].map((item) => [item.dataset.label, Number(item.dataset.share)])),
    notice: document.getElementById("notice").innerText,
  }));
}

const scenarios = {
  /** Classifies with and without a network, and looks for what is hard to use. */
  async classify(browser, { folder, picture, labels, shots }) {
    const server = await serve(folder);
    const { context, page, seen } = await phone(browser, { labels });
    const first = await ready(page, server.url);
    const online = await classify(page, picture);
    await page.screenshot({ path: join(shots, "classify.png"), fullPage: true });
    const problems = await accessible(page);
    await page.emulateMedia({ colorScheme: "dark" });
    await page.screenshot({ path: join(shots, "classify_dark.png"), fullPage: true });
    problems.push(...(await accessible(page)));
    await server.close();
    await context.setOffline(true);
    const again = await ready(page);
    const offline = await classify(page, picture);
    return { first, again, online, offline, problems, ...seen };
  },

  /** Each picture in turn, in one page: what it gives, or what is said of it. */
  async pictures(browser, { folder, pictures }) {
    const server = await serve(folder);
    const { page, seen } = await phone(browser, {});
    await ready(page, server.url);
    const found = {};
    for (const picture of pictures) found[picture] = await classify(page, picture);
    await server.close();
    return { found, ...seen };
  },

  /** Labels by keyboard alone, and one that is very long. */
  async labels(browser, { folder, picture, label }) {
    const server = await serve(folder);
    const { page, seen } = await phone(browser, { labels: ["red", "blue"] });
    await ready(page, server.url);
    await classify(page, picture);
    await page.focus("#new-label");
    await page.keyboard.insertText(label);
    await page.keyboard.press("Enter");
    await page.waitForFunction(() => document.querySelectorAll(".results li").length === 3, null, { timeout: READY });
    const hint = await page.innerText("#label-hint");
    const wide = await page.evaluate(() => document.documentElement.scrollWidth);
    await page.focus(".chips li:last-child button");
    await page.keyboard.press("Enter");
    await page.waitForFunction(() => document.querySelectorAll(".results li").length === 2, null, { timeout: READY });
    await page.focus("[role=tab][aria-selected=true]");
    await page.keyboard.press("ArrowRight");
    const tab = await page.innerText("[role=tab][aria-selected=true]");
    const focused = await page.evaluate(() => document.activeElement?.getAttribute("role"));
    await page.keyboard.press("End");
    const last = await page.innerText("[role=tab][aria-selected=true]");
    await server.close();
    return { hint, wide, tab, focused, last, ...seen };
  },

  /** A camera that is allowed, one that is not, and none. */
  async camera(browser, { folder, shots }) {
    const server = await serve(folder);
    const out = {};
    for (const [name, permissions] of [["allowed", ["camera"]], ["refused", []]]) {
      const { context, page, seen } = await phone(browser, { permissions });
      await ready(page, server.url);
      await page.click("text=Use camera");
      await page.waitForFunction(
        () => document.querySelector(".results li") || document.getElementById("notice").textContent,
        null,
        { timeout: READY },
      );
      await page.screenshot({ path: join(shots, `camera_${name}.png`), fullPage: true });
      out[name] = await page.evaluate(() => ({
        results: document.querySelectorAll(".results li").length,
        notice: document.getElementById("notice").innerText,
      }));
      if (name === "allowed") {
        await page.click("text=Stop camera");
        out.stopped = await page.evaluate(() => !document.querySelector("video"));
      }
      out[name].errors = seen.errors;
      await context.close();
    }
    await server.close();
    return out;
  },

  /** Indexes photos, is closed on the way, goes on, and finds them by words, also without a network. */
  async search(browser, { folder, photos, query, shots }) {
    const server = await serve(folder);
    const { context, page, seen } = await phone(browser, {});
    await ready(page, server.url);
    await page.click("text=Search");
    await page.locator("[role=tabpanel]:visible input[type=file]").first().setInputFiles(photos);
    await page.waitForFunction(() => /^[1-9]\d* of /.test(document.getElementById("index-status").textContent), null, { timeout: READY });
    const interrupted = await page.innerText("#index-status");
    await server.close();
    await context.setOffline(true);
    await ready(page);
    await page.click("text=Search");
    const all = `${photos.length} photos, all indexed`;
    await page.waitForFunction((text) => document.getElementById("index-status").textContent === text, all, { timeout: READY });
    await page.fill("#query", query);
    await page.waitForSelector(".grid li[data-score]", { timeout: READY });
    const order = await page.$$eval(".grid li", (items) => items.map((item) => [item.querySelector("img").alt, Number(item.dataset.score)]));
    await page.screenshot({ path: join(shots, "search.png"), fullPage: true });
    const problems = await accessible(page);
    page.on("dialog", (dialog) => void dialog.accept());
    await page.click("text=Remove all photos");
    await page.waitForFunction(() => document.getElementById("index-status").textContent.startsWith("No photos yet"));
    return { interrupted, order, problems, ...seen };
  },

  /** Another model takes the place of the first: what was kept of that one goes, and photos say that they are its. */
  async another(browser, { folder, other, photos }) {
    const server = await serve(folder);
    const { page, seen } = await phone(browser, {});
    const kept = () => page.evaluate(async () => (await (await caches.open("bundle")).keys()).map((request) => request.url));
    await ready(page, server.url);
    await page.click("text=Search");
    await page.locator("[role=tabpanel]:visible input[type=file]").first().setInputFiles(photos);
    const all = `${photos.length} photos, all indexed`;
    await page.waitForFunction((text) => document.getElementById("index-status").textContent === text, all, { timeout: READY });
    const before = await kept();
    server.folder = other;
    await ready(page);
    await page.click("text=Search");
    await page.waitForSelector(".problems li", { timeout: READY });
    const told = await page.innerText(".problems");
    await page.click("text=Remove them");
    await page.waitForFunction(() => !document.querySelector(".problems li"));
    const after = await kept();
    await server.close();
    return { before, after, told, ...seen };
  },

  /** The segmentation overlay. */
  async segment(browser, { folder, picture, shots }) {
    const server = await serve(folder);
    const { page, seen } = await phone(browser, {});
    const first = await ready(page, server.url);
    await page.click("[role=tab]:has-text('Segment')");
    await page.locator("[role=tabpanel]:visible input[type=file]").first().setInputFiles(picture);
    await page.waitForSelector(".legend li", { timeout: READY });
    const shares = await page.$$eval(".legend li", (items) => items.map((item) => [item.dataset.label, Number(item.dataset.share)]));
    const size = await page.$eval("canvas", (canvas) => [canvas.width, canvas.height]);
    await page.screenshot({ path: join(shots, "segment.png"), fullPage: true });
    const problems = await accessible(page);
    await server.close();
    return { first, shares, size, problems, ...seen };
  },

  /** What is said at the start, of a bundle that is not right or a device that is small. */
  async start(browser, { folder, memory, press, shots }) {
    const server = await serve(folder);
    const { page, seen } = await phone(browser, { memory });
    const first = await ready(page, server.url);
    if (shots) await page.screenshot({ path: join(shots, "notice.png"), fullPage: true });
    let pressed = null;
    if (press) {
      await page.click(`text=${press}`);
      await page.waitForFunction(() => !document.body.dataset.state);
      await page.waitForSelector("body[data-state]", { timeout: READY });
      await page.click("[role=tab]:has-text('Model')");
      pressed = await page.innerText("[role=tabpanel]:visible");
    }
    await server.close();
    return { first, pressed, ...seen };
  },

  /** The graphics processor (here one that Chromium plays), chosen in the Model tab, also without a network. */
  async gpu(browser, { folder, picture, labels }) {
    const server = await serve(folder);
    const { context, page, seen } = await phone(browser, { labels });
    await ready(page, server.url);
    await page.click("[role=tab]:has-text('Model')");
    await page.click("text=Try the graphics processor");
    await page.waitForFunction(() => !document.body.dataset.state);
    await page.waitForSelector("body[data-state]", { timeout: READY });
    const online = await classify(page, picture);
    await server.close();
    await context.setOffline(true);
    await ready(page);
    const offline = await classify(page, picture);
    await page.click("[role=tab]:has-text('Model')");
    return { online, offline, told: await page.innerText("[role=tabpanel]:visible"), ...seen };
  },

  /** It was chosen once, and is not there any more. */
  async no_gpu(browser, { folder }) {
    const server = await serve(folder);
    const { context, page, seen } = await phone(browser, {});
    await context.addInitScript(() => {
      if (!localStorage.getItem("chosen")) localStorage.setItem("mobileclip.gpu", "1");
      localStorage.setItem("chosen", "1");
    });
    const first = await ready(page, server.url);
    await page.click("[role=tab]:has-text('Model')");
    const told = await page.innerText("[role=tabpanel]:visible");
    const again = await ready(page);
    await server.close();
    return { first, told, again, ...seen };
  },

  /** Golden files through the browser's own decoder. `folder` holds decode.js. */
  async decode(browser, { folder, golden }) {
    const server = await serve(folder);
    const { page } = await phone(browser, {});
    await page.goto(server.url);
    const files = JSON.parse(await readFile(join(golden, "preprocessing.json"), "utf8")).files;
    const found = await page.evaluate(async (files) => {
      const { decoded } = await import("/decode.js");
      const out = [];
      for (const file of files) {
        const bytes = Uint8Array.from(atob(file.base64), (char) => char.charCodeAt(0));
        out.push({ name: file.name, ...(await decoded(bytes, file)) });
      }
      return out;
    }, files);
    await server.close();
    return { found };
  },
};

/** Rules of the Web Content Accessibility Guidelines that a machine can check. */
async function accessible(page) {
  const axe = await readFile(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
  await page.evaluate(axe);
  const { violations } = await page.evaluate(() => globalThis.axe.run(document));
  return violations.map((item) => `${item.id}: ${item.nodes.map((node) => node.html).join(" ")}`.slice(0, 300));
}

const name = process.argv[2];
const given = JSON.parse(process.argv[3]);
// pages of 64 KiB that WebAssembly gets at most: a device with little memory
const pages = given.wasmPages ? [`--js-flags=--wasm-max-mem-pages=${given.wasmPages}`] : [];
const gpu = name === "gpu" ? ["--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader"] : [];
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--no-sandbox", "--use-fake-device-for-media-stream", "--enable-unsafe-swiftshader", ...gpu, ...pages],
});
try {
  console.log(JSON.stringify(await scenarios[name](browser, given)));
} finally {
  await browser.close();
}
