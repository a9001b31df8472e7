import { defineConfig } from "vite";

/** The kit as an app ships it (bundled, optimised), run by Node. */
export default defineConfig({
  logLevel: "error",
  build: { ssr: "bench/speed.ts", outDir: "node_modules/.bench", emptyOutDir: true },
});
