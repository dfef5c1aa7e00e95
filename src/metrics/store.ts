import { Parameters } from '../db/array-literal.ts'
import type { Database } from '../db/client.ts'

export type Figure = { readonly name: string; readonly value: number; readonly atMs: number }

export async function readFigures({ sql, prepare }: Database): Promise<Figure[]> {
  const rows = await sql.unsafe('select name, value, at_ms from figures', [], { prepare })
  return rows.map((row) => ({ name: row.name as string, value: Number(row.value), atMs: Number(row.at_ms) }))
}

export async function writeFigures({ sql, prepare }: Database, figures: readonly Figure[]): Promise<void> {
  const p = new Parameters()
  const names = p.add('text', figures, (f, a) => a.text(f.name))
  const values = p.add('text', figures, (f, a) => a.text(String(f.value)))
  await sql.unsafe(
    `insert into figures (name, value, at_ms) select name, value::float8, at_ms from unnest(${names}, ${values}, ${p.add('bigint', figures, (f, a) => a.raw(f.atMs))}) u(name, value, at_ms)
     on conflict (name) do update set (value, at_ms) = (excluded.value, excluded.at_ms)`,
    p.values(),
    { prepare },
  )
}
