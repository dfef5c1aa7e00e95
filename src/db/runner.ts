import { type SQL, sql } from 'drizzle-orm'

/** Runs one statement with `$n` placeholders: a pool, an open transaction of the driver, or drizzle's (`runnerOf`). */
export type Runner = {
  unsafe(
    text: string,
    values: (string | null)[],
    options: { prepare: boolean },
  ): PromiseLike<readonly Readonly<Record<string, unknown>>[]>
}

/** A drizzle transaction as a runner, so that rows of two rooms can be written together. */
export const runnerOf = (tx: { execute(query: SQL): PromiseLike<readonly Readonly<Record<string, unknown>>[]> }): Runner => ({
  unsafe(text, values) {
    const parts = text.split(/\$(\d+)/)
    const chunks = parts.map((part, index) => (index % 2 === 0 ? sql.raw(part) : sql`${values[Number(part) - 1] ?? null}`))
    return tx.execute(sql.join(chunks))
  },
})
