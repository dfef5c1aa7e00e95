import { execFileSync } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { Cleanup } from '../servers.ts'
import { FAULT_NAMES } from './faults/index.ts'
import { halfRate } from './half-rate.ts'
import { soak } from './soak.ts'

const USAGE = `npm run soak -- [options]

  --minutes M     how long (default 2)
  --rate R        arrivals a second (default 100)
  --tenants T     accounts (default 60)
  --servers N     server processes (default 2)
  --fault NAME    ${FAULT_NAMES.join(', ')} (default none)
  --every S       seconds between strikes, instead of the fault's own
  --seed N        the same draw again
  --half-rate     instead: how long a clearance takes at half of the most that the server can do
  --no-build      use the dist folder as it is
  --no-save       leave bench/results as they are
`
const ROOT = join(import.meta.dirname, '../..')

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      minutes: { type: 'string', default: '2' },
      rate: { type: 'string', default: '100' },
      tenants: { type: 'string', default: '60' },
      servers: { type: 'string', default: '2' },
      fault: { type: 'string', default: 'none' },
      every: { type: 'string' },
      seed: { type: 'string' },
      'half-rate': { type: 'boolean' },
      'no-build': { type: 'boolean' },
      'no-save': { type: 'boolean' },
      help: { type: 'boolean' },
    },
  })
  if (values.help) {
    console.log(USAGE)
    return
  }
  if (!values['no-build']) execFileSync(process.execPath, [join(ROOT, 'scripts/build.mjs')], { cwd: ROOT, stdio: 'inherit' })
  const cleanup = new Cleanup()
  for (const signal of ['SIGINT', 'SIGTERM'] as const)
    process.once(signal, () => void cleanup.stopAll().finally(() => process.exit(1)))
  const folder = cleanup.add(mkdtempSync(join(tmpdir(), 'gvnr-soak-')), (path) => rmSync(path, { recursive: true, force: true }))
  const shared = {
    entry: join(ROOT, 'dist/main.js'),
    folder,
    results: values['no-save'] ? null : join(ROOT, 'bench/results'),
    command: ['npm run soak', ...(process.argv.length > 2 ? ['--', ...process.argv.slice(2)] : [])].join(' '),
  }
  try {
    if (values['half-rate']) return await halfRate(cleanup, shared)
    const isSound = await soak(cleanup, {
      ...shared,
      minutes: positive('minutes', values.minutes),
      rate: positive('rate', values.rate),
      tenants: positive('tenants', values.tenants),
      servers: positive('servers', values.servers),
      fault: values.fault,
      every_s: values.every === undefined ? null : positive('every', values.every),
      seed: values.seed === undefined ? Math.floor(Math.random() * 2 ** 31) : Number(values.seed),
    })
    if (!isSound) process.exitCode = 1
  } finally {
    await cleanup.stopAll()
  }
}

function positive(name: string, given: string): number {
  const value = Number(given)
  if (!(value > 0)) throw new Error(`--${name} ${given}: must be above zero`)
  return value
}

main().then(
  // A fault may leave connections that never end.
  () => process.exit(),
  (error: unknown) => {
    console.error(error)
    process.exit(1)
  },
)
