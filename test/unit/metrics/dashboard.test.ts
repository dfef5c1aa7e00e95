import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { Metrics } from '../../../src/metrics/metrics.ts'

const dashboard = JSON.parse(readFileSync(join(import.meta.dirname, '../../../docs/grafana/gvnr.json'), 'utf8')) as {
  panels: { title: string; targets: { expr: string }[] }[]
}
/** Words of PromQL that stand in the expressions. */
const WORDS = new Set(['sum', 'max', 'rate', 'by', 'histogram_quantile', 'le'])

const stats = { batches: 0, commands: 0, conflicts: 0, locked: 0, failures: 0 }
const metrics = new Metrics({
  engine: () => ({ stats, depth: 0 }),
  figures: { current: async () => new Map() },
  governance: () => ({ isUsable: true, pending: 0 }),
})
metrics.start()
const names = new Set(metrics.names)
const namesIn = (expr: string): string[] =>
  (expr.replaceAll(/\{[^}]*\}|\[[^\]]*\]|by \([^)]*\)|\b[\d.]+e\d+\b/g, '').match(/[a-z_][a-z0-9_]*/g) ?? []).filter(
    (word) => !WORDS.has(word),
  )

describe('the Grafana dashboard', () => {
  const used = dashboard.panels.flatMap(({ targets }) => targets.flatMap(({ expr }) => namesIn(expr)))

  it('shows metrics that exist', () => {
    expect(used.length).toBeGreaterThan(20)
    expect(used.filter((name) => !names.has(name) && !names.has(name.replace(/_(bucket|sum|count)$/, '')))).toEqual([])
  })

  it('shows every metric of the product', () => {
    const shown = new Set(used.flatMap((name) => [name, name.replace(/_(bucket|sum|count)$/, '')]))
    expect([...names].filter((name) => !/^(process|nodejs)_/.test(name) && !shown.has(name))).toEqual([])
  })

  it('is described in the operations guide, metric by metric', () => {
    const guide = readFileSync(join(import.meta.dirname, '../../../docs/operations.md'), 'utf8')
    expect([...names].filter((name) => !/^(process|nodejs)_/.test(name) && !guide.includes(`\`${name}\``))).toEqual([])
  })
})
