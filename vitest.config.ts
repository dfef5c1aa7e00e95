import { defineConfig } from 'vitest/config'

/** Tests of a database or of whole processes share one PostgreSQL; unit tests start nothing. */
const withPostgres = { globalSetup: ['test/support/global-setup.ts'], testTimeout: 60_000, hookTimeout: 60_000 }

export default defineConfig({
  test: {
    pool: 'forks',
    // Two cores, and each worker keeps a PGlite and a PostgreSQL busy.
    maxWorkers: 2,
    teardownTimeout: 30_000,
    testTimeout: 15_000,
    restoreMocks: true,
    unstubEnvs: true,
    expect: { requireAssertions: true },
    projects: [
      { extends: true, test: { name: 'unit', include: ['test/unit/**/*.test.{ts,tsx}'] } },
      { extends: true, test: { name: 'integration', include: ['test/integration/**/*.test.{ts,tsx}'], ...withPostgres } },
      { extends: true, test: { name: 'e2e', include: ['test/e2e/**/*.test.{ts,tsx}'], ...withPostgres, testTimeout: 120_000 } },
    ],
  },
})
