// The full run of the fuzzers: `npm run fuzz -- --cases 1000000`. Each database gets half of the cases, in parts, each with a seed of its own;
// what it saw is added to .tmp/fuzz.json, so that a run may be interrupted and continued. Needs a built server: `npm run build`.
import { spawnSync } from 'node:child_process'
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { parseArgs } from 'node:util'

const FILE = '.tmp/fuzz.json'
const { values } = parseArgs({
  options: { cases: { type: 'string', default: '1000000' }, part: { type: 'string', default: '100000' } },
})
const [cases, part] = [Number(values.cases), Number(values.part)]
if (!Number.isInteger(cases) || !Number.isInteger(part) || cases < 2 || part < 1) throw new Error('--cases and --part are counts')

/** The lines that test/e2e/fuzz.test.ts prints for people. */
const LINE = /^seed (\d+) \[(\w+)\]: (\{.*\}), slowest (\d+) ms, grown by (-?\d+) MB$/gm

function saved() {
  try {
    return JSON.parse(readFileSync(FILE, 'utf8'))
  } catch {
    return { cases: 0, slowest_ms: 0, grown_mb: 0, statuses: {}, seeds: [] }
  }
}

mkdirSync('.tmp', { recursive: true })
const total = saved()
while (total.cases < cases) {
  const each = Math.min(part, Math.ceil((cases - total.cases) / 2))
  const { status, stdout } = spawnSync('node_modules/.bin/vitest', ['run', '--project', 'e2e', 'test/e2e/fuzz.test.ts'], {
    env: { ...process.env, E2E_FUZZ: String(each), NO_COLOR: '1' },
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  const lines = [...stdout.matchAll(LINE)]
  if (status !== 0 || lines.length !== 2) {
    process.stdout.write(stdout)
    throw new Error(`the fuzzer found something, or did not run, after ${total.cases} cases`)
  }
  for (const [, seed, kind, statuses, slowest_ms, grown_mb] of lines) {
    for (const [code, count] of Object.entries(JSON.parse(statuses))) total.statuses[code] = (total.statuses[code] ?? 0) + count
    total.cases += each
    total.slowest_ms = Math.max(total.slowest_ms, Number(slowest_ms))
    total.grown_mb = Math.max(total.grown_mb, Number(grown_mb))
    total.seeds.push(`${seed} ${kind}`)
  }
  writeFileSync(FILE, `${JSON.stringify(total, null, 1)}\n`)
  console.log(`${total.cases} of ${cases} cases: ${JSON.stringify(total.statuses)}, slowest ${total.slowest_ms} ms`)
}
