// The gate: `npm test`. Runs each step, stops at the first that fails and shows its output, and ends with the counts of
// the test run as `N passed, N failed`. Arguments pick steps by name: `node scripts/check.mjs lint types`.
import { spawn } from 'node:child_process'
import { mkdirSync, readFileSync, rmSync } from 'node:fs'

const report = `.tmp/vitest-${process.pid}.json`

/** Quiet steps show their output only when they fail. */
const steps = [
  { name: 'lockfile', command: ['node', 'scripts/complete-lockfile.mjs', '--check'], quiet: true },
  { name: 'lint', command: ['biome', 'ci', '--error-on-warnings', '.'], quiet: true },
  { name: 'types', command: ['tsc', '--noEmit'], quiet: true },
  { name: 'types', command: ['tsc', '--noEmit', '-p', 'src/pages/client'], quiet: true },
  { name: 'knip', command: ['knip'], quiet: true },
  { name: 'openapi', command: ['npm', 'run', '--silent', 'openapi:check'], quiet: true },
  {
    name: 'openapi-lint',
    command: ['redocly', 'lint', '--extends=recommended', '--max-problems=20', 'openapi.json'],
    quiet: true,
  },
  { name: 'migrations', command: ['node', 'scripts/migrations-check.mjs'], quiet: true },
  { name: 'build', command: ['node', 'scripts/build.mjs', '--types'], quiet: true },
  {
    name: 'tests',
    command: ['vitest', 'run', '--allowOnly=false', '--reporter=default', '--reporter=json', `--outputFile.json=${report}`],
    quiet: false,
  },
]

/** Runs one command with node_modules/.bin on the path; resolves to its exit code and what it printed (nothing when not quiet). */
function run([program, ...args], quiet) {
  return new Promise((resolve) => {
    const env = {
      ...process.env,
      PATH: `${process.cwd()}/node_modules/.bin:${process.env.PATH}`,
      REDOCLY_TELEMETRY: 'off',
      REDOCLY_SUPPRESS_UPDATE_NOTICE: 'true',
    }
    const child = spawn(program, args, { env, stdio: ['ignore', quiet ? 'pipe' : 'inherit', quiet ? 'pipe' : 'inherit'] })
    const output = []
    child.stdout?.on('data', (chunk) => output.push(chunk))
    child.stderr?.on('data', (chunk) => output.push(chunk))
    child.on('error', (error) => resolve({ code: 1, output: String(error) }))
    child.on('close', (code) => resolve({ code: code ?? 1, output: Buffer.concat(output).toString() }))
    for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, () => child.kill(signal))
  })
}

/** The counts of the test run; null when it did not get as far as writing them. */
function testCounts() {
  try {
    const { numPassedTests, numFailedTests, numPendingTests, numTodoTests } = JSON.parse(readFileSync(report, 'utf8'))
    return { passed: numPassedTests, failed: numFailedTests, skipped: numPendingTests + numTodoTests }
  } catch {
    return null
  } finally {
    rmSync(report, { force: true })
  }
}

const wanted = process.argv.slice(2)
const unknown = wanted.filter((name) => !steps.some((step) => step.name === name))
if (unknown.length > 0) throw new Error(`no such step: ${unknown.join(', ')}`)

mkdirSync('.tmp', { recursive: true })
const summary = []
let failedStep = null
for (const step of steps) {
  if (wanted.length > 0 && !wanted.includes(step.name)) continue
  const startMs = performance.now()
  const { code, output } = await run(step.command, step.quiet)
  const seconds = ((performance.now() - startMs) / 1000).toFixed(1)
  summary.push(`${code === 0 ? 'ok  ' : 'FAIL'} ${step.name.padEnd(12)} ${seconds.padStart(6)} s`)
  if (code === 0) continue
  failedStep = step.name
  if (output !== '') console.log(output)
  break
}

const counts = testCounts() ?? { passed: 0, failed: 0, skipped: 0 }
// A test run that left no result is not a success.
if (failedStep === null && counts.passed === 0 && summary.some((line) => line.includes(' tests '))) failedStep = 'tests'
console.log(`\n${summary.join('\n')}`)
if (counts.skipped > 0) console.log(`${counts.skipped} skipped`)
// A file that cannot be loaded, or a step before the tests, fails without a failed test: it still counts as one.
const failed = failedStep === null ? counts.failed : Math.max(1, counts.failed)
console.log(`${counts.passed} passed, ${failed} failed`)
process.exitCode = failed === 0 ? 0 : 1
