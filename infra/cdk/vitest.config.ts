import { defineConfig } from "vitest/config";

// Synthesis with cdk-nag takes seconds on a small machine; one process keeps it to one.
export default defineConfig({ test: { testTimeout: 60_000, hookTimeout: 60_000, include: ["test/**/*.test.ts"], fileParallelism: false } });
