import { defineConfig } from 'drizzle-kit'

/** Each room declares its tables; `npm run migrations:generate` turns a change of them into the next file of migrations/. */
export default defineConfig({ schema: './src/*/tables.ts', out: './migrations', dialect: 'postgresql' })
