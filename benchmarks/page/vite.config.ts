// The page is plain files: relative addresses, so that it can lie in any folder of any server.
import { defineConfig } from "vitest/config";

const conditions = ["onnxruntime-web-use-extern-wasm", "module", "browser", "development|production"];
// The bundled forms of onnxruntime-web start their threads from their own file, which would be this page once bundled.

export default defineConfig({
  base: "./",
  resolve: { conditions },
  build: { target: "es2022", assetsInlineLimit: 0, chunkSizeWarningLimit: 1000 },
  worker: { format: "es" },
  test: { include: ["test/*.test.ts"], environment: "node" },
});
