import { defineConfig } from "vite";

/** `tests/decode.ts` as one file for a page; DECODE_OUT says where. */
export default defineConfig({
  logLevel: "error",
  publicDir: false,
  build: {
    outDir: process.env.DECODE_OUT ?? "node_modules/.decode",
    emptyOutDir: false,
    lib: { entry: "tests/decode.ts", formats: ["es"], fileName: "decode" },
  },
});
