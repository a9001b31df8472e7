/**
 * The build: the page and its worker, and a service worker at a fixed address that knows every file of this build.
 * `--port` and `--host` are Vite's; it listens on this machine alone.
 */

import { createHash } from "node:crypto";
import type { Plugin } from "vite";
import { defineConfig } from "vitest/config";

const PLACE = "__FILES_OF_THIS_BUILD__";
/** Makes SharedArrayBuffer, and with it threads, available; the service worker adds the same elsewhere. */
const ISOLATED = { "Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp" };

/** Puts the list of files (less those for graphics processors, which are large and seldom asked for), and a version made of their names (which hold hashes) and the page, into sw.js. */
function filesOfBuild(): Plugin {
  return {
    name: "files-of-build",
    enforce: "post",
    generateBundle(_, files) {
      const worker = files["sw.js"];
      if (worker?.type !== "chunk") this.error("the build has no sw.js");
      const names = Object.keys(files).filter((name) => name !== "sw.js" && !/\.map$|asyncify|webgpu/.test(name));
      const page = files["index.html"];
      const version = createHash("sha256").update(names.join("\n")).update(worker.code);
      if (page?.type === "asset") version.update(page.source);
      const list = ["./", ...names.filter((name) => name !== "index.html"), "manifest.webmanifest", "icon.svg"];
      const told = JSON.stringify({ version: version.digest("hex").slice(0, 12), files: list });
      worker.code = worker.code.replace(new RegExp(`["'\`]${PLACE}["'\`]`), () => told);
    },
  };
}

export default defineConfig({
  base: "./",
  plugins: [filesOfBuild()],
  resolve: { conditions: ["onnxruntime-web-use-extern-wasm", "module", "browser", "development|production"] },
  worker: { format: "es" },
  server: { host: "127.0.0.1", headers: ISOLATED },
  preview: { host: "127.0.0.1", headers: ISOLATED },
  build: {
    target: "es2022",
    assetsInlineLimit: 0,
    rolldownOptions: {
      input: { index: "index.html", sw: "src/sw.ts" },
      output: { entryFileNames: (chunk) => (chunk.name === "sw" ? "sw.js" : "assets/[name]-[hash].js") },
    },
  },
  test: { include: ["tests/**/*.test.ts"] },
});
